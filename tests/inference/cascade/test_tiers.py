"""Several tiers: the promise holds for all of them together, and a second tier saves."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from inference.cascade.guarantee import Goal, TooFewRows
from inference.cascade.tiers import Tier, TiersFit, fit_tiers

COSTS = (0.0, 1.0, 20.0)


def sample(rows: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A screen, and a small model that tells the rows apart better."""
    chance = np.random.default_rng(seed)
    flags = chance.random(rows) < 0.3
    screen = np.where(flags, chance.beta(4, 2, rows), chance.beta(2, 4, rows))
    small = np.where(flags, chance.beta(6, 1.5, rows), chance.beta(1.5, 6, rows))
    return np.column_stack([screen, small]), flags


TRUTH = sample(100_000, 12345)


def truth(tiers: tuple[Tier, ...]) -> tuple[float, float]:
    """Recall and precision of what the tiers decide, in so many rows that chance hardly shows."""
    scores, flags = TRUTH
    open_rows = np.ones(len(flags), dtype=bool)
    missed = said = right = 0
    for tier, own in zip(tiers, scores.T, strict=True):
        passed = open_rows & (own < (-1 if tier.pass_below is None else tier.pass_below))
        caught = open_rows & (own >= (2 if tier.flag_from is None else tier.flag_from))
        missed += np.sum(passed & flags)
        said, right = said + np.sum(caught), right + np.sum(caught & flags)
        open_rows &= ~(passed | caught)
    return 1 - missed / flags.sum(), right / said if said else 1.0


@pytest.mark.parametrize("precision", [None, 0.95], ids=["one-sided", "two-sided"])
def test_the_promise_holds_for_all_tiers_together(precision: float | None) -> None:
    goal, runs = Goal(0.95, precision), 200 if precision is None else 30
    found = [fit_tiers(*sample(1500, seed), goal, COSTS) for seed in range(runs)]
    true = [truth(each.tiers) for each in found]
    failures = sum(recall < 0.95 or (precision is not None and right < precision) for recall, right in true)
    assert binomtest(failures, runs, 0.05, alternative="greater").pvalue > 1e-4, failures
    assert all(claim.bound >= claim.target for each in found for claim in each.claims)
    assert np.mean([each.asked[-1] for each in found]) < 0.6


def test_a_second_tier_asks_the_model_less() -> None:
    scores, flags = sample(6000, 1)
    goal = Goal(0.95)
    one = fit_tiers(scores[:, :1], flags, goal, (0.0, 20.0))
    two = fit_tiers(scores, flags, goal, COSTS)
    assert two.asked[-1] < one.asked[-1]
    assert two.asked[0] >= two.asked[1] >= two.asked[2]
    assert "Pareto" in two.method


def test_a_tier_that_costs_more_than_it_saves_is_not_asked() -> None:
    scores, flags = sample(2000, 1)
    found = fit_tiers(scores, flags, Goal(0.95), (0.0, 100.0, 20.0))
    assert found.tiers[1] == Tier(None)
    assert found.asked[1] == 0


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TooFewRows, match="at least 118 flagged rows"):
        fit_tiers(*sample(100, 1), Goal(0.95), COSTS)


def test_scores_that_tell_nothing_apart_leave_all_to_the_model() -> None:
    found: TiersFit = fit_tiers(np.full((1000, 2), 0.5), np.arange(1000) % 3 == 0, Goal(0.95), COSTS)
    assert found.asked == (0, 0, 1)
    assert found.claims == ()
    assert "no setting saves cost" in found.notes[0]


@pytest.mark.parametrize("costs", [(0.0, 1.0), (0.0, -1.0, 2.0), (0.0, float("nan"), 2.0)])
def test_costs_must_fit(costs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a cost from 0 on is needed for each of 2 tiers"):
        fit_tiers(*sample(1000, 1), Goal(), costs)
