"""Figures of many weightings at once, against scikit-learn's of one."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from inference.evaluation.answers import Answers, Binary, Task, of_label, right, side
from inference.evaluation.statistics import of_binary, of_task, once

Make = Callable[..., Answers]

ROWS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0]), st.booleans(), st.booleans(), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_they_agree_with_scikit_learn(rows: list[tuple[float, bool, bool, int]]) -> None:
    score, chosen, outcome, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = {
        name: float(statistic(weights[None, :].astype(np.float32))[0])
        for name, statistic in of_binary(Binary(score, chosen, outcome)).items()
    }
    assume(weights.any())
    weighted = {"sample_weight": weights, "zero_division": np.nan}
    counted = weights > 0
    both = len(set(outcome[counted])) == 2
    truth = {
        "precision": precision_score(outcome, chosen, **weighted),
        "recall": recall_score(outcome, chosen, **weighted),
        "f1": f1_score(outcome, chosen, **weighted),
        "auroc": roc_auc_score(outcome, score, sample_weight=weights) if both else np.nan,
        "auprc": average_precision_score(outcome, score, sample_weight=weights) if outcome[counted].any() else np.nan,
    }
    assert found == pytest.approx(truth, nan_ok=True, abs=1e-6)


def test_each_weighting_is_measured_by_itself(task: Task, noisy: Make) -> None:
    answers = noisy(task, 40, 0.4)
    draws = np.random.default_rng(1).integers(0, 3, (5, 40)).astype(np.float32)
    for statistic in of_task(task, answers).values():
        assert statistic(draws) == pytest.approx([float(statistic(row[None, :])[0]) for row in draws])


def test_of_several_labels_means_are_taken(sorting: Task, noisy: Make) -> None:
    answers = noisy(sorting, 60, 0.3)
    found = {name: float(statistic(once(60))[0]) for name, statistic in of_task(sorting, answers).items()}
    assert found == pytest.approx(
        {
            "accuracy": accuracy_score(answers.truth, answers.predicted),
            "macro_f1": f1_score(answers.truth, answers.predicted, average="macro"),
            "macro_auroc": roc_auc_score(  # which wants the columns in the order of the alphabet
                answers.truth, answers.scores[:, [0, 2, 1]], multi_class="ovr"
            ),
        }
    )


def test_a_coarse_label_is_against_the_rules_and_of_no_category(task: Task, make: Make) -> None:
    answers = make(task, ["toxic", "ok", "spam"], [[0.1, 0.8, 0.1], [0.9, 0, 0.1], [0.2, 0.1, 0.7]])
    assert side(task, answers).outcome.tolist() == [True, False, True]
    assert right(task, answers).tolist() == [True, True, True]
    assert of_label(task, answers, "spam").outcome.tolist() == [False, True]
    assert of_label(task, answers, "ok").outcome.tolist() == [False, True, False]
