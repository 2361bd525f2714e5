"""Rows that were judged stand for those that were not, by their risk."""

import numpy as np
import pytest

from inference.cascade.choose import audited
from inference.cascade.weights import BANDS, effective, weights


@pytest.mark.parametrize(
    ("bands", "found"),
    [
        ([], []),
        ([(100, 2), (7, 7)], [50, 1]),
        ([(30, 0), (70, 2), (7, 7)], [50, 50, 1]),
        ([(7, 7), (100, 4), (30, 0), (20, 0)], [1, 37.5, 37.5, 37.5]),
        ([(10, 0), (10, 0)], [1, 1]),
    ],
)
def test_a_judged_row_stands_for_those_of_its_risk(bands: list[tuple[int, int]], found: list[float]) -> None:
    assert weights(bands) == pytest.approx(found)
    assert len(weights(bands)) == len(bands)


def test_weighted_rows_are_like_the_traffic() -> None:
    """Below a risk of 0.3 a twentieth is judged, above it all: shares of all rows are found again."""
    chance = np.random.default_rng(3)
    risk = chance.beta(1.2, 3, 20_000)
    flagged = chance.random(20_000) < risk
    judged = (risk >= 0.3) | np.array([audited(number, 0.05) for number in range(20_000)])
    band = np.minimum((risk * BANDS).astype(int), BANDS - 1)
    counts = [(int((band == each).sum()), int((judged & (band == each)).sum())) for each in range(BANDS)]
    found = np.array(weights(counts))[band[judged]]
    assert found.sum() == pytest.approx(20_000)
    assert np.average(flagged[judged], weights=found) == pytest.approx(flagged.mean(), abs=0.01)
    assert flagged[judged].mean() > flagged.mean() + 0.1
    assert 1000 < effective(found) < judged.sum()


def test_rows_of_one_weight_tell_as_much_as_they_are() -> None:
    assert effective([3.0] * 7) == pytest.approx(7)
    assert effective([1, 0, 0]) == pytest.approx(1)
    assert effective([]) == 0
