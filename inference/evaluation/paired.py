"""Are two subjects different? Both answered the same rows, and that is used: differences of pairs vary less."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import binomtest, norm

from inference.evaluation.answers import Answers, Task, Vector, right
from inference.evaluation.intervals import interval, resampled
from inference.evaluation.statistics import lead, of_task, once

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """First less second, with its 95% interval. p: of no difference. adjusted: the same, for as many comparisons as
    were made (Holm, 1979).
    """

    value: float
    low: float
    high: float
    p: float
    adjusted: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two subjects on the rows that both answered.

    only_first, only_second: rows on which one was right and the other wrong. p: of McNemar's exact test, that either is
    as frequent; adjusted: for as many comparisons as were made. differences: paired bootstrap.
    """

    first: str
    second: str
    rows: int
    only_first: int
    only_second: int
    p: float
    adjusted: float
    differences: Mapping[str, Difference]


def compare(task: Task, subjects: Sequence[Answers]) -> list[Comparison]:
    """Every pair of subjects. Those without a row in common are left out."""
    found = [pair for pair in (_pair(task, *two) for two in combinations(subjects, 2)) if pair is not None]
    adjusted = holm([pair.p for pair in found])
    names = list(found[0].differences) if found else []
    by_name = {name: holm([pair.differences[name].p for pair in found]) for name in names}
    return [
        replace(
            pair,
            adjusted=adjusted[place],
            differences={name: replace(each, adjusted=by_name[name][place]) for name, each in pair.differences.items()},
        )
        for place, pair in enumerate(found)
    ]


def _pair(task: Task, first: Answers, second: Answers) -> Comparison | None:
    places = {key: row for row, key in enumerate(second.keys)}
    common = [row for row, key in enumerate(first.keys) if key in places]
    if not common:
        return None
    a, b = first.take(common), second.take([places[first.keys[row]] for row in common])
    right_a, right_b = right(task, a), right(task, b)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return Comparison(first.name, second.name, len(common), only_a, only_b, p, p, _differences(task, a, b, p))


def _differences(task: Task, a: Answers, b: Answers, p: float) -> dict[str, Difference]:
    """p: of McNemar's test."""
    ours, theirs, rows = of_task(task, a), of_task(task, b), len(a)
    leads = {name: lead(ours[name], theirs[name]) for name in ours}
    value = {name: float(each(once(rows))[0]) for name, each in leads.items()}
    sampled = resampled(leads, rows)
    return {
        name: _difference(each, sampled[name], p)
        if not math.isnan(each)
        else Difference(math.nan, math.nan, math.nan, 1.0, 1.0)
        for name, each in value.items()
    }


def _difference(value: float, sampled: Vector, exact: float) -> Difference:
    """p: of the difference over its bootstrap standard error (Efron and Tibshirani, 1993). Counting resamples on the
    other side of zero could show no p below one over their number, which many comparisons need.

    exact: p of McNemar's test, for a difference that all resamples have alike, such as between always and never.
    """
    low, high = interval(sampled)
    error = float(np.nanstd(sampled))
    alike = error < 1e-9
    p = (exact if abs(value) > 1e-9 else 1.0) if alike else float(2 * norm.sf(abs(value) / error))
    return Difference(value, min(low, value), max(high, value), p, p)


def holm(values: Sequence[float]) -> list[float]:
    """Each p for as many tests as there are, so that the chance of any false alarm stays what one test's would be."""
    adjusted, highest = [1.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, values[index] * (len(values) - place)))
        adjusted[index] = highest
    return adjusted
