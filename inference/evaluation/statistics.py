"""Figures of many weightings of the same rows at once, which is what makes a bootstrap a matter of seconds.

A weighting says how often each row counts: once, or as often as a resample drew it. All functions here take weights
(weightings by rows) and return a figure for each weighting, NaN where it is not defined. They agree with scikit-learn's
`sample_weight`.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from inference.evaluation.answers import Answers, Binary, Flags, Task, Vector, of_label, right, side

Weights = NDArray[np.float32]
Statistic = Callable[[Weights], Vector]


def once(rows: int) -> Weights:
    """Each row counts once."""
    return np.ones((1, rows), dtype=np.float32)


class Ranking:
    """Areas under curves of a score, which rows of the outcome should have more of."""

    def __init__(self, score: Vector, outcome: Flags) -> None:
        order = np.argsort(-score, kind="stable")
        ranked = score[order]
        self._order = order
        self._true = outcome[order]
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else order

    def auroc(self, weights: Weights) -> Vector:
        """Area under the ROC curve; rows of the same score share a step."""
        true, false = self._steps(weights)
        if not true.shape[1]:
            return np.full(len(weights), np.nan)
        before = np.pad(true, ((0, 0), (1, 0)))[:, :-1]
        area = (np.diff(false, axis=1, prepend=0) * (true + before) / 2).sum(axis=1)
        return _divided(area, true[:, -1] * false[:, -1])

    def auprc(self, weights: Weights) -> Vector:
        """Average precision: the area under the curve of precision over recall, without interpolation."""
        true, false = self._steps(weights)
        if not true.shape[1]:
            return np.full(len(weights), np.nan)
        precision = np.nan_to_num(_divided(true, true + false))
        return _divided((np.diff(true, axis=1, prepend=0) * precision).sum(axis=1), true[:, -1])

    def _steps(self, weights: Weights) -> tuple[Vector, Vector]:
        """Weight of the rows that are true, and of those that are not, from each score up."""
        ranked = weights[:, self._order].astype(np.float64)
        counted = np.cumsum(ranked, axis=1)[:, self._ends]
        true = np.cumsum(ranked * self._true, axis=1)[:, self._ends]
        return true, counted - true


def lead(first: Statistic, second: Statistic) -> Statistic:
    """First less second. Of the same resamples, so that its bootstrap is a paired one."""
    return lambda weights: first(weights) - second(weights)


def of_binary(asked: Binary) -> Mapping[str, Statistic]:
    """precision, recall, f1, auroc, auprc."""
    hit, ranking = asked.chosen & asked.outcome, Ranking(asked.score, asked.outcome)

    def share(of: NDArray[np.bool_], among: Vector | NDArray[np.bool_]) -> Statistic:
        return lambda weights: _divided(_sum(weights, of), _sum(weights, among))

    return {
        "precision": share(hit, asked.chosen),
        "recall": share(hit, asked.outcome),
        "f1": share(hit, (asked.chosen.astype(float) + asked.outcome) / 2),
        "auroc": ranking.auroc,
        "auprc": ranking.auprc,
    }


def of_task(task: Task, answers: Answers) -> Mapping[str, Statistic]:
    """What subjects are compared by. With a fine label as `of_binary`, of whether the text is against the rules;
    otherwise accuracy and, as means over the labels that the rows have, macro_f1 and macro_auroc.
    """
    correct = right(task, answers)
    accuracy: Statistic = lambda weights: _divided(_sum(weights, correct), weights.sum(axis=1))  # noqa: E731
    if task.fine is not None:
        return {**of_binary(side(task, answers)), "accuracy": accuracy}
    present = [label for label in task.labels if label in set(answers.truth)]
    each = [of_binary(of_label(task, answers, label)) for label in present]

    def mean(name: str) -> Statistic:
        return lambda weights: _mean(np.array([found[name](weights) for found in each]).reshape(-1, len(weights)))

    return {"accuracy": accuracy, "macro_f1": mean("f1"), "macro_auroc": mean("auroc")}


def _sum(weights: Weights, rows: NDArray[np.bool_] | Vector) -> Vector:
    return (weights @ rows.astype(np.float32)).astype(np.float64)


def _mean(values: Vector) -> Vector:
    """Over labels, of those that a weighting has."""
    known = ~np.isnan(values)
    return _divided(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _divided(above: Vector, below: Vector | NDArray[np.intp]) -> Vector:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)
