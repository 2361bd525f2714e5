"""How a screen gets better from what becomes visible while it works: rounds of traffic, judged, reviewed, learned from.

    python -m bench.flywheel [--rounds N] [--rows N] [--seeds N] [--open N] [--audit SHARE] [--json FILE]

The rows of a community set arrive by chance, in rounds. The large model is an oracle that says what the annotators say.
In the first round there is no screen, and it judges all. At the end of each round a new screen is learned from what was
visible: rows that the oracle judged, and rows that people reviewed (one in ten of what the screen let pass wrongly is
reported, one in ten of what it flags by itself is looked at). It takes the place of the old one only if `weir
train-screen` would offer it. With a new screen the cascade is open until thresholds are fitted to the next rows; then
it decides, a share is audited, and doubt opens it again. What the screen decided without audit or review is never
learned from. What screen and thresholds are worth is measured on rows of the set that are in no round.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.cascade import measure
from bench.community import DATA, SETS, Scored, read
from inference.cascade.audit import Audit, Route
from inference.cascade.choose import audited
from inference.cascade.guarantee import Fit, Goal, TooFewRows, fit
from inference.cascade.weights import BANDS
from inference.screen.compare import difference, figures, flags, weights_of
from inference.screen.model import Card, Features, Screen
from inference.screen.train import fit as fit_screen
from sinks.labelled import Band, Labelled
from streams.cascade import Thresholds
from streams.cli.training_rows import from_judged

SUBJECTS = (("pt", None), ("en", None), ("en", 0.95))  # set, and the precision from which on the screen flags
REVIEWED = 0.1
_FINE = ("neither", "clean")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Rows in the order in which they arrive. ids: of their verdicts."""

    texts: list[str]
    flagged: NDArray[np.bool_]
    ids: list[int]
    lang: str

    def part(self, begin: int, end: int | None = None) -> "Traffic":
        where = slice(begin, end)
        return Traffic(self.texts[where], self.flagged[where], self.ids[where], self.lang)


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one run. Shares, of 0 to 1.

    version: of the screen at work, 0 for none. texts: that it was learned from. auroc, saved, recall, precision: of it
    and its thresholds, on rows that are in no round; None while there is none, or the screen flags nothing by itself.
    saved_here: of the round's rows those that the model did not judge, so with the open part of it. kept: whether all
    that was promised is true. lead: of the screen learned at its end over the one at work, in AUROC, as it was
    estimated; true_lead: on the rows that are in no round. offered: whether it takes its place.
    """

    subject: str
    seed: int
    number: int
    version: int
    texts: int
    auroc: float | None
    saved: float
    saved_here: float
    recall: float
    precision: float | None
    kept: bool
    lead: float | None
    true_lead: float | None
    offered: bool


@dataclass(slots=True)
class Store:
    """What is visible: rows with what was said of them, and by risk how many there were and were judged."""

    rows: list[Labelled] = field(default_factory=list)
    bands: dict[Band, tuple[int, int]] = field(default_factory=dict)

    def add(self, traffic: Traffic, place: int, band: Band, *, judged: bool, reviewed: bool) -> None:
        every, of_them = self.bands.get(band, (0, 0))
        self.bands[band] = (every + 1, of_them + judged)
        if judged or reviewed:
            said = bool(traffic.flagged[place])
            by = "person" if reviewed else "model"
            text, row_id = traffic.texts[place], traffic.ids[place]
            self.rows.append(Labelled(row_id, text, traffic.lang, said, by, "", judged, reviewed and not judged, band))


class Service:
    """A cascade at work, and what becomes visible of its traffic."""

    def __init__(self, goal: Goal, audit: float, fit_rows: int, chance: np.random.Generator) -> None:
        self.goal = goal
        self.store = Store()
        self.screen: Screen | None = None
        self.texts = 0
        self.fitted: Fit | None = None
        self._audit_share = audit
        self._fit_rows = fit_rows
        self._chance = chance
        self._begin_open()

    def adopt(self, screen: Screen, texts: int) -> None:
        """texts: that it was learned from."""
        self.screen, self.texts, self.fitted = screen, texts, None
        self._begin_open()

    def _begin_open(self) -> None:
        self._thresholds = Thresholds()
        self._audit = Audit(self.goal)
        self._sample: list[tuple[float, bool]] = []

    def work(self, traffic: Traffic) -> float:
        """Take a round of traffic. The share of it that the model did not judge."""
        if self.screen is None:
            for place in range(len(traffic.texts)):
                self.store.add(traffic, place, Band("", 0), judged=True, reviewed=False)
            return 0.0
        name = f"{self.screen.card.name}-{self.screen.card.version}"
        saved = 0
        for place, risk in enumerate(self.screen.risks(traffic.texts).tolist()):
            flagged, route = bool(traffic.flagged[place]), self._thresholds.route(risk)
            looked = self._thresholds == Thresholds() or audited(traffic.ids[place], self._audit_share)
            judged = looked or route == "ask"
            saved += not judged
            reviewed = not judged and self._reviewed(route, flagged)
            band = Band(name, min(int(risk * BANDS), BANDS - 1))
            self.store.add(traffic, place, band, judged=judged, reviewed=reviewed)
            if looked:
                self._look(risk, route, flagged)
        return saved / len(traffic.texts)

    def _reviewed(self, route: Route, flagged: bool) -> bool:
        return (flagged or route == "flag") and self._chance.random() < REVIEWED

    def _look(self, risk: float, route: Route, flagged: bool) -> None:
        if self._thresholds != Thresholds():
            self._audit.observe(route, flagged)
            if self._audit.doubt is not None:
                self._begin_open()
            return
        self._sample.append((risk, flagged))
        if len(self._sample) % self._fit_rows == 0:
            try:
                found = fit(*zip(*self._sample, strict=True), self.goal)
            except TooFewRows:
                return
            if found.pass_below is not None or found.flag_from is not None:
                self.fitted, self._thresholds = found, Thresholds(found.pass_below, found.flag_from)


def run(language: str, goal: Goal, seed: int, rounds: int, rows: int, open_rows: int, audit: float) -> Iterator[Round]:
    """The rounds of one run. Raises FileNotFoundError."""
    chance = np.random.default_rng(seed)
    traffic = _traffic(language, chance)
    apart = traffic.part(rounds * rows)
    service = Service(goal, audit, open_rows, chance)
    old = np.zeros(0)  # risks of the rows apart, as the screen at work says
    subject = language if goal.precision is None else f"{language}, flags itself"
    for number in range(1, rounds + 1):
        at_work, texts = service.screen, service.texts
        saved_here = service.work(traffic.part((number - 1) * rows, number * rows))
        learned = from_judged(service.store.rows, service.store.bands, "")
        parts = learned.parts()
        version = 1 if at_work is None else int(at_work.card.version) + 1
        screen = fit_screen(parts, Card(name="flywheel", version=str(version), features=Features()))
        new = screen.risks(apart.texts)
        truth = figures(apart.flagged, new).auroc or 0.0
        if at_work is None:
            yield Round(subject, seed, number, 0, 0, None, 0.0, saved_here, 1.0, None, True, None, None, True)
            service.adopt(screen, len(learned.examples))
            old = new
            continue
        held_out = [example.text for example in parts.held_out]
        lead = difference(
            flags(parts.held_out), at_work.risks(held_out), screen.risks(held_out), weights_of(parts.held_out)
        )
        auroc = figures(apart.flagged, old).auroc or 0.0
        scored = Scored(texts=np.array(apart.texts, dtype=object), risk=old, flagged=apart.flagged)
        found = service.fitted and measure(service.fitted, scored)
        yield Round(
            subject,
            seed,
            number,
            int(at_work.card.version),
            texts,
            auroc,
            found.saved if found else 0.0,
            saved_here,
            found.recall if found else 1.0,
            found.precision if found else None,
            found is None or found.keeps(goal),
            lead.value,
            truth - auroc,
            lead.better,
        )
        if lead.better:
            service.adopt(screen, len(learned.examples))
            old = new


def _traffic(language: str, chance: np.random.Generator) -> Traffic:
    found = read(language)
    order = chance.permutation(len(found))
    flagged = np.array([found[place]["label"] not in _FINE for place in order])
    texts = [found[place]["text"] for place in order]
    return Traffic(texts, flagged, [int.from_bytes(chance.bytes(16)) for _ in order], language)


def table(found: Sequence[Round]) -> Table:
    """For people: means over the runs."""
    names = ("set", "round", "screen", "learned from", "AUROC", "calls saved", "in the round", "recall", "precision")
    shown = Table(*names, "promise kept", "next one offered", title=f"{len({each.seed for each in found})} runs")
    for subject in dict.fromkeys(each.subject for each in found):
        for number in sorted({each.number for each in found}):
            some = [each for each in found if (each.subject, each.number) == (subject, number)]
            aurocs = [each.auroc for each in some if each.auroc is not None]
            right = [each.precision for each in some if each.precision is not None]
            shown.add_row(
                subject,
                str(number),
                f"{np.mean([each.version for each in some]):.1f}" if aurocs else "none",
                f"{np.mean([each.texts for each in some]):,.0f}" if aurocs else "",
                f"{np.mean(aurocs):.3f}" if aurocs else "",
                f"{np.mean([each.saved for each in some]):.1%}",
                f"{np.mean([each.saved_here for each in some]):.1%}",
                f"{np.mean([each.recall for each in some]):.1%}",
                f"{np.mean(right):.1%}" if right else "",
                f"{sum(each.kept for each in some)} of {len(some)}",
                f"{sum(each.offered for each in some)} of {len(some)}",
            )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=1_500, help="rows of a round")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--open", type=int, default=1_000, help="rows that thresholds are fitted to, each time")
    parser.add_argument("--audit", type=float, default=0.02, help="share of the rows that the model judges in any case")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    if not all((DATA / name).is_file() for name in SETS.values()):
        parser.exit(1, "the community sets are not beside this checkout (../shared/data): nothing to measure\n")
    runs = [
        (language, Goal(0.95, precision), seed) for language, precision in SUBJECTS for seed in range(options.seeds)
    ]
    found: list[Round] = []
    for each in track(runs, "running", console=Console(stderr=True)):
        found += run(*each, options.rounds, options.rows, options.open, options.audit)
    Console(width=140).print(table(found))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
