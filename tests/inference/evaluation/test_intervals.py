"""Intervals hold the truth as often as they say."""

from functools import cache

import numpy as np
import pytest

from inference.evaluation.answers import Binary
from inference.evaluation.intervals import UNKNOWN, bootstrapped, draws, f1, share
from inference.evaluation.statistics import of_binary

SAMPLES = 300
CURVES = 100


def test_share_is_clopper_and_pearsons() -> None:
    """Table values, for example of Brown, Cai and DasGupta (2001): none of 10 is up to 0.308."""
    found = share(0, 10)
    assert (found.value, found.low, found.high) == (0, 0, pytest.approx(0.3085, abs=1e-4))
    assert share(0, 0) == UNKNOWN


@pytest.mark.parametrize(("hits", "misses", "alarms"), [(30, 20, 10), (5, 20, 0), (8, 1, 1)])
def test_the_exact_interval_of_f1_holds_it(hits: int, misses: int, alarms: int) -> None:
    random, kinds = np.random.default_rng(1), np.array([hits, misses, alarms])
    truth = 2 * hits / (2 * hits + misses + alarms)
    known, held = cache(f1), 0
    for drawn in random.multinomial(kinds.sum(), kinds / kinds.sum(), SAMPLES):
        found = known(int(drawn[0]), int(drawn[1] + drawn[2]))
        held += found.low is not None and found.high is not None and found.low <= truth <= found.high
    assert held / SAMPLES >= 0.95 - 0.03
    assert f1(hits, misses + alarms).value == pytest.approx(truth)


def test_the_bootstrap_holds_the_area_under_the_curve() -> None:
    """Of two normal distributions one standard deviation apart it is 0.7602."""
    random, held = np.random.default_rng(2), 0
    outcome = np.arange(80) % 2 == 0
    for _ in range(CURVES):
        score = random.normal(size=80) + outcome
        areas = {"auroc": of_binary(Binary(score, score > 0.5, outcome))["auroc"]}
        found = bootstrapped(areas, 80, 40)["auroc"]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7602 <= found.high
    assert 90 <= held <= 99


@pytest.mark.parametrize("turned", [1, -1])
def test_ten_rows_that_are_all_right_prove_little(turned: int) -> None:
    outcome = np.arange(10) < 5
    asked = Binary(outcome * turned * 1.0, outcome, outcome)
    areas = {name: each for name, each in of_binary(asked).items() if name in ("auroc", "auprc")}
    found = bootstrapped(areas, 10, 5)["auroc"]
    assert (found.value, found.method) == (1 if turned > 0 else 0, "exact")
    assert found.high is not None
    assert found.low is not None
    assert found.high - found.low == pytest.approx(0.5218, abs=1e-3)


def test_nothing_is_known_of_one_class_or_no_rows() -> None:
    outcome = np.ones(10, dtype=bool)
    areas = of_binary(Binary(np.linspace(0, 1, 10), outcome, outcome))
    assert bootstrapped({"auroc": areas["auroc"]}, 10, 0) == {"auroc": UNKNOWN}
    assert bootstrapped(areas, 0, 0) == dict.fromkeys(areas, UNKNOWN)


def test_draws_are_the_same_each_time_and_of_as_many_rows() -> None:
    first, second = (np.concatenate(list(draws(3000, 1500))) for _ in range(2))
    assert first.shape == (1500, 3000)
    assert (first == second).all()
    assert (first.sum(axis=1) == 3000).all()
    assert not (first[0] == first[1]).all()
