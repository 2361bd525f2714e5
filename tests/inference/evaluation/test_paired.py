"""Pairs: found where they differ, and not where they do not."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from inference.evaluation.answers import Answers, Task
from inference.evaluation.intervals import Measured
from inference.evaluation.paired import SIGNIFICANT, compare, holm
from inference.evaluation.ranks import ranks

Noisy = Callable[..., Answers]


def test_mcnemar_counts_rows_on_which_one_is_right(task: Task, make: Callable[..., Answers]) -> None:
    fine, bad = [1, 0, 0], [0, 1, 0]
    truth = ["ok"] * 20
    first = make(task, truth, [fine] * 20, name="first")
    second = make(task, truth, [bad] * 8 + [fine] * 12, name="second")
    (pair,) = compare(task, [first, second])
    assert (pair.first, pair.second, pair.rows, pair.only_first, pair.only_second) == ("first", "second", 20, 8, 0)
    assert pair.p == pytest.approx(2 * binom.cdf(0, 8, 0.5))
    assert np.isnan(pair.differences["auroc"].value)  # all rows are of one side
    assert pair.differences["accuracy"].value == pytest.approx(0.4)


def test_rows_are_matched_by_key(task: Task, make: Callable[..., Answers]) -> None:
    truth, scores = ["ok", "spam", "ok"], [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    first = make(task, truth, scores, keys="abc")
    second = make(task, truth[::-1], scores[::-1], keys="cbd", name="b")
    (pair,) = compare(task, [first, second])
    assert (pair.rows, pair.only_first, pair.only_second, pair.p) == (2, 0, 0, 1)
    assert compare(task, [first, make(task, ["ok"], [[1, 0, 0]], keys="x", name="x")]) == []


def test_a_difference_is_found_and_a_twin_is_not(task: Task, noisy: Noisy) -> None:
    good, twin, bad = (
        noisy(task, 300, 0.6, 1, "good"),
        noisy(task, 300, 0.6, 2, "twin"),
        noisy(task, 300, 0.0, 3, "bad"),
    )
    found = {(pair.first, pair.second): pair for pair in compare(task, [good, twin, bad])}
    for metric in ("f1", "auroc"):
        assert found["good", "twin"].differences[metric].adjusted > SIGNIFICANT
        for other in ("good", "twin"):
            pair = found[other, "bad"].differences[metric]
            assert pair.low > 0
            assert pair.adjusted < SIGNIFICANT
    assert found["good", "bad"].adjusted < SIGNIFICANT


def test_equal_subjects_rarely_differ(task: Task, noisy: Noisy) -> None:
    alarms = 0
    for seed in range(40):
        pair = compare(task, [noisy(task, 90, 0.2, 2 * seed), noisy(task, 90, 0.2, 2 * seed + 1, "b")])[0]
        alarms += pair.differences["auroc"].p < SIGNIFICANT
    assert alarms <= 6  # 2 are due; 7 come in one of 300 such rounds


def test_holm() -> None:
    """The worked example of Holm's steps: 0.01 times 4, 0.02 times 3, then what is highest so far."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


class TestRanks:
    def test_are_ranges_where_rows_cannot_tell(self, task: Task, noisy: Noisy) -> None:
        subjects = [
            noisy(task, 300, lean, seed, name)
            for name, lean, seed in (("bad", 0.0, 3), ("good", 0.6, 1), ("twin", 0.6, 2))
        ]
        figures = {each.name: Measured(value, 0, 1) for each, value in zip(subjects, (0.5, 0.91, 0.9), strict=True)}
        found = ranks("auroc", figures, compare(task, subjects))
        assert [(rank.name, rank.best, rank.worst, rank.ties) for rank in found] == [
            ("good", 1, 2, ("twin",)),
            ("twin", 1, 2, ("good",)),
            ("bad", 3, 3, ()),
        ]

    def test_of_subjects_that_were_not_compared_are_by_their_intervals(self) -> None:
        figures = {
            "a": Measured(0.2, 0.1, 0.3),
            "b": Measured(0.25, 0.15, 0.35),
            "c": Measured(0.5, 0.4, 0.6),
            "d": Measured(None),
        }
        assert [(rank.name, rank.best, rank.worst) for rank in ranks("ece", figures)] == [
            ("a", 1, 3),
            ("b", 1, 3),
            ("c", 3, 4),
            ("d", 1, 4),
        ]
