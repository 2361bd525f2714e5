"""95% intervals: exact where a figure is a share, by resampling where it is not."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from inference.binomial import clopper_pearson
from inference.evaluation.answers import Vector
from inference.evaluation.statistics import Statistic, Weights, once

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 1

_CELLS = 2_000_000  # of a batch of resamples, in memory at once


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure with its 95% interval; None where it is not defined. rows: how many it rests on. method: of the
    interval: `exact` (Clopper and Pearson, 1934) or `bootstrap` (percentiles of resampled rows).
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    method: str = ""


UNKNOWN = Measured(None)


def share(true: int, rows: int) -> Measured:
    """A share of rows."""
    found = clopper_pearson(true, rows, CONFIDENCE)
    return UNKNOWN if found is None else Measured(found.share, found.low, found.high, rows, "exact")


def f1(hits: int, wrong: int) -> Measured:
    """F1 of so many hits, and of misses and false alarms together.

    F1 is 2J / (1 + J), where J is the share of hits among all three, so that the exact interval of J gives that of F1
    for the number of rows that are no correct rejections.
    """
    found = share(hits, hits + wrong)
    if found.value is None or found.low is None or found.high is None:
        return UNKNOWN
    value, low, high = (2 * each / (1 + each) for each in (found.value, found.low, found.high))
    return Measured(value, low, high, found.rows, "exact")


def draws(rows: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Weights]:
    """Weightings of so many bootstrap resamples, in batches. The same for the same arguments, so that figures of
    several subjects on the same rows are paired.
    """
    random = np.random.default_rng(seed)
    size = max(1, min(resamples, _CELLS // max(1, rows)))
    for start in range(0, resamples, size):
        count = min(size, resamples - start)
        drawn = random.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows).astype(np.float32)


def resampled(statistics: Mapping[str, Statistic], rows: int) -> Mapping[str, Vector]:
    """Each statistic of every resample, all of them of the same resamples."""
    found: dict[str, list[Vector]] = {name: [] for name in statistics}
    for weights in draws(rows):
        for name, statistic in statistics.items():
            found[name].append(statistic(weights))
    return {name: np.concatenate(values) for name, values in found.items()}


def bootstrapped(statistics: Mapping[str, Statistic], rows: int, rarer: int) -> Mapping[str, Measured]:
    """Figures with percentile intervals.

    rarer: rows of the rarer outcome. A figure of 0 or 1 has resamples that are all the same, which would be a claim to
    know it exactly; its interval is that of a share among the rarer outcome's rows.
    """
    if not rows:
        return dict.fromkeys(statistics, UNKNOWN)
    values = {name: float(statistic(once(rows))[0]) for name, statistic in statistics.items()}
    known = {name: statistic for name, statistic in statistics.items() if not math.isnan(values[name])}
    found = resampled(known, rows)
    measured = dict.fromkeys(statistics, UNKNOWN)
    for name in known:
        value = min(1.0, max(0.0, values[name]))
        low, high = interval(found[name])
        if rarer and (value < 1e-9 or value > 1 - 1e-9):
            edge = share(rarer if value > 0.5 else 0, rarer)
            measured[name] = Measured(round(value), edge.low, edge.high, rows, "exact")
        else:
            measured[name] = Measured(value, min(low, value), max(high, value), rows, "bootstrap")
    return measured


def interval(values: Vector) -> tuple[float, float]:
    """Percentiles that hold 95%; resamples without the figure are left out."""
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
