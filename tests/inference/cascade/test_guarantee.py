"""The promise holds as often as it says, and what cannot be promised is refused."""

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from inference.cascade.guarantee import Goal, TooFewRows, between, fit
from tests.inference.cascade.traffic import Traffic

RUNS = 600
DOUBT = 1e-4  # a test fails if what it saw is as rare as this while the promise holds


def kept(failures: int, runs: int, delta: float) -> bool:
    return bool(binomtest(failures, runs, delta, alternative="greater").pvalue > DOUBT)


# With so many flagged rows the exact test comes nearest to the error that it is allowed, so one miss more shows.
@pytest.mark.parametrize(
    ("recall", "flagged", "steps"), [(0.9, 89, 0), (0.95, 93, 0), (0.98, 236, 0), (0.95, 93, 20)], ids=str
)
def test_recall_holds_as_often_as_claimed(recall: float, flagged: int, steps: int) -> None:
    traffic, goal = Traffic(steps=steps), Goal(recall)
    fits = [fit(*traffic.sample(3 * flagged, flagged, seed), goal) for seed in range(RUNS)]
    failures = sum(traffic.recall(found.pass_below) < recall for found in fits)
    assert kept(failures, RUNS, 0.05), failures
    if not steps:
        assert failures > 0.025 * RUNS, "the thresholds are more careful than they have to be"
        assert np.mean([found.saved for found in fits]) > 0.2


@pytest.mark.parametrize("target", [0.9, 0.95])
def test_both_claims_hold_together_as_often_as_claimed(target: float) -> None:
    traffic, goal = Traffic(), Goal(target, target)
    fits = [fit(*traffic.sample(1500, seed=seed), goal) for seed in range(200)]
    recalls = sum(traffic.recall(found.pass_below) < target for found in fits)
    precisions = sum(traffic.precision(found.flag_from) < target for found in fits)
    assert kept(recalls, 200, 0.025), recalls
    assert kept(precisions, 200, 0.025), precisions
    assert kept(recalls + precisions, 200, 0.05), (recalls, precisions)
    assert np.mean([found.flag_from is not None for found in fits]) > 0.5


def test_both_claims_hold_together_where_each_is_just_untrue() -> None:
    """Of the flagged rows 5.01% have the lower of two risks; of those with the higher one 5.01% are not flagged.
    Any threshold that is found breaks a promise, and comes about as often as the error that is allowed.
    """
    flagged_rows, goal, failures, runs = 3000, Goal(0.95, 0.95), 0, 1000
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        risk = np.where(chance.random(flagged_rows) < 0.0501, 0.1, 0.9)
        wrong = chance.negative_binomial(np.sum(risk == 0.9), 0.9499)
        risk = np.concatenate([risk, np.repeat([0.1, 0.9], [500, wrong])])
        found = fit(risk, np.arange(len(risk)) < flagged_rows, goal)
        failures += found.pass_below is not None or found.flag_from is not None
    assert kept(failures, runs, 0.05), failures
    assert failures > 0.035 * runs, failures


def test_precision_is_not_found_by_looking_for_it() -> None:
    """Of a screen that knows nothing the best threshold of a sample looks better than it is."""
    goal, failures = Goal(0.95, 0.95), 0
    for seed in range(300):
        chance = np.random.default_rng(seed)
        failures += fit(chance.random(1000), chance.random(1000) < 0.949, goal).flag_from is not None
    assert kept(failures, 300, 0.025), failures


def test_what_is_claimed_comes_back_with_its_evidence() -> None:
    risk, flagged = Traffic().sample(4000, seed=1)
    found = fit(risk, flagged, Goal(0.95, 0.9))
    recall, precision = found.claims
    assert found.pass_below is not None
    assert found.flag_from is not None
    assert (found.rows, found.flagged) == (4000, flagged.sum())
    assert (recall.of, recall.rows, recall.failures) == (
        "recall",
        flagged.sum(),
        np.sum(flagged & (risk < found.pass_below)),
    )
    assert (precision.of, precision.target, precision.confidence) == ("precision", 0.9, 0.975)
    assert 0 < precision.rows < found.caught
    assert all(claim.target <= claim.bound <= claim.share for claim in found.claims)
    assert found.saved == np.mean((risk < found.pass_below) | (risk >= found.flag_from))
    assert f"{recall.failures} of {recall.rows} were let pass" in str(recall)
    assert "fixed-sequence" in found.method


def test_more_rows_save_more_calls() -> None:
    saved = [
        np.mean([fit(*Traffic().sample(rows, seed=seed), Goal(0.95, 0.95)).saved for seed in range(10)])
        for rows in (400, 1000, 5000)
    ]
    assert saved == sorted(saved)


def test_rows_of_one_risk_stay_together() -> None:
    risk = np.array([0.0] * 50 + [0.1] * 50 + [0.2] * 20 + [0.9] * 180)
    flagged = np.array([False] * 100 + [True] * 200)
    found = fit(risk, flagged, Goal(0.95))  # of 200 flagged rows 4 may be missed, and 20 have the risk 0.2
    assert found.pass_below is not None
    assert 0.1 < found.pass_below <= 0.2
    assert (found.passed, found.claims[0].failures) == (100, 0)


def test_a_perfect_screen_decides_everything() -> None:
    flagged = np.arange(2000) % 2 == 0
    found = fit(flagged * 0.8 + 0.1, flagged, Goal(0.95, 0.95))
    assert found.saved == 1
    assert [claim.failures for claim in found.claims] == [0, 0]


def test_a_screen_that_knows_nothing_flags_nothing_and_says_so() -> None:
    chance = np.random.default_rng(1)
    found = fit(chance.random(3000), chance.random(3000) < 0.3, Goal(0.95, 0.95))
    assert found.flag_from is None
    assert "the screen flags nothing by itself" in found.notes[0]
    assert [claim.of for claim in found.claims] == ["recall"]


def test_equal_risks_save_nothing() -> None:
    found = fit(np.full(1000, 0.5), np.arange(1000) % 3 == 0, Goal(0.95, 0.95))
    assert (found.pass_below, found.flag_from, found.claims, found.saved) == (None, None, (), 0)
    assert len(found.notes) == 2


def test_all_flagged_saves_nothing() -> None:
    found = fit(np.linspace(0, 1, 500), np.ones(500), Goal(0.95))
    assert (found.pass_below, found.saved) == (None, 0)
    assert "no row that the reference allows" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "flagged", "goal", "flagged_needed", "needed"),
    [
        (10, 5, Goal(0.95), 59, 118),
        (1000, 58, Goal(0.95), 59, 1018),
        (1000, 58, Goal(0.95, 0.95), 72, 1242),
        (40, 20, Goal(0.9), 29, 58),
        (1000, 100, Goal(0.98), 149, 1490),
        (1000, 0, Goal(0.95), 59, None),
        (0, 0, Goal(0.95), 59, None),
    ],
)
def test_too_few_rows_are_refused_with_what_it_takes(
    rows: int, flagged: int, goal: Goal, flagged_needed: int, needed: int | None
) -> None:
    with pytest.raises(TooFewRows) as refused:
        fit(np.linspace(0, 1, rows), np.arange(rows) >= rows - flagged, goal)
    assert (refused.value.flagged, refused.value.flagged_needed, refused.value.rows_needed) == (
        flagged,
        flagged_needed,
        needed,
    )
    assert f"at least {flagged_needed} flagged rows" in str(refused.value)
    assert ("cannot be told" if needed is None else f"about {needed} rows") in str(refused.value)


def test_the_number_of_flagged_rows_that_is_asked_for_is_enough() -> None:
    risk, flagged = np.repeat([0.1, 0.9], [200, 59]), np.repeat([False, True], [200, 59])
    assert fit(risk, flagged, Goal(0.95)).passed == 200


@pytest.mark.parametrize(
    ("risk", "flagged", "message"),
    [
        ([0.1, float("nan"), 0.3], [0, 1, 0], "row 1: scores must be from 0 to 1, not \\[nan\\]; 1 rows"),
        ([0.1, 0.2, 1.5], [0, 1, 0], "row 2: scores must be"),
        ([-0.1, 0.2, float("inf")], [0, 1, 0], "row 0: .* 2 rows are wrong"),
        (["high", "low"], [0, 1], "must be numbers"),
        ([None, 0.2], [0, 1], "row 0"),
        ([[0.1], [0.1, 0.2]], [0, 1], "as many for each row"),
        ([0.1, 0.2], [0, 2], "row 1: the reference flags a row or not, but says"),
        ([0.1, 0.2], [0, float("nan")], "row 1: the reference"),
        ([0.1, 0.2], ["allow", "review"], "row 0: the reference"),
        ([0.1, 0.2], [0, 1, 1], "one answer of the reference is needed for each row"),
        ([[0.1, 0.2]], [0], "one risk for each row, not 2"),
    ],
)
def test_bad_rows_are_named(risk: ArrayLike, flagged: ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(risk, flagged, Goal())


@pytest.mark.parametrize("goal", [{"recall": 1.0}, {"recall": 0.0}, {"precision": 1.0}, {"confidence": 1}])
def test_certainty_cannot_be_promised(goal: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(goal))} must be above 0 and below 1"):
        Goal(**goal)


def test_thresholds_are_short_and_between_the_values() -> None:
    assert between(0.1234, 0.1567) == 0.14
    assert between(0.2, 0.2 + 1e-12) > 0.2
    assert between(float("-inf"), 0.3) == 0.3
    low, high = 0.3, float(np.nextafter(0.3, 1))
    assert between(low, high) == high
