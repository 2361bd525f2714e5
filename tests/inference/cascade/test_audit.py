"""Estimates hold the truth, and drift is found without more false alarms than were agreed on."""

import numpy as np
import pytest
from scipy.stats import binomtest

from inference.cascade.audit import Audit, Route
from inference.cascade.drift import Detector
from inference.cascade.guarantee import Goal


def rows(count: int, seed: int, *, missed: float, wrong: float = 0.03) -> list[tuple[Route, bool]]:
    """Audited rows of which 30% are flagged by the reference. missed: share of them that the screen lets pass. wrong:
    share of what the screen flags that the reference does not.
    """
    chance = np.random.default_rng(seed)
    found: list[tuple[Route, bool]] = []
    for draw in chance.random((count, 3)):
        if draw[0] < 0.1:
            found.append(("flag", bool(draw[1] >= wrong)))
        elif draw[0] < 0.4:
            found.append(("pass" if draw[1] < missed else "ask", True))
        else:
            found.append(("pass" if draw[1] < 0.7 else "ask", False))
    return found


def test_estimates_are_exact_intervals_of_the_counts() -> None:
    audit = Audit.of([("pass", False)] * 60 + [("pass", True)] + [("ask", True)] * 19 + [("flag", True)] * 20, Goal())
    found = audit.estimates()
    assert found.recall is not None
    assert found.saved is not None
    assert found.precision is not None
    assert found.flagged is not None
    assert (found.recall.hits, found.recall.rows) == (39, 40)
    assert found.recall[1:3] == pytest.approx((0.8684, 0.9994), abs=1e-4)
    assert found.saved[0] == pytest.approx(0.81)
    assert (found.precision.share, found.precision.high) == (1, 1)
    assert found.flagged.share == 0.4
    assert audit.doubt is None


def test_intervals_hold_the_truth_as_often_as_claimed() -> None:
    held = 0
    for seed in range(300):
        chance = np.random.default_rng(seed)
        flagged = [("pass" if miss else "ask", True) for miss in chance.random(200) < 0.04]
        interval = Audit.of(flagged, Goal()).estimates().recall  # type: ignore[arg-type]
        assert interval is not None
        held += interval.low <= 0.96 <= interval.high
    assert binomtest(300 - held, 300, 0.05, alternative="greater").pvalue > 1e-4


def test_no_rows_tell_nothing() -> None:
    found = Audit(Goal(precision=0.9)).estimates()
    assert (found.recall, found.saved, found.precision, found.flagged) == (None, None, None, None)
    only_allowed = Audit.of([("pass", False)] * 10, Goal()).estimates()
    assert only_allowed.recall is None
    assert only_allowed.saved is not None


@pytest.mark.parametrize("row", [("let through", True), ("pass", "yes"), ("pass", None)])
def test_rows_that_are_none_are_refused(row: tuple[Route, bool]) -> None:
    with pytest.raises(ValueError, match="route is one of pass, ask, flag"):
        Audit(Goal()).observe(*row)


def test_rows_rebuild_the_state() -> None:
    seen = rows(500, 3, missed=0.1)
    live, goal = Audit(Goal(0.95, 0.95)), Goal(0.95, 0.95)
    for row in seen:
        live.observe(*row)
    again = Audit.of(seen, goal)
    assert (again.evidence, again.rows, again.estimates()) == (live.evidence, 500, live.estimates())


def alarm(missed: float, most: int, seed: int, run_length: float) -> int:
    """Flagged rows until the alarm, or `most`."""
    detector, chance = Detector(0.05), np.random.default_rng(seed)
    for miss in chance.random(most) < missed:
        detector.observe(bool(miss))
        if detector.evidence >= run_length:
            break
    return detector.rows


def test_false_alarms_are_no_more_frequent_than_agreed_on() -> None:
    """At the worst miss rate that keeps the promise."""
    run_length, most = 200, 2000
    lengths = np.array([alarm(0.05, most, seed, run_length) for seed in range(200)])
    assert lengths.mean() >= run_length  # runs that were cut short only make the mean smaller
    within = int(np.sum(lengths <= 50))
    assert binomtest(within, 200, 50 / run_length, alternative="greater").pvalue > 1e-4


def test_a_shift_is_found() -> None:
    found = [[alarm(missed, 5000, seed, 10_000) for seed in range(30)] for missed in (0.1, 0.2, 0.5)]
    medians = np.median(found, axis=1)
    assert medians.tolist() == sorted(medians, reverse=True)
    assert medians[0] < 600
    assert medians[1] < 120
    assert medians[2] < 30


def test_a_shift_after_long_calm_is_found_as_fast() -> None:
    calm = rows(3000, 1, missed=0.02)
    audit = Audit.of(calm, Goal(0.95, 0.9))
    assert audit.doubt is None
    for row in rows(1000, 2, missed=0.4):
        audit.observe(*row)
    doubt = audit.doubt
    assert doubt is not None
    assert doubt.of == "recall"
    assert doubt.rows - sum(flagged for _, flagged in calm) < 100
    assert doubt.evidence >= doubt.run_length == 10_000
    assert f"{doubt.failures} of {doubt.rows} audited rows" in str(doubt)


def test_what_the_screen_flags_is_watched_too() -> None:
    audit = Audit.of(rows(4000, 5, missed=0.02, wrong=0.5), Goal(0.95, 0.9))
    assert audit.doubt is not None
    assert audit.doubt.of == "precision"
    assert Audit.of(rows(4000, 5, missed=0.02, wrong=0.5), Goal(0.95)).doubt is None


def test_two_claims_share_the_false_alarms() -> None:
    only_misses: list[tuple[Route, bool]] = [("pass", True)] * 3
    assert Audit.of(only_misses, Goal(0.95, 0.95)).evidence == Audit.of(only_misses, Goal(0.95)).evidence / 2


def test_doubt_stays() -> None:
    audit = Audit.of([("pass", True)] * 100, Goal())
    doubt = audit.doubt
    for _ in range(2000):
        audit.observe("ask", True)
    assert audit.evidence < 10_000
    assert audit.doubt == doubt is not None


def test_evidence_stays_a_number() -> None:
    detector = Detector(0.01)
    for _ in range(3000):
        detector.observe(True)
    assert np.isfinite(detector.evidence)


@pytest.mark.parametrize("rate", [0.0, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        Detector(rate)


def test_a_promise_of_little_can_be_watched_too() -> None:
    assert Audit.of([("pass", True)] * 200, Goal(0.3)).doubt is not None


def test_a_run_length_must_be_one() -> None:
    with pytest.raises(ValueError, match="run_length"):
        Audit(Goal(), run_length=0.5)
