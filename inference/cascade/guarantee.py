"""Thresholds of a screen with a promise that holds for few rows as for many.

The calibration sample is a random sample of the traffic, each row with the screen's risk and whether the reference
flags it. Two claims can be made. Recall: of what the reference flags, the screen lets pass at most a share. Precision:
of what the screen flags by itself, the reference flags at least a share. With the stated confidence all claims made are
true, for traffic like the sample, whatever the screen is worth: a bad screen saves less, it does not promise falsely.

Thresholds are tested from the safe side on and the first that fails ends it ("fixed-sequence testing", Angelopoulos et
al., Learn then Test, 2021, arXiv:2110.01052), each with the exact tail of the binomial distribution (Clopper and
Pearson, 1934). Misses only grow with `pass_below`, so it may be chosen among the sample's own values (Bates et al.,
Risk-Controlling Prediction Sets, J. ACM 2021). Precision has no such order: one half of the sample says which
thresholds to test in which order, the other half tests them. Two claims share the allowed error (Bonferroni).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from inference.binomial import lower_bound, most_failures, rows_needed, tail, tails
from inference.cascade.rows import Flags, Scores, checked, halves

METHOD = "fixed-sequence testing, exact binomial tails"

_CANDIDATES = 64  # thresholds tested for precision; a test at each value would more often end early by chance
_SAID = {
    "recall": ("of what the reference flags, at least {} is not let pass by the screen", "were let pass"),
    "precision": ("of what the screen flags by itself, the reference flags at least {}", "it does not flag"),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be promised. recall: share of what the reference flags that must not be let pass. precision: share of
    what the screen flags by itself that the reference must flag too; None if it flags nothing by itself. confidence:
    how often, over samples, everything claimed is true.
    """

    recall: float = 0.95
    precision: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        """Raises ValueError for what is no share, or cannot be promised."""
        for name, value in (("recall", self.recall), ("precision", self.precision), ("confidence", self.confidence)):
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, not {value}; no sample can promise 1")

    @property
    def delta(self) -> float:
        """The error that each claim is allowed."""
        return (1 - self.confidence) / (1 if self.precision is None else 2)


@dataclass(frozen=True, slots=True)
class Claim:
    """What is promised, with its evidence.

    confidence: of this claim alone. rows: those that it is about, of the part of the sample that it was tested on:
    flagged by the reference for recall, flagged by the screen for precision. failures: those of them that were let
    pass, or that the reference does not flag. bound: the share is at least this, with that confidence; never below
    target.
    """

    of: Literal["recall", "precision"]
    target: float
    confidence: float
    rows: int
    failures: int
    bound: float

    @property
    def share(self) -> float:
        """The share as it was in the sample."""
        return 1 - self.failures / self.rows

    def __str__(self) -> str:
        promise, instead = _SAID[self.of]
        return (
            f"{promise.format(f'{self.bound:.1%}')} (target {self.target:.1%}, confidence {self.confidence:.1%}; "
            f"{self.failures} of {self.rows} {instead})"
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """Thresholds and what is claimed for them.

    pass_below: rows of a lower risk are let pass; None: no row is. flag_from: rows of this risk or a higher one are
    flagged by the screen; None: no row is. rows, flagged: the sample, and how much of it the reference flags. passed,
    caught: how many of its rows the screen lets pass, and flags. notes: why a threshold is absent.
    """

    pass_below: float | None
    flag_from: float | None
    claims: tuple[Claim, ...]
    rows: int
    flagged: int
    passed: int
    caught: int
    method: str = METHOD
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> float:
        """The share of the sample's rows that the model is not asked about."""
        return (self.passed + self.caught) / self.rows


class TooFewRows(Exception):
    """The sample can promise nothing, however good the screen is.

    flagged: rows that the reference flags. flagged_needed: how many it takes at least. rows_needed: about how many rows
    have so many flagged ones; None if no row is flagged, so that nobody can tell.
    """

    def __init__(self, rows: int, flagged: int, goal: Goal, parts: int = 1) -> None:
        """parts: in how many the sample is divided, each of which must have so many flagged rows."""
        self.rows = rows
        self.flagged = flagged
        self.flagged_needed = parts * rows_needed(1 - goal.recall, goal.delta)
        self.rows_needed = math.ceil(self.flagged_needed * rows / flagged) if flagged else None
        about = (
            f"about {self.rows_needed} rows, if {flagged / rows:.1%} of them are flagged as they are here"
            if self.rows_needed
            else "how many rows that takes cannot be told while none is flagged"
        )
        super().__init__(
            f"{flagged} of {rows} rows are flagged by the reference; to promise {goal.recall:.1%} of what it flags "
            f"with {1 - goal.delta:.1%} confidence takes at least {self.flagged_needed} flagged rows: {about}"
        )


def fit(risk: ArrayLike, flagged: ArrayLike, goal: Goal) -> Fit:
    """The thresholds that ask the model least among those that keep the goal.

    risk: 0..1 for each row. flagged: whether the reference flags it. Raises TooFewRows; ValueError for what is no risk.
    """
    scores, flags = checked(risk, flagged)
    if scores.shape[1] != 1:
        raise ValueError(f"one risk for each row, not {scores.shape[1]}; `inference.cascade.tiers` takes several")
    risks = scores[:, 0]
    allowed = most_failures(int(flags.sum()), 1 - goal.recall, goal.delta)
    if allowed < 0:
        raise TooFewRows(len(risks), int(flags.sum()), goal)
    pass_below, notes = _pass_below(risks, flags, allowed)
    flag_from, claim = None, None
    if goal.precision is not None:
        flag_from, claim, said = _flag_from(risks, flags, goal.precision, goal.delta, pass_below)
        notes += said
        if flag_from is not None and pass_below is not None:
            pass_below = min(pass_below, flag_from)
    claims = [claim] if claim else []
    if pass_below is not None:
        failures, rows = int(np.sum(risks[flags] < pass_below)), int(flags.sum())
        claims = [_claim("recall", goal.recall, goal.delta, rows, failures), *claims]
    return Fit(
        pass_below,
        flag_from,
        tuple(claims),
        len(risks),
        int(flags.sum()),
        0 if pass_below is None else int(np.sum(risks < pass_below)),
        0 if flag_from is None else int(np.sum(risks >= flag_from)),
        notes=tuple(notes),
    )


def _claim(of: Literal["recall", "precision"], target: float, delta: float, rows: int, failures: int) -> Claim:
    return Claim(of, target, 1 - delta, rows, failures, lower_bound(rows - failures, rows, 1 - delta))


def _pass_below(risks: Scores, flags: Flags, allowed: int) -> tuple[float | None, list[str]]:
    """The highest threshold below which no more than `allowed` flagged rows are; rows of one risk stay together."""
    own = np.sort(risks[flags])
    highest = float(own[allowed])
    below = risks[risks < highest]
    if not np.any(risks[~flags] < highest):
        return None, [
            f"no row that the reference allows has a risk below {highest:.4g}, so letting rows pass saves nothing"
        ]
    return between(float(below.max()), highest), []


def _flag_from(
    risks: Scores, flags: Flags, precision: float, delta: float, pass_below: float | None
) -> tuple[float | None, Claim | None, list[str]]:
    """The lowest threshold from which on the screen is right often enough, not below `pass_below` if one is not."""
    first, second = halves(risks, flags)
    kept: list[tuple[float, Claim]] = []
    for threshold in _path(risks[first], flags[first], 1 - precision):
        said = flags[second][risks[second] >= threshold]
        failures = int(np.sum(~said))
        if tail(failures, len(said), 1 - precision) > delta:
            break
        kept.append((threshold, _claim("precision", precision, delta, len(said), failures)))
    if not kept:
        needed = rows_needed(1 - precision, delta)
        note = (
            f"the screen flags nothing by itself: at no threshold do the rows show that {precision:.1%} of what it "
            f"flags is right; that takes at least {needed} rows from the threshold on, in half of the sample"
        )
        return None, None, [note]
    usable = [pair for pair in kept if pass_below is None or pair[0] >= pass_below]
    threshold, claim = min(usable) if usable else max(kept)
    return threshold, claim, []


def _path(risks: Scores, flags: Flags, rate: float) -> list[float]:
    """Thresholds in the order in which to test them on other rows: from the one that these rows speak for most clearly
    downwards, as long as they speak for one at all.
    """
    values, counts = np.unique(risks, return_counts=True)
    if not len(values):
        return []
    at_least = np.cumsum(counts[::-1])[::-1]
    false = np.cumsum(np.bincount(np.searchsorted(values, risks[~flags]), minlength=len(values))[::-1])[::-1]
    p_values = tails(false, at_least, rate)
    start = len(values) - 1 - int(np.argmin(p_values[::-1]))
    end = int(np.argmax(p_values <= max(0.5, p_values[start])))
    steps = np.unique(np.linspace(end, start, min(_CANDIDATES, start - end + 1)).round().astype(int))[::-1]
    return [between(float(values[i - 1]) if i else -math.inf, float(values[i])) for i in steps]


def between(low: float, high: float) -> float:
    """A threshold above `low` and at most `high`, near their middle and with as few digits as possible.

    So the same text keeps its side where another machine computes its risk a little differently.
    """
    if math.isinf(low):
        return high
    middle = (low + high) / 2
    return next((value for digits in range(1, 17) if low < (value := round(middle, digits)) <= high), high)
