"""How often a cascade's promise holds on real rows, and how many calls it saves.

    python -m bench.cascade [--resamples N] [--fit N] [--json FILE]

The screen is the shipped one, the rows are those of the community sets that it has never seen. They are the traffic, of
which the truth is known: thresholds are fitted again and again on rows drawn from it by chance (with replacement, as
rows arrive), and a fit counts as kept if all that it claims is true of the traffic. To judge a fit on the rows that are
left over would be wrong: where the sample has few misses by luck, the rest has many. Recall, precision and calls saved
are those of the traffic too. Of the English rows most are flagged, which is not what communities are like; a third set
has all that are fine and as many of the flagged ones as make the share of the Portuguese set. What should be flagged is
what the annotators flagged: the large model is taken for an oracle that agrees with them.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from bench.community import ABSENT, DATA, SETS, Scored, scored, thinned
from inference.cascade.guarantee import Fit, Goal, fit

TARGETS = (0.9, 0.95, 0.98)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one goal. Shares, of 0 to 1.

    target: of recall. precision_target: None for a screen that flags nothing by itself. coverage: of the fits, those
    whose claims were all true, with its 95% interval. recall, precision, saved (rows that the model is not asked
    about): means over fits; nine in ten fits save between saved_low and saved_high. flags_itself: of the fits, those
    with which the screen flags by itself. flagged: of the rows, those that the annotators flag.
    """

    name: str
    target: float
    precision_target: float | None
    confidence: float
    resamples: int
    fit_rows: int
    rows: int
    coverage: float
    coverage_low: float
    coverage_high: float
    saved: float
    saved_low: float
    saved_high: float
    recall: float
    precision: float | None
    flags_itself: float
    flagged: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One fit on the rows that it has not seen."""

    recall: float
    precision: float | None
    saved: float

    def keeps(self, goal: Goal) -> bool:
        return self.recall >= goal.recall and (
            goal.precision is None or self.precision is None or self.precision >= goal.precision
        )


def measure(found: Fit, rows: Scored) -> Measured:
    """What the thresholds do to rows."""
    passed = rows.risk < (-1 if found.pass_below is None else found.pass_below)
    caught = rows.risk >= (2 if found.flag_from is None else found.flag_from)
    right = float(rows.flagged[caught].mean()) if caught.any() else None
    return Measured(1 - float(passed[rows.flagged].mean()), right, float((passed | caught).mean()))


def fits(rows: Scored, goal: Goal, fit_rows: int, resamples: int) -> list[tuple[Fit, Measured]]:
    """Fits to rows drawn with replacement, each measured on all rows, which are the traffic that was drawn from."""
    drawn = (np.random.default_rng(seed).integers(0, len(rows), fit_rows) for seed in range(resamples))
    found = (fit(rows.risk[chosen], rows.flagged[chosen], goal) for chosen in drawn)
    return [(each, measure(each, rows)) for each in found]


def outcome(name: str, rows: Scored, goal: Goal, fit_rows: int, resamples: int) -> Outcome:
    """All resamples of one goal together."""
    found = fits(rows, goal, fit_rows, resamples)
    held = binomtest(sum(measured.keeps(goal) for _, measured in found), resamples)
    interval = held.proportion_ci(method="exact")
    saved = [measured.saved for _, measured in found]
    right = [measured.precision for _, measured in found if measured.precision is not None]
    return Outcome(
        name=name,
        target=goal.recall,
        precision_target=goal.precision,
        confidence=goal.confidence,
        resamples=resamples,
        fit_rows=fit_rows,
        rows=len(rows),
        coverage=held.statistic,
        coverage_low=interval.low,
        coverage_high=interval.high,
        saved=float(np.mean(saved)),
        saved_low=float(np.quantile(saved, 0.05)),
        saved_high=float(np.quantile(saved, 0.95)),
        recall=float(np.mean([measured.recall for _, measured in found])),
        precision=float(np.mean(right)) if right else None,
        flags_itself=float(np.mean([fitted.flag_from is not None for fitted, _ in found])),
        flagged=float(rows.flagged.mean()),
    )


def table(outcomes: Sequence[Outcome]) -> Table:
    """For people."""
    names = ("set", "recall from", "precision from", "all claims held", "recall", "precision", "calls saved", "9 in 10")
    shown = Table(*names, title=f"{outcomes[0].resamples} fits on {outcomes[0].fit_rows} rows each")
    for each in outcomes:
        shown.add_row(
            each.name,
            f"{each.target:.0%}",
            "" if each.precision_target is None else f"{each.precision_target:.0%}",
            f"{each.coverage:.1%} ({each.coverage_low:.1%} to {each.coverage_high:.1%})",
            f"{each.recall:.2%}",
            "" if each.precision is None else f"{each.precision:.2%}",
            f"{each.saved:.1%}",
            f"{each.saved_low:.1%} to {each.saved_high:.1%}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--fit", type=int, default=2_000, help="rows that thresholds are fitted on")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(1, ABSENT)
    outcomes = []
    sets = {language: scored(language) for language in SETS}
    sets["en, as pt"] = thinned(sets["en"], float(sets["pt"].flagged.mean()))
    for name, rows in sets.items():
        goals = [Goal(target, precision) for target in TARGETS for precision in (None, 0.8, target)]
        outcomes += [outcome(name, rows, goal, options.fit, options.resamples) for goal in goals]
    Console(width=140).print(table(outcomes))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
