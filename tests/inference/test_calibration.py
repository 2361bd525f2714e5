"""Calibration takes the model's bias out and the expected shares in."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.calibration import Calibration

logprobs = st.floats(-30, 0)
shares = st.floats(1e-3, 1e3)


def rows(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(logprobs, min_size=count, max_size=count)


@st.composite
def calibrations(draw: st.DrawFn) -> tuple[Calibration, list[float]]:
    """A calibration, and log-probabilities for its labels."""
    count = draw(st.integers(2, 6))
    prior = draw(st.lists(shares, min_size=count, max_size=count))
    return Calibration(draw(st.lists(rows(count), max_size=3)), prior), draw(rows(count))


@given(calibrations())
def test_probabilities_sum_to_one(case: tuple[Calibration, list[float]]) -> None:
    calibration, row = case
    assert math.isclose(sum(calibration(row)), 1, abs_tol=1e-9)
    assert all(0 <= share <= 1 for share in calibration(row))


@given(st.integers(2, 6).flatmap(rows))
def test_input_equal_to_the_bias_gives_the_prior(bias: list[float]) -> None:
    uniform = Calibration([bias], [3.0] * len(bias))(bias)
    assert uniform == pytest.approx([1 / len(bias)] * len(bias))

    prior = [float(number + 1) for number in range(len(bias))]
    assert Calibration([bias], prior)(bias) == pytest.approx([share / sum(prior) for share in prior])


@given(calibrations(), st.floats(0, 10))
def test_more_of_a_label_never_lowers_it_nor_raises_another(case: tuple[Calibration, list[float]], more: float) -> None:
    calibration, row = case
    before, after = calibration(row), calibration([row[0] + more, *row[1:]])

    assert after[0] >= before[0] - 1e-12
    assert all(new <= old + 1e-12 for old, new in zip(before[1:], after[1:], strict=True))


@given(calibrations(), st.floats(-20, 20))
def test_only_ratios_count(case: tuple[Calibration, list[float]], shift: float) -> None:
    calibration, row = case
    assert calibration([value + shift for value in row]) == pytest.approx(calibration(row), abs=1e-9)


def test_without_bias_and_with_equal_prior_probabilities_are_the_models() -> None:
    assert Calibration([], [1, 1])([math.log(0.2), math.log(0.6)]) == pytest.approx([0.25, 0.75])


def test_bias_is_the_mean_of_the_logarithms() -> None:
    calibration = Calibration([[math.log(0.8), math.log(0.2)], [math.log(0.2), math.log(0.8)]] * 2, [1, 1])
    assert calibration([math.log(0.3), math.log(0.7)]) == pytest.approx([0.3, 0.7])

    skewed = Calibration([[math.log(0.8), math.log(0.2)], [math.log(0.5), math.log(0.5)]], [1, 1])
    assert skewed([math.log(2 / 3), math.log(1 / 3)]) == pytest.approx([0.5, 0.5])


def test_prior_multiplies() -> None:
    assert Calibration([], [9, 1])([math.log(0.5), math.log(0.5)]) == pytest.approx([0.9, 0.1])


def test_labels_out_of_reach_do_no_harm() -> None:
    assert Calibration([], [1, 1])([0.0, -9999.0]) == [1.0, 0.0]
    assert Calibration([], [1, 1])([-9999.0, -9999.0]) == [0.5, 0.5]


def test_refuses_another_number_of_labels() -> None:
    with pytest.raises(ValueError, match="zip"):
        Calibration([], [1, 1])([0.0])
