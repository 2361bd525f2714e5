"""Calibration takes the model's bias out, the expected shares in, and applies what labelled rows taught."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from inference.calibration import (
    Calibration,
    CalibrationSettings,
    interpolated,
    risk_of,
    with_confidence,
    with_risk,
)

logprobs = st.floats(-30, 0)
shares = st.floats(1e-3, 1e3)
probabilities = st.floats(0, 1)
MAP = [(0.2, 0.1), (0.6, 0.3), (0.8, 0.9)]


def rows(count: int) -> st.SearchStrategy[list[float]]:
    return st.lists(logprobs, min_size=count, max_size=count)


@st.composite
def maps(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Points with rising scores and probabilities that do not fall."""
    scores = sorted(draw(st.lists(probabilities, min_size=1, max_size=6, unique=True)))
    values = sorted(draw(st.lists(probabilities, min_size=len(scores), max_size=len(scores))))
    return list(zip(scores, values, strict=True))


@st.composite
def calibrations(draw: st.DrawFn, fitted: bool = True) -> tuple[Calibration, list[float]]:
    """A calibration, and log-probabilities for its labels."""
    count = draw(st.integers(2, 6))
    prior = draw(st.lists(shares, min_size=count, max_size=count))
    bias = draw(st.lists(rows(count), max_size=3))
    temperature = draw(st.floats(0.05, 20))
    isotonic = draw(st.just([]) | maps()) if fitted else []
    fine = draw(st.none() | st.integers(0, count - 1))
    return Calibration(bias, prior, temperature, isotonic, fine), draw(rows(count))


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda weights: sum(weights) > 1e-3))
    return [weight / sum(weights) for weight in weights]


@given(calibrations())
def test_probabilities_sum_to_one(case: tuple[Calibration, list[float]]) -> None:
    calibration, row = case
    assert math.isclose(sum(calibration(row)), 1, abs_tol=1e-9)
    assert all(0 <= share <= 1 for share in calibration(row))


@given(st.integers(2, 6).flatmap(rows), st.floats(0.05, 20))
def test_input_equal_to_the_bias_gives_the_prior(bias: list[float], temperature: float) -> None:
    uniform = Calibration([bias], [3.0] * len(bias), temperature)(bias)
    assert uniform == pytest.approx([1 / len(bias)] * len(bias))

    prior = [float(number + 1) for number in range(len(bias))]
    assert Calibration([bias], prior, temperature)(bias) == pytest.approx([share / sum(prior) for share in prior])


@given(calibrations(fitted=False), st.floats(0, 10))
def test_more_of_a_label_never_lowers_it_nor_raises_another(case: tuple[Calibration, list[float]], more: float) -> None:
    calibration, row = case
    before, after = calibration(row), calibration([row[0] + more, *row[1:]])

    assert after[0] >= before[0] - 1e-12
    assert all(new <= old + 1e-12 for old, new in zip(before[1:], after[1:], strict=True))


@given(calibrations(fitted=False), st.floats(-20, 20))
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
    assert Calibration([], [1, 1], 0.05)([0.0, -9999.0]) == [1.0, 0.0]
    assert Calibration([], [1, 1])([-9999.0, -9999.0]) == [0.5, 0.5]
    assert Calibration([], [1, 1], isotonic=MAP, fine=0)([0.0, -9999.0]) == [0.9, 0.1]


def test_refuses_another_number_of_labels() -> None:
    with pytest.raises(ValueError, match="zip"):
        Calibration([], [1, 1])([0.0])


class TestTemperature:
    def test_takes_the_root_of_the_evidence_and_leaves_the_prior(self) -> None:
        calibration = Calibration([[math.log(0.5), math.log(0.5)]], [3, 1], temperature=2)
        evidence = 3.0  # sqrt(0.9 / 0.1)
        assert calibration([math.log(0.9), math.log(0.1)]) == pytest.approx(
            [3 * evidence / (3 * evidence + 1), 1 / (3 * evidence + 1)]
        )

    def test_divides_what_is_left_without_the_bias(self) -> None:
        calibration = Calibration([[math.log(0.9), math.log(0.1)]], [1, 1], temperature=2)
        assert calibration([math.log(0.5), math.log(0.5)]) == pytest.approx([0.25, 0.75])


class TestIsotonic:
    def test_is_linear_between_points_and_level_outside_them(self) -> None:
        scores = [0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0]
        assert [interpolated(MAP, score) for score in scores] == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.6, 0.9, 0.9])
        assert {interpolated([(0.5, 0.3)], score) for score in scores} == {0.3}

    @given(maps(), probabilities, probabilities)
    def test_never_falls(self, points: list[tuple[float, float]], one: float, other: float) -> None:
        assert interpolated(points, min(one, other)) <= interpolated(points, max(one, other)) + 1e-12

    def test_maps_the_probability_that_something_is_wrong(self) -> None:
        calibrated = Calibration([], [1, 1, 1], isotonic=MAP, fine=0)([math.log(p) for p in (0.4, 0.45, 0.15)])
        assert calibrated == pytest.approx([0.7, 0.225, 0.075])

    def test_knows_the_label_of_text_that_is_fine_by_its_index(self) -> None:
        calibrated = Calibration([], [1, 1, 1], isotonic=MAP, fine=2)([math.log(p) for p in (0.45, 0.15, 0.4)])
        assert calibrated == pytest.approx([0.225, 0.075, 0.7])

    def test_maps_the_probability_of_the_first_label_where_none_is_fine(self) -> None:
        calibrated = Calibration([], [1, 1, 1], isotonic=[(0, 0), (1, 0.75)])([math.log(p) for p in (0.1, 0.6, 0.3)])
        assert calibrated[1] == pytest.approx(0.45)
        assert sum(calibrated) == pytest.approx(1)

    def test_comes_after_the_prior(self) -> None:
        calibrated = Calibration([], [4, 6], isotonic=MAP, fine=0)([math.log(0.5), math.log(0.5)])
        assert calibrated == pytest.approx([0.7, 0.3])

    @given(distributions(), probabilities, st.data())
    def test_risk_is_shared_as_before(self, before: list[float], risk: float, data: st.DataObject) -> None:
        fine = data.draw(st.integers(0, len(before) - 1))
        after = with_risk(before, fine, risk)

        assert risk_of(after, fine) == pytest.approx(risk, abs=1e-9)
        assert sum(after) == pytest.approx(1)
        if risk_of(before, fine) > 0:
            shared = [value / risk_of(before, fine) * risk for value in before]
            assert [*after[:fine], *after[fine + 1 :]] == pytest.approx([*shared[:fine], *shared[fine + 1 :]])

    def test_risk_out_of_nothing_is_shared_equally(self) -> None:
        assert with_risk([1.0, 0.0, 0.0], 0, 0.5) == [0.5, 0.25, 0.25]

    @given(distributions(), probabilities)
    def test_labels_keep_their_order(self, before: list[float], confidence: float) -> None:
        after = with_confidence(before, confidence)
        top = before.index(max(before))

        assert sum(after) == pytest.approx(1)
        assert after[top] == pytest.approx(max(after))
        assert after[top] == pytest.approx(max(confidence, 1 / len(before)))
        order = sorted(range(len(before)), key=lambda index: (before[index], index == top))
        assert [after[index] for index in order] == pytest.approx(sorted(after))

    def test_confidence_that_is_raised_takes_from_the_others_as_they_have(self) -> None:
        assert with_confidence([0.5, 0.3, 0.2], 0.8) == pytest.approx([0.8, 0.12, 0.08])
        assert with_confidence([0.0, 1.0], 1.0) == [0.0, 1.0]


class TestSettings:
    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"temperature": 0}, "greater than 0"),
            ({"temperature": math.inf}, "finite number"),
            ({"temperature": math.nan}, "temperature"),
            ({"temperature": 1.7, "isotonic": MAP}, "two fits of the same thing; give one of them"),
            ({"isotonic": [[0.3, 0.1], [0.3, 0.2]]}, "scores must rise from point to point, but 0.3 follows 0.3"),
            ({"isotonic": [[0.3, 0.1], [0.2, 0.2]]}, "scores must rise from point to point, but 0.2 follows 0.3"),
            ({"isotonic": [[0.3, 0.2], [0.4, 0.1]]}, "probabilities must not fall, but 0.1 follows 0.2"),
            ({"isotonic": [[0.3, 1.1]]}, "less than or equal to 1"),
            ({"isotonic": [[-0.1, 0.1]]}, "greater than or equal to 0"),
            ({"isotonic": [[0.1, math.nan]]}, "isotonic"),
            ({"isotonic": [[0.3]]}, "isotonic"),
        ],
    )
    def test_mistake_is_told(self, given: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError) as caught:
            CalibrationSettings.model_validate(given)
        assert told in str(caught.value)

    @pytest.mark.parametrize("points", [[], [[0, 0]], [[0, 0.5], [1, 0.5]], MAP])
    def test_level_stretches_and_single_points_are_fine(self, points: Sequence[Sequence[float]]) -> None:
        assert CalibrationSettings.model_validate({"isotonic": points}).isotonic == list(map(tuple, points))
