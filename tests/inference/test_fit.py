"""Fits find what made the rows, figures tell good probabilities from bad, and no row is judged by a fit to itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.calibration import CalibrationSettings, interpolated
from inference.fit import (
    FOLDS,
    Bin,
    Fit,
    LabelledRows,
    bins_for,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    quality,
    reliability,
)

PRIOR = [6.0, 1.0, 2.0]


def drawn(temperature: float, count: int = 4000, fine: int | None = None, seed: int = 0) -> LabelledRows:
    """Rows whose labels come true as often as evidence of this temperature says."""
    random = np.random.default_rng(seed)
    evidence = random.normal(0, 3, (count, len(PRIOR)))
    weights = np.exp(evidence / temperature) * PRIOR
    sums = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    labels = np.minimum((random.random((count, 1)) > sums).sum(axis=1), len(PRIOR) - 1)
    return LabelledRows(evidence, PRIOR, labels, fine)


def came_true(scores: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(len(scores)) < scores).astype(float)


class TestTemperature:
    @pytest.mark.parametrize("fine", [None, 0])
    @pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
    def test_that_made_the_rows_is_found(self, temperature: float, fine: int | None) -> None:
        assert drawn(temperature, fine=fine).fit("temperature").temperature == pytest.approx(temperature, rel=0.15)

    def test_categories_need_not_be_told_apart_where_only_the_risk_counts(self) -> None:
        rows = drawn(2.0, fine=0)
        merged = LabelledRows(rows.evidence, rows.prior, np.minimum(rows.labels, 1), fine=0)
        assert merged.fit("temperature") == rows.fit("temperature")
        assert LabelledRows(rows.evidence, rows.prior, merged.labels, None).fit("temperature") != rows.fit(
            "temperature"
        )

    def test_that_makes_a_share_right_is_found_exactly(self) -> None:
        """Odds of 9 to 1 that come true in 3 of 4 rows: log 9 / log 3."""
        evidence = np.log([[0.9, 0.1]] * 4)
        right = np.array([[True, False]] * 3 + [[False, True]])
        assert fit_temperature(evidence, [1, 1], right) == pytest.approx(2, abs=0.002)

    def test_evidence_against_the_labels_ends_at_the_bound(self) -> None:
        evidence = np.log([[0.9, 0.1]] * 4)
        assert fit_temperature(evidence, [1, 1], np.array([[False, True]] * 4)) == pytest.approx(20, rel=0.01)


class TestIsotonic:
    @given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
    def test_is_a_map_that_a_pipeline_file_may_have(self, rows: list[tuple[float, bool]]) -> None:
        scores, outcomes = (np.array(column, float) for column in zip(*rows, strict=True))
        points = fit_isotonic(scores, outcomes)

        assert CalibrationSettings(isotonic=points).isotonic == points
        assert all(0 < probability < 1 for _, probability in points)

    def test_is_the_share_that_came_true_where_scores_are_few(self) -> None:
        scores = np.repeat([0.2, 0.5, 0.9], 100)
        outcomes = np.concatenate([np.arange(100) < true for true in (20, 40, 60)]).astype(float)
        found = fit_isotonic(scores, outcomes)
        assert [interpolated(found, score) for score in (0.2, 0.5, 0.9)] == pytest.approx(
            [21 / 102, 0.4, 61 / 102], abs=1e-6
        )

    def test_few_rows_make_nothing_certain(self) -> None:
        found = fit_isotonic(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0, 1, 1]))
        assert [probability for _, probability in found] == pytest.approx([0.25, 0.25, 0.75, 0.75])

    def test_pools_what_falls(self) -> None:
        scores, outcomes = np.repeat([0.3, 0.7], 50), np.repeat([1.0, 0.0], 50)
        assert {probability for _, probability in fit_isotonic(scores, outcomes)} == {0.5}

    @pytest.mark.parametrize("fine", [None, 0])
    def test_undoes_what_was_done_to_the_scores(self, fine: int | None) -> None:
        rows, fresh = drawn(2.5, fine=fine), drawn(2.5, fine=fine, seed=1)
        fitted = quality(*fresh.scored(rows.fit("isotonic")))
        assert quality(*fresh.scored(Fit())).ece > 0.1
        assert fitted.ece < 0.05


class TestError:
    def test_is_the_mean_distance_of_the_bins_by_their_rows(self) -> None:
        scores = np.array([0.1] * 6 + [0.9] * 2)
        outcomes = np.array([1.0, 0, 0, 0, 0, 0, 1, 0])
        assert expected_calibration_error(scores, outcomes, 2) == pytest.approx(
            (6 * abs(0.1 - 1 / 6) + 2 * abs(0.9 - 0.5)) / 8
        )

    def test_does_not_cancel_between_bins(self) -> None:
        scores, outcomes = np.array([0.4] * 5 + [0.6] * 5), np.array([0.0] * 5 + [1.0] * 5)
        assert scores.mean() == outcomes.mean()
        assert expected_calibration_error(scores, outcomes, 2) == pytest.approx(0.4)

    def test_bins_have_as_many_rows_each(self) -> None:
        scores = np.random.default_rng(0).beta(1, 5, 200)
        assert [found.rows for found in reliability(scores, came_true(scores), 10)] == [20] * 10

    def test_equal_scores_share_a_bin_whatever_their_order(self) -> None:
        scores, outcomes = np.full(20, 0.5), np.array([0.0] * 10 + [1.0] * 10)
        assert reliability(scores, outcomes, 4) == [Bin(20, 0.5, 0.5)]
        assert len(reliability(scores + 1e-12 * outcomes, outcomes, 4)) == 1
        assert expected_calibration_error(scores, outcomes, 4) == 0

    def test_is_of_the_bins_that_are_shown(self) -> None:
        scores = np.random.default_rng(0).random(300)
        outcomes = came_true(scores**2)
        bins = reliability(scores, outcomes, 7)
        assert expected_calibration_error(scores, outcomes, 7) == pytest.approx(
            sum(found.rows * abs(found.score - found.share) for found in bins) / 300
        )

    @pytest.mark.parametrize(("rows", "bins"), [(5, 2), (65, 3), (200, 10), (10_000, 10)])
    def test_has_no_bins_of_a_few_rows(self, rows: int, bins: int) -> None:
        assert bins_for(rows) == bins


class TestQuality:
    def test_is_told_by_the_usual_scores(self) -> None:
        found = quality(np.array([0.8, 0.8, 0.4, 0.4]), np.array([1.0, 0, 0, 0]))
        assert found.brier == pytest.approx((0.04 + 0.64 + 0.16 + 0.16) / 4)
        assert found.log_loss == pytest.approx(-math.log(0.8 * 0.2 * 0.6 * 0.6) / 4)
        assert (found.rows, found.bins) == (4, 2)

    def test_perfect_scores_are_within_what_chance_does(self) -> None:
        """In 95 of 100 samples, by what the figure means."""
        random = np.random.default_rng(2)
        samples = [random.beta(1, 2, 200) for _ in range(20)]
        found = [quality(scores, came_true(scores, seed)) for seed, scores in enumerate(samples)]
        assert sum(each.ece <= each.by_chance for each in found) >= 17

    def test_interval_holds_the_error_of_the_population(self) -> None:
        """Percentiles of resamples would hold it in one sample of ten."""
        random = np.random.default_rng(3)
        endless = random.beta(1, 2, 100_000)
        error = expected_calibration_error(endless, 0.1 + 0.8 * endless)
        samples = [random.beta(1, 2, 300) for _ in range(20)]
        found = [quality(scores, came_true(0.1 + 0.8 * scores, seed)) for seed, scores in enumerate(samples)]
        assert sum(each.interval[0] <= error <= each.interval[1] for each in found) >= 16

    def test_interval_of_scores_that_are_far_off_is_far_from_zero(self) -> None:
        scores = np.random.default_rng(3).uniform(0.3, 1, 200)
        found = quality(scores, came_true(scores - 0.3))
        assert found.by_chance < found.interval[0] < 0.3 < found.interval[1] < 0.5

    def test_outcomes_of_one_kind_are_measured_too(self) -> None:
        assert quality(np.array([0.9] * 10), np.ones(10)).ece == pytest.approx(0.1)


class TestOutOfFold:
    def test_no_row_is_judged_by_a_fit_to_itself(self) -> None:
        """Outcomes of pure chance: only a map that has seen them does better than a coin."""
        random = np.random.default_rng(4)
        seen, fresh = [], []
        for _ in range(10):
            rows = LabelledRows(random.normal(0, 1, (60, 2)), [1, 1], random.integers(0, 2, 60), 0)
            seen.append(quality(*rows.scored(rows.fit("isotonic"))).log_loss)
            fresh.append(quality(*rows.out_of_fold("isotonic")).log_loss)
        assert np.mean(seen) < math.log(2) < np.mean(fresh)

    def test_without_a_fit_nothing_differs(self) -> None:
        rows = drawn(2.0, 200)
        for one, other in zip(rows.out_of_fold("none"), rows.scored(Fit()), strict=True):
            assert one.tolist() == other.tolist()

    @pytest.mark.parametrize("method", ["temperature", "isotonic"])
    @pytest.mark.parametrize("fine", [None, 0])
    def test_a_fit_helps_where_scores_are_wrong(self, method: str, fine: int | None) -> None:
        rows = drawn(2.5, 600, fine)
        before, after = quality(*rows.out_of_fold("none")), quality(*rows.out_of_fold(method))  # type: ignore[arg-type]
        assert after.ece < before.ece / 2
        assert after.log_loss < before.log_loss
        assert after.brier < before.brier

    def test_every_fold_has_rows_of_both_outcomes(self) -> None:
        labels = np.array([0] * 200 + [1] * FOLDS)
        rows = LabelledRows(np.zeros((len(labels), 2)), [1, 1], labels, 0)
        scores, _ = rows.out_of_fold("isotonic")
        assert np.ptp(scores) < 0.01
