"""Exact statements about a share from a count: no approximation, so they also hold for few rows.

Needs the extra `eval` or `screen`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom


class Interval(NamedTuple):
    """A share of rows with its confidence interval. hits: for how many of the rows it is so."""

    share: float
    low: float
    high: float
    hits: int
    rows: int


def tail(failures: int, rows: int, rate: float) -> float:
    """The probability of so few failures or fewer if they came at `rate`: p-value of "the rate is at least this"."""
    return float(binom.cdf(failures, rows, rate)) if rows else 1.0


def tails(failures: NDArray[np.intp], rows: NDArray[np.intp], rate: float) -> NDArray[np.float64]:
    """`tail` of many counts at once, none of them of no rows."""
    found: NDArray[np.float64] = binom.cdf(failures, rows, rate)
    return found


def most_failures(rows: int, rate: float, delta: float) -> int:
    """How many failures of `rows` still show, at level `delta`, that they come at less than `rate`; -1: none do."""
    found = int(binom.ppf(delta, rows, rate)) + 1 if rows else -1
    while found >= 0 and tail(found, rows, rate) > delta:
        found -= 1
    return found


def rows_needed(rate: float, delta: float) -> int:
    """How many rows without failure show, at level `delta`, that failures come at less than `rate`."""
    return math.ceil(math.log(delta) / math.log1p(-rate))


def lower_bound(count: int, rows: int, confidence: float) -> float:
    """The one-sided lower bound of Clopper and Pearson (1934) of a share."""
    return float(beta.ppf(1 - confidence, count, rows - count + 1)) if count else 0.0


def clopper_pearson(count: int, rows: int, confidence: float) -> Interval | None:
    """The two-sided interval of Clopper and Pearson (1934); None where there are no rows."""
    if not rows:
        return None
    each = (1 + confidence) / 2
    low, high = lower_bound(count, rows, each), 1 - lower_bound(rows - count, rows, each)
    return Interval(count / rows, low, high, count, rows)
