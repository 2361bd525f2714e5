"""Rows that people labelled, from JSON lines of any field names."""

import hashlib
import random
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from inference.judgement import Passage
from streams.cli.terminal import plain
from streams.errors import WorkerMisconfigured
from streams.pipeline import Context
from streams.produce import read_rows

_TOLD = 5  # rows that a message names
_KEY_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Fields:
    """What the fields of the rows are called. Only text and label must be there."""

    text: str = "text"
    label: str = "label"
    lang: str = "lang"
    id: str = "id"
    thread: str = "thread"
    document: str = "document"


@dataclass(frozen=True, slots=True)
class Row:
    """number: in the file, from 1. label: as the stage calls it. key: of its words, and of those before it; rows that
    repeat them have a number behind it.
    """

    number: int
    passage: Passage
    label: str
    lang: str
    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """rows: that have a text and a label. without: numbers of rows that lack one, by field. sha256: of the file."""

    rows: list[Row]
    without: Mapping[str, list[int]]
    sha256: str


def mapping_of(text: str) -> dict[str, str]:
    """`theirs=ours,theirs=ours` as a mapping. Raises WorkerMisconfigured."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if not all(found and old and new for old, found, new in pairs):
        raise WorkerMisconfigured(f"--map {text!r} is not of the form theirs=ours,theirs=ours")
    return {old: new for old, _, new in pairs}


def read(file: Path, fields: Fields, names: Mapping[str, str], context: Context) -> Labelled:
    """The rows of a file, with what came before them in their thread. names: their labels to ours.

    Raises WorkerMisconfigured where the file cannot be read or is not JSON lines, or has no row with a field that is
    needed.
    """
    threads: dict[str, deque[str]] = {}
    without: dict[str, list[int]] = defaultdict(list)
    seen: Counter[str] = Counter()
    there: Counter[str] = Counter()
    rows: list[Row] = []
    count = 0
    try:
        content = file.read_bytes()
        for count, row in enumerate(read_rows(content.decode().split("\n")), 1):
            there.update(row.keys())
            text, label = _text(row.get(fields.text)), _name(row.get(fields.label))
            if not text or not label:
                without[fields.text if not text else fields.label].append(count)
                continue
            document = _text(row.get(fields.document))
            passage = _passage(text, row.get(fields.thread), document, threads, context)
            words = hashlib.sha256(orjson.dumps([text, passage.context, document])).hexdigest()[:_KEY_DIGITS]
            key = f"{words}-{seen[words] + 1}" if seen[words] else words
            seen[words] += 1
            lang, id_ = _name(row.get(fields.lang)), _name(row.get(fields.id))
            rows.append(Row(count, passage, names.get(label, label), lang, id_, key))
    except (OSError, ValueError) as error:
        raise WorkerMisconfigured(f"{file}: {error}") from error
    if count:
        _refuse_absent(file, fields, there)
    return Labelled(rows, dict(without), hashlib.sha256(content).hexdigest())


def refuse_without(file: Path, found: Labelled) -> None:
    """Raises WorkerMisconfigured for the first row that lacks something."""
    lacking = sorted((numbers[0], field) for field, numbers in found.without.items())
    if lacking:
        number, field = lacking[0]
        raise WorkerMisconfigured(f"{file}: row {number} has no text in the field {field!r}")


def refuse_unknown(file: Path, rows: Sequence[Row], stage: str, labels: Sequence[str], more: str = "") -> None:
    """Raises WorkerMisconfigured for rows with labels that the stage does not have. more: what else can be done."""
    strange = Counter(row.label for row in rows if row.label not in labels)
    if strange:
        told = ", ".join(f"{label!r} ({count} rows)" for label, count in strange.most_common())
        raise WorkerMisconfigured(
            f"{file}: not labels of stage {stage!r}: {told}; its labels are: {', '.join(labels)}; "
            f"--map theirs=ours says which is meant{more}"
        )


def contradictory(rows: Sequence[Row]) -> set[int]:
    """Places of rows whose words stand with several labels."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[words_of(row)].add(row.label)
    return {place for place, row in enumerate(rows) if len(labels[words_of(row)]) > 1}


def words_of(row: Row) -> str:
    """The key without its number: the same for rows that repeat each other."""
    return row.key.partition("-")[0]


def sample(rows: list[Row], count: int, seed: int = 1) -> list[Row]:
    """A random sample of so many rows; all of them for 0 or if there are no more. The same for the same seed."""
    return random.Random(seed).sample(rows, count) if 0 < count < len(rows) else rows  # noqa: S311


def rows_told(numbers: Collection[int]) -> str:
    """`3 rows (4, 8, 15)`."""
    first = ", ".join(map(str, sorted(numbers)[:_TOLD]))
    return f"{len(numbers)} row{'s' if len(numbers) != 1 else ''} ({first}{', …' if len(numbers) > _TOLD else ''})"


def _refuse_absent(file: Path, fields: Fields, there: Mapping[str, int]) -> None:
    """A field that no row has is a mistake in an option; the name by which most data has it need not be there."""
    usual = Fields()
    for name in ("text", "label", "lang", "id"):
        field = getattr(fields, name)
        if field not in there and (field != getattr(usual, name) or name in ("text", "label")):
            known = ", ".join(plain(each) for each in sorted(there))
            raise WorkerMisconfigured(
                f"{file}: no row has the field {field!r} (--{name}-field); the fields are: {known}"
            )


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else ""


def _name(value: Any) -> str:
    """A label, a language or an id as text: data has numbers, shares of votes and truth values as well."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else _text(value)


def _passage(text: str, thread: object, document: str, threads: dict[str, deque[str]], context: Context) -> Passage:
    if not thread or not context.messages:
        return Passage(text, document=document)
    earlier = threads.setdefault(str(thread), deque(maxlen=context.messages))
    passage = Passage(text, list(earlier), context.tokens, document)
    earlier.append(text[-context.characters :])
    return passage
