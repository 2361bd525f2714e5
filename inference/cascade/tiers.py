"""Thresholds of several tiers before the model that is the reference: a screen, then a small model, then the large one.

A row goes from tier to tier until one decides: it lets pass what it scores below its `pass_below`, flags what it scores
from its `flag_from` on, and leaves the rest to the next; the reference decides what is left. The promises are those of
`inference.cascade.guarantee`, for all tiers together.

Settings of several thresholds have no order of their own. One half of the sample finds those that are cheapest for what
they risk and orders them from the safest on; the other half tests them in this order until one fails
(Laufer-Goldshtein, Fisch, Barzilay and Jaakkola, Pareto Testing, ICLR 2023, arXiv:2210.07913). So what is promised is
exact however the settings were found. A setting passes if every claim does, so claims need not share the allowed error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from inference.binomial import lower_bound, most_failures, rows_needed, tail, tails
from inference.cascade.guarantee import Claim, Goal, TooFewRows, between
from inference.cascade.rows import Flags, Scores, checked, halves

METHOD = "Pareto testing, exact binomial tails"

_PASSES, _FLAGS = 8, 3  # thresholds a tier that are tried


@dataclass(frozen=True, slots=True)
class Tier:
    """Thresholds of one tier; None: it lets nothing pass, or flags nothing by itself. With neither it is not asked."""

    pass_below: float | None
    flag_from: float | None = None


@dataclass(frozen=True, slots=True)
class TiersFit:
    """What was chosen and is claimed. asked: share of the sample's rows that reach each tier, the reference last."""

    tiers: tuple[Tier, ...]
    claims: tuple[Claim, ...]
    rows: int
    flagged: int
    asked: tuple[float, ...]
    method: str = METHOD
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a setting does to a sample: flagged rows let pass, rows flagged by a tier and those of them wrongly, and how
    many rows each tier is asked about.
    """

    missed: int
    caught: int
    false: int
    asked: tuple[int, ...]


def fit_tiers(scores: ArrayLike, flagged: ArrayLike, goal: Goal, costs: Sequence[float]) -> TiersFit:
    """The cheapest thresholds of those found that keep the goal.

    scores: 0..1, rows by tiers, in the order in which the tiers are asked. costs: of asking each tier about a row, the
    reference last, any unit. Raises TooFewRows; ValueError for what is no score, or for costs that do not fit.
    """
    found, flags = checked(scores, flagged)
    if len(costs) != found.shape[1] + 1 or not all(0 <= cost < inf for cost in costs):
        raise ValueError(
            f"a cost from 0 on is needed for each of {found.shape[1]} tiers and the reference, not {costs}"
        )
    first, second = halves(found, flags)
    goal_alone = Goal(goal.recall, None, goal.confidence)
    if most_failures(int(flags[second].sum()), 1 - goal.recall, goal_alone.delta) < 0:
        raise TooFewRows(len(flags), int(flags.sum()), goal_alone, parts=2)
    kept: tuple[tuple[Tier, ...], _Counted] | None = None
    flagged_rows = int(flags[second].sum())
    for setting in _path(found[first], flags[first], goal, costs):
        counted = _count(found[second], flags[second], setting)
        if _p_value(counted, flagged_rows, goal, flags=_flags(setting)) > goal_alone.delta:
            break
        kept = setting, counted
    if kept is None:
        nothing = tuple(Tier(None) for _ in range(found.shape[1]))
        asked_all = (*(0.0 for _ in nothing), 1.0)
        return TiersFit(nothing, (), len(flags), int(flags.sum()), asked_all, notes=(_nothing(goal),))
    setting, counted = kept
    whole = _count(found, flags, setting)
    asked = tuple(count / len(flags) for count in whole.asked)
    return TiersFit(setting, _claims(counted, flagged_rows, goal), len(flags), int(flags.sum()), asked)


def _nothing(goal: Goal) -> str:
    needed = rows_needed(1 - goal.recall, 1 - goal.confidence)
    return f"no setting saves cost and keeps the goal on half of the sample; {needed} flagged rows there are the least"


def _claims(counted: _Counted, flagged: int, goal: Goal) -> tuple[Claim, ...]:
    claims = [
        Claim(
            "recall",
            goal.recall,
            goal.confidence,
            flagged,
            counted.missed,
            lower_bound(flagged - counted.missed, flagged, goal.confidence),
        )
    ]
    if goal.precision is not None and counted.caught:
        right = counted.caught - counted.false
        bound = lower_bound(right, counted.caught, goal.confidence)
        claims.append(Claim("precision", goal.precision, goal.confidence, counted.caught, counted.false, bound))
    return tuple(claims)


def _p_value(counted: _Counted, flagged: int, goal: Goal, *, flags: bool = True) -> float:
    """Of "a claim does not hold": the largest of the claims' own (Berger, intersection-union test, 1982)."""
    recall = tail(counted.missed, flagged, 1 - goal.recall)
    if goal.precision is None or not flags:
        return recall
    return max(recall, tail(counted.false, counted.caught, 1 - goal.precision))


def _path(scores: Scores, flags: Flags, goal: Goal, costs: Sequence[float]) -> list[tuple[Tier, ...]]:
    """Settings that cost less than all safer ones, the safest first."""
    grids = [_grid(scores[:, tier], flags, goal) for tier in range(scores.shape[1])]
    flagged = int(flags.sum())
    settings = list(product(*grids))
    counts = [_count(scores, flags, setting) for setting in settings]
    p_values = tails(np.array([each.missed for each in counts]), np.full(len(counts), flagged), 1 - goal.recall)
    if goal.precision is not None:
        false, caught = np.array([each.false for each in counts]), np.array([each.caught for each in counts])
        p_values = np.maximum(p_values, np.where(caught > 0, tails(false, caught, 1 - goal.precision), 0))
    spent = [float(np.dot(costs, each.asked)) for each in counts]
    rated = sorted(zip(p_values.tolist(), spent, settings, strict=True), key=lambda each: each[:2])
    cheapest, path = costs[-1] * len(flags), []
    for _, cost, setting in rated:
        if cost < cheapest:
            cheapest = cost
            path.append(setting)
    return path


def _flags(setting: Sequence[Tier]) -> bool:
    return any(tier.flag_from is not None for tier in setting)


def _grid(scores: Scores, flags: Flags, goal: Goal) -> list[Tier]:
    """Thresholds to try for one tier: around the share of flagged rows that may be missed, and from where on the rows
    above are mostly right.
    """
    own = np.sort(scores[flags])
    values = np.unique(scores)
    share = 1 - goal.recall
    ranks = {int(rank) for rank in np.linspace(0, 1.2 * share, _PASSES) * len(own) if rank < len(own)}
    passes: list[float | None] = [None, *sorted({_cut(values, float(own[rank])) for rank in ranks})]
    catches: list[float | None] = [None]
    if goal.precision is not None and len(values):
        order = np.argsort(-scores, kind="stable")
        right = np.cumsum(flags[order]) / np.arange(1, len(order) + 1)
        good = np.flatnonzero(right >= goal.precision)
        if len(good):
            steps = np.unique(np.linspace(good[-1] / 4, good[-1], _FLAGS).round().astype(int))
            catches += sorted({_cut(values, float(scores[order[step]])) for step in steps}, reverse=True)
    pairs = product(passes, catches)
    return [Tier(below, start) for below, start in pairs if below is None or start is None or below <= start]


def _cut(values: NDArray[np.float64], value: float) -> float:
    """A threshold between a value of a sorted sample and the one before it."""
    place = int(np.searchsorted(values, value))
    return between(float(values[place - 1]) if place else -inf, value)


def _count(scores: Scores, flags: Flags, setting: Sequence[Tier]) -> _Counted:
    open_rows = np.ones(len(flags), dtype=bool)
    missed = caught = false = 0
    asked = []
    for tier, own in zip(setting, scores.T, strict=True):
        asked.append(0 if tier == Tier(None) else int(open_rows.sum()))
        if tier.pass_below is not None:
            passed = open_rows & (own < tier.pass_below)
            missed += int(np.sum(passed & flags))
            open_rows &= ~passed
        if tier.flag_from is not None:
            said = open_rows & (own >= tier.flag_from)
            caught += int(np.sum(said))
            false += int(np.sum(said & ~flags))
            open_rows &= ~said
    return _Counted(missed, caught, false, (*asked, int(open_rows.sum())))
