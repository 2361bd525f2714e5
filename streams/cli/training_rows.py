"""What a screen learns from: labelled rows of a file, or what the store knows of a stage."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from clickhouse_connect.driver.client import Client

from sinks import labelled as store
from sinks.labelled import Band, Labelled
from streams.cli import labelled
from streams.cli.labelled import Fields, Row
from streams.errors import WorkerMisconfigured
from streams.pipeline import Context

if TYPE_CHECKING:
    from inference.screen.train import Example, Parts

PASSES = "allow"  # the decision of `moderate` that lets a text pass


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows of a stage that somebody judged. overturned: of those that people reviewed, where they say other than the
    verdict does.
    """

    by_model: int
    by_people: int
    overturned: int


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """origin: where they come from, in words. two_ways: texts that some rows flag and others do not. seen: None for a
    file. more: rows of another origin to learn from, which say nothing of the traffic, so nothing is measured on them.
    """

    examples: list["Example"]
    origin: str
    two_ways: int
    seen: Seen | None = None
    more: "TrainingRows | None" = None

    @property
    def origins(self) -> tuple[str, ...]:
        """Where they and the others come from."""
        return (self.origin,) if self.more is None else (self.origin, *self.more.origins)

    def parts(self) -> "Parts":
        """What to fit, to calibrate and to measure on.

        Weights are for probabilities and figures. Whether the model was asked depends on a text's risk, so its own
        words explain it, and a fit to them is right without weights, which would only make it less sure (Shimodaira
        2000; `bench.flywheel` shows it).
        """
        from inference.screen.train import split

        parts = split(self.examples)
        more = [] if self.more is None else split(self.more.examples).fit
        return replace(parts, fit=[*(replace(each, weight=1.0) for each in parts.fit), *more])

    def refuse_absent(self, labels: Sequence[str]) -> None:
        """Raises WorkerMisconfigured for labels that no row has."""
        _refuse_absent(" and ".join(self.origins), [*self.examples, *(self.more.examples if self.more else ())], labels)


def of_file(file: Path, fields: Fields, flagged: Sequence[str]) -> TrainingRows:
    """Rows whose label is one of `flagged` or not, or without these a share of votes. Raises WorkerMisconfigured."""
    from inference.screen.train import Example

    found = labelled.read(file, fields, {}, Context())
    labelled.refuse_without(file, found)
    examples = [
        Example(row.passage.text, _share(file, fields, row, flagged), 1.0, row.lang, row.label) for row in found.rows
    ]
    _refuse_absent(str(file), examples, flagged)
    kinds: dict[str, set[bool]] = defaultdict(set)
    for example in examples:
        kinds[example.text].add(example.flagged >= 0.5)
    return TrainingRows(examples, file.name, sum(len(kind) > 1 for kind in kinds.values()))


def of_store(client: Client, pipeline: str, stage: str, since: datetime) -> TrainingRows:
    """What the model and people said of a stage's texts. Raises WorkerMisconfigured, and as the client does."""
    from inference.cascade.weights import BANDS

    ask = partial(store.labelled, client, pipeline, stage, PASSES, since, BANDS)
    rows = [row for page in ask() for row in page]
    origin = f"{pipeline}/{stage}"
    if not rows:
        raise WorkerMisconfigured(
            f"{origin}: the store has no verdict of this stage that a model or a person gave, with its words, since "
            f"{since:%Y-%m-%d}; a screen learns from what a worker judged: let it run without a cascade for a while, "
            "name an earlier --since, or look whether WEIR_CLICKHOUSE_URL and WEIR_CLICKHOUSE_DATABASE are the worker's"
        )
    return from_judged(rows, store.rows_by_band(client, pipeline, stage, since, BANDS), origin)


def from_judged(rows: Iterable[Labelled], bands: Mapping[Band, tuple[int, int]], origin: str) -> TrainingRows:
    """Rows as examples, one for each text however often it came.

    Where people looked at a text, the model's word on it does not count. An example weighs as much as the traffic that
    it stands for, on average 1; what only a person judged stands for itself, since nobody knows why that row was shown
    to them.
    """
    from inference.screen.train import Example

    weights = _weights(bands)
    by_text: dict[str, list[Labelled]] = defaultdict(list)
    for row in rows:
        by_text[row.text].append(row)
    examples, two_ways = [], 0
    for text, copies in by_text.items():
        people = [row for row in copies if row.by == "person"]
        said = people or copies
        share = sum(row.flagged for row in said) / len(said)
        two_ways += 0 < share < 1
        weight = sum(weights.get(row.band, 1.0) if row.judged else 1.0 for row in copies) / len(copies)
        examples.append(Example(text, share, weight, said[-1].lang, said[-1].label))
    mean = sum(example.weight for example in examples) / max(1, len(examples))
    examples = [Example(each.text, each.flagged, each.weight / mean, each.language, each.label) for each in examples]
    every = [row for copies in by_text.values() for row in copies]
    by_people = sum(row.by == "person" for row in every)
    seen = Seen(len(every) - by_people, by_people, sum(row.overturned for row in every))
    return TrainingRows(examples, origin, two_ways, seen)


def _weights(bands: Mapping[Band, tuple[int, int]]) -> dict[Band, float]:
    """The weight of a row that the model judged, by its risk. Where no screen looked, the model judged all."""
    from inference.cascade.weights import weights

    found: dict[Band, float] = {}
    for screen, its in groupby(sorted(bands), key=lambda band: band.screen):
        places = list(its)
        if screen:
            found |= zip(places, weights([bands[place] for place in places]), strict=True)
    return found


def _share(file: Path, fields: Fields, row: Row, flagged: Sequence[str]) -> float:
    """To be flagged: 1 or 0, or a share of votes. Raises WorkerMisconfigured."""
    if flagged:
        return float(row.label in flagged)
    try:
        share = {"true": 1.0, "false": 0.0}.get(row.label) if row.label in ("true", "false") else float(row.label)
    except ValueError:
        share = None
    if share is None or not 0 <= share <= 1:
        raise WorkerMisconfigured(
            f"{file}: row {row.number}: {fields.label} {row.label!r} is neither true or false nor a number from 0 to "
            "1; --flagged says which labels are to be flagged"
        )
    return share


def _refuse_absent(origin: str, examples: Iterable["Example"], wanted: Sequence[str]) -> None:
    labels = {example.label for example in examples}
    if missing := [label for label in wanted if label not in labels]:
        raise WorkerMisconfigured(
            f"{origin}: no row has the label {', '.join(map(repr, missing))}; there are: "
            f"{', '.join(map(repr, sorted(labels - {''}))) or 'none'}"
        )
