"""Fit calibration to rows that people labelled, and measure what it is worth.

Needs the extra `eval`; the worker does not import this. What is fitted and measured is the probability that a decision
rests on: for `moderate` that something is wrong with the text, for `classify` that the most probable label is right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import bootstrap, rankdata
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.model_selection import StratifiedKFold

from inference.calibration import Calibration, Points, risk_of

Method = Literal["none", "temperature", "isotonic"]
Vector = NDArray[np.float64]

TEMPERATURES = (0.05, 20.0)  # a fit that ends at the upper one says that the evidence is worth nothing
BINS = 10
FOLDS = 5

_BIN_ROWS = 20  # at least; with fewer the error of each bin is mostly chance
_RESAMPLES = 1000
_BATCH = 100  # resamples in memory at once
_SEED = 1
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Fit:
    """What labelled rows taught: a temperature, or an isotonic map, or neither."""

    temperature: float = 1.0
    isotonic: Points = ()


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of about the same score. score: their mean. share: of those for which it came true."""

    rows: int
    score: float
    share: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How good probabilities are.

    ece: expected calibration error; interval: its 95% confidence interval; by_chance: the error that perfectly
    calibrated scores stay below in 95% of such samples, so that a lower one shows nothing. brier: mean squared error.
    log_loss: mean negative log-likelihood, in nats. For all, lower is better.
    """

    rows: int
    bins: int
    ece: float
    interval: tuple[float, float]
    by_chance: float
    brier: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Rows that a stage judged and people labelled.

    evidence: the logarithm of what the text says for each label, bias taken out and expected shares not in yet; rows by
    labels. prior: expected share of each label. labels: index of each row's label. fine: as for `Calibration`.
    """

    evidence: Vector
    prior: Sequence[float]
    labels: NDArray[np.intp]
    fine: int | None

    def __len__(self) -> int:
        return len(self.labels)

    def scored(self, fit: Fit) -> tuple[Vector, Vector]:
        """The probability that each row's decision rests on, and 1 where it came true, 0 where not."""
        calibration = Calibration([], self.prior, fit.temperature, fit.isotonic, self.fine)
        rows = [calibration(row) for row in self.evidence.tolist()]
        if self.fine is not None:
            return np.array([risk_of(row, self.fine) for row in rows]), (self.labels != self.fine).astype(float)
        return np.array([max(row) for row in rows]), (np.argmax(rows, axis=1) == self.labels).astype(float)

    def fit(self, method: Method) -> Fit:
        """The fit to all rows."""
        if method == "temperature":
            return Fit(temperature=fit_temperature(self.evidence, self.prior, self._right()))
        if method == "isotonic":
            return Fit(isotonic=fit_isotonic(*self.scored(Fit())))
        return Fit()

    def out_of_fold(self, method: Method) -> tuple[Vector, Vector]:
        """As `scored`, each row under a fit to the rows of the other folds, of which there are FOLDS.

        Raises ValueError where no outcome has as many rows.
        """
        scores, outcomes = self.scored(Fit())
        if method == "none":
            return scores, outcomes
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=_SEED)
        for train, test in folds.split(scores, outcomes):
            scores[test], outcomes[test] = self._take(test).scored(self._take(train).fit(method))
        return scores, outcomes

    def _take(self, rows: NDArray[np.intp]) -> "LabelledRows":
        return LabelledRows(self.evidence[rows], self.prior, self.labels[rows], self.fine)

    def _right(self) -> NDArray[np.bool_]:
        """Which labels would each be right for a row, as far as its decision goes; rows by labels."""
        every = np.arange(len(self.prior))[None, :]
        own = self.labels[:, None]
        right: NDArray[np.bool_] = every == own if self.fine is None else (every == self.fine) == (own == self.fine)
        return right


def fit_temperature(evidence: Vector, prior: Sequence[float], right: NDArray[np.bool_]) -> float:
    """The temperature under which the right labels are most likely, within TEMPERATURES.

    evidence, right: rows by labels. Guo et al. (ICML 2017), but for expected shares, which no temperature divides, and
    for rows with several right labels, of which the probabilities are added.
    """
    shares = np.log(np.asarray(prior) / np.sum(prior))

    def loss(log_temperature: float) -> float:
        values = evidence / math.exp(log_temperature) + shares
        return float(np.mean(logsumexp(values, axis=1) - logsumexp(values, axis=1, b=right)))

    low, high = map(math.log, TEMPERATURES)
    grid = np.linspace(low, high, 41)  # several right labels can make several minima
    best = int(np.argmin([loss(value) for value in grid]))
    bounds = (grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    found = minimize_scalar(loss, bounds=bounds, method="bounded")
    return round(math.exp(found.x), 3)


def fit_isotonic(scores: Vector, outcomes: Vector) -> list[tuple[float, float]]:
    """Points of the rising map from score to probability with the least squared error (Zadrozny and Elkan, KDD 2002).

    The lowest and the highest score get a row of each outcome in addition (the rule of succession), so that a few rows
    make no score certain.
    """
    low, high = scores.min(), scores.max()
    x = np.round(np.concatenate([[low, low, high, high], scores]), _DIGITS)
    y = np.concatenate([[0, 1, 0, 1], outcomes])
    found = IsotonicRegression(y_min=0, y_max=1).fit(x, y)
    points = zip(found.X_thresholds_, found.y_thresholds_, strict=True)
    return [(float(score), round(float(probability), _DIGITS)) for score, probability in points]


def bins_for(rows: int) -> int:
    """How many bins so many rows allow."""
    return max(2, min(BINS, rows // _BIN_ROWS))


def reliability(scores: Vector, outcomes: Vector, bins: int = BINS) -> list[Bin]:
    """Rows in bins of as many each, by score; equal scores share one. Lowest scores first."""
    which = _bin_of(scores, bins)
    return [
        Bin(int(chosen.sum()), float(scores[chosen].mean()), float(outcomes[chosen].mean()))
        for chosen in (which == number for number in np.unique(which))
    ]


def expected_calibration_error(scores: Vector, outcomes: Vector, bins: int = BINS) -> float:
    """Mean distance between a bin's score and its share that came true, weighted by rows.

    Naeini, Cooper and Hauskrecht (AAAI 2015), over bins of equal mass.
    """
    return float(_error(scores - outcomes, _bin_of(scores, bins)))


def quality(scores: Vector, outcomes: Vector) -> Quality:
    """Measure probabilities against what came true."""
    bins = bins_for(len(scores))
    return Quality(
        len(scores),
        bins,
        expected_calibration_error(scores, outcomes, bins),
        _interval(scores, outcomes, bins),
        _by_chance(scores, bins),
        float(brier_score_loss(outcomes, scores, labels=[0, 1])),
        float(log_loss(outcomes, scores, labels=[0, 1])),
    )


def _interval(scores: Vector, outcomes: Vector, bins: int) -> tuple[float, float]:
    """The basic bootstrap's, not that of the resamples' percentiles: chance only ever adds to this error, and resamples
    have it twice.
    """
    data = (scores - outcomes, _bin_of(scores, bins))
    found = bootstrap(
        data, _error, paired=True, n_resamples=_RESAMPLES, batch=_BATCH, method="basic", rng=_SEED
    ).confidence_interval
    return max(0.0, float(found.low)), max(0.0, float(found.high))


def _by_chance(scores: Vector, bins: int) -> float:
    """Outcomes drawn from the scores themselves (Broecker and Smith, Weather and Forecasting, 2007)."""
    random, which = np.random.default_rng(_SEED), _bin_of(scores, bins)
    drawn = [
        _error(scores - (random.random((_BATCH, len(scores))) < scores), which) for _ in range(_RESAMPLES // _BATCH)
    ]
    return float(np.quantile(drawn, 0.95))


def _error(differences: Vector, which: NDArray[np.intp], axis: int = -1) -> Vector:
    """Expected calibration error of rows in bins, along an axis. differences: scores less outcomes."""
    sums = [np.abs(np.where(which == number, differences, 0).sum(axis)) for number in range(which.max() + 1)]
    error: Vector = np.sum(sums, axis=0) / differences.shape[axis]
    return error


def _bin_of(scores: Vector, bins: int) -> NDArray[np.intp]:
    """By rank, which scores share that are the same but for arithmetic."""
    ranks: Vector = rankdata(np.round(scores, _DIGITS))
    return ((ranks - 0.5) / len(scores) * bins).astype(np.intp)
