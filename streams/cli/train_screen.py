"""`weir train-screen`: learn a screen from labelled rows, and say what it is worth beside the old one."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from streams.cli import text_rows
from streams.cli.terminal import inert, plain, plain_json
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.screen.compare import Difference, Figures
    from inference.screen.model import Screen
    from inference.screen.train import Example

_FEW = 200  # held-out rows of a kind, below which figures are mostly chance


@dataclass(frozen=True, slots=True)
class _Report:
    """held_out: rows of each kind that no screen saw: to be flagged, and not. two_ways: texts that some rows flag and
    others do not. old: figures of the old screen, None if there is none. saw: the old one may have seen these rows.
    """

    screen: "Screen"
    sha256: str
    out: Path
    held_out: tuple[int, int]
    two_ways: int
    new: list["Figures"]
    old: list["Figures"] | None
    difference: "Difference | None"
    saw: bool


def train_screen_command(
    data: Annotated[Path, typer.Option("--data", help="JSON lines with a text and its label.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, .safetensors.")],
    text_field: Annotated[str, typer.Option("--text-field", help="Field that has the text.")] = "text",
    label_field: Annotated[
        str, typer.Option("--label-field", help="Field that has the label, or the share of votes to flag, 0 to 1.")
    ] = "label",
    language_field: Annotated[str, typer.Option("--language-field", help="Field that has the language.")] = "lang",
    flagged: Annotated[str, typer.Option("--flagged", help="Labels to be flagged: hate,offensive.")] = "",
    categories: Annotated[
        str, typer.Option("--categories", help="Labels to give a probability of their own: hate,spam.")
    ] = "",
    against: Annotated[Path | None, typer.Option("--against", help="Screen to compare with.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name; default: that of the file.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Default: one after that of --against.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the new file, for its card.")] = "",
    trained_on: Annotated[str, typer.Option("--trained-on", help="Whose data, for its card; default: --data.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed and rows give the same file.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Learn from labelled rows which texts are to be flagged, and write a screen.

    A fifth of the texts is held out, always the same ones: no screen is fitted to them, so old and new are measured on
    texts that neither has seen. Another tenth calibrates the probabilities.
    """
    _needs_extra()
    from inference.screen.errors import TooFewRows
    from inference.screen.model import Card, Features, load

    old = load(against) if against is not None else None
    wanted = [label for label in categories.split(",") if label]
    examples = _examples(data, text_field, label_field, language_field, [x for x in flagged.split(",") if x], wanted)
    card = Card(
        name=name or out.stem,
        version=version or _next(old),
        features=Features(),
        categories=tuple(wanted),
        trained_on=(trained_on or data.name,),
        licence=licence,
        seed=seed,
    )
    try:
        with Console(stderr=True).status(f"learning from {len(examples)} rows"):
            report = _train(examples, card, old, out)
    except TooFewRows as error:
        raise WorkerMisconfigured(f"{data}: {error}") from error
    if as_json:
        typer.echo(plain_json(orjson.dumps(_as_dict(report)).decode()))
    else:
        _show(report)


def _needs_extra() -> None:
    try:
        import inference.screen.compare  # noqa: F401
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"weir train-screen needs the extra `screen`: pip install 'weir[screen]' ({error})"
        ) from error


def _next(old: "Screen | None") -> str:
    if old is None:
        return "1"
    return str(int(old.card.version) + 1) if old.card.version.isdecimal() else f"{old.card.version}+1"


def _examples(
    file: Path, text_field: str, label_field: str, language_field: str, flagged: Sequence[str], wanted: Sequence[str]
) -> list["Example"]:
    """Raises WorkerMisconfigured."""
    from inference.screen.train import Example

    def parse(row: Mapping[str, Any], number: int) -> Example:
        text, label = text_rows.text_of(row, text_field, number), row.get(label_field)
        told = str(label) if isinstance(label, str) else ""
        return Example(text, _share(row, label_field, flagged, number), 1.0, str(row.get(language_field) or ""), told)

    examples = text_rows.read(file, parse)
    labels = {example.label for example in examples}
    if missing := [label for label in (*flagged, *wanted) if label not in labels]:
        raise WorkerMisconfigured(
            f"{file}: no row has the label {', '.join(map(repr, missing))}; there are: "
            f"{', '.join(map(repr, sorted(labels - {''}))) or 'none'}"
        )
    return examples


def _share(row: Mapping[str, Any], field: str, flagged: Sequence[str], number: int) -> float:
    """To be flagged: 1 or 0, or a share of votes. Raises ValueError."""
    if field not in row or row[field] is None:
        raise ValueError(f"row {number} has no label in the field {field!r}; its fields are: {', '.join(row)}")
    label = row[field]
    if flagged:
        return float(text_rows.text_of(row, field, number) in flagged)
    if isinstance(label, bool | int | float) and 0 <= label <= 1:
        return float(label)
    raise ValueError(
        f"row {number}: {field} {label!r} is neither true or false nor a number from 0 to 1; "
        "--flagged says which labels are to be flagged"
    )


def _train(examples: Sequence["Example"], card: Any, old: "Screen | None", out: Path) -> _Report:
    from inference.screen import compare, train

    parts = train.split(examples)
    screen = train.fit(parts, card)
    texts, flags = [example.text for example in parts.held_out], compare.flags(parts.held_out)
    new = screen.risks(texts)
    before = old.risks(texts) if old is not None else None
    kinds = (int(flags.sum()), int((~flags).sum()))
    return _Report(
        screen,
        _write(out, screen),
        out,
        kinds,
        _two_ways(examples),
        compare.by_language(parts.held_out, new),
        None if before is None else compare.by_language(parts.held_out, before),
        None if before is None or min(kinds) < train.LEAST else compare.difference(flags, before, new),
        old is not None and old.card.split != train.SPLIT,
    )


def _two_ways(examples: Sequence["Example"]) -> int:
    """How many texts some rows flag and others do not."""
    kinds: dict[str, set[bool]] = {}
    for example in examples:
        kinds.setdefault(example.text, set()).add(example.flagged >= 0.5)
    return sum(len(found) > 1 for found in kinds.values())


def _write(out: Path, screen: "Screen") -> str:
    """Write the whole file or none; its SHA-256. Raises WorkerMisconfigured."""
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        part.write_bytes(content := screen.dump())
        part.replace(out)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise WorkerMisconfigured(f"{out} cannot be written: {error}") from error
    return hashlib.sha256(content).hexdigest()


def _show(report: _Report) -> None:
    card = report.screen.card
    table = Table("screen", "language", "rows", "to be flagged", "AUROC", "average precision", "passed at 95%", "Brier")
    table.title = f"{inert(card.name)} {inert(card.version)}, on rows that no screen was fitted to"
    for screen, found in (("old", report.old or []), ("new", report.new)):
        for each in found:
            rates = ("-" if rate is None else f"{rate:.3f}" for rate in (each.auroc, each.precision, each.passed))
            table.add_row(
                screen, inert(each.language) or "all", str(each.rows), str(each.flagged), *rates, f"{each.brier:.3f}"
            )
    Console().print(table)
    typer.echo("passed at 95%: rows with less risk than all but 5% of those to be flagged; more is better.")
    for line in _notes(report):
        typer.echo(line)
    if report.difference is None or report.difference.better:
        typer.echo(f"\ncascade:\n  screen: {plain(str(report.out))}\n  sha256: {report.sha256}")


def _notes(report: _Report) -> list[str]:
    lines = []
    if min(report.held_out) < _FEW:
        yes, no = report.held_out
        lines.append(
            f"Too few rows to tell much: {yes} of those held out are to be flagged, {no} are not; "
            f"it takes {_FEW} of each."
        )
    if report.two_ways:
        lines.append(f"{report.two_ways} texts are labelled both ways.")
    if report.saw:
        lines.append(
            "The old screen may have been fitted to these rows, which flatters it: its card names no such split."
        )
    if (lead := report.difference) is not None:
        told = f"AUROC {lead.value:+.4f}, 95% interval {lead.low:+.4f} to {lead.high:+.4f}"
        word = "better" if lead.better else "worse" if lead.high < 0 else "not shown to be better"
        lines.append(f"The new screen is {word} than the old one: {told}.")
        if not lead.better:
            lines.append(f"Keep the old one. The new one is in {plain(str(report.out))} all the same.")
    return lines


def _as_dict(report: _Report) -> dict[str, Any]:
    return {
        "card": report.screen.card.model_dump(),
        "file": str(report.out),
        "sha256": report.sha256,
        "held_out": {"flagged": report.held_out[0], "others": report.held_out[1]},
        "labelled_both_ways": report.two_ways,
        "new": [asdict(each) for each in report.new],
        "old": None if report.old is None else [asdict(each) for each in report.old],
        "old_may_have_seen_them": report.saw,
        "difference": report.difference and asdict(report.difference) | {"better": report.difference.better},
        "too_few_to_tell": min(report.held_out) < _FEW,
    }
