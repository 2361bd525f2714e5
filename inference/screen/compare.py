"""What screens are worth on labelled texts that none of them has seen. Needs the extra `screen`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from inference.evaluation.intervals import interval, resampled
from inference.evaluation.statistics import Ranking, Weights, lead, once
from inference.screen.train import Example

Vector = NDArray[np.float64]

RECALL = 0.95  # at which `Figures.passed` is measured


@dataclass(frozen=True, slots=True)
class Figures:
    """How good risks are. Examples count by their weights, but in `rows` and `flagged`.

    language: empty for all rows. flagged: rows that are to be flagged. auroc: area under the ROC curve: how often a
    flagged row has the higher risk of a pair. precision: average precision. passed: share of all rows with less risk
    than all but 5% of the flagged ones, so what a screen could keep from the model at best. brier: mean squared error
    of the risk as a probability. The three first are None where all rows are of one kind.
    """

    language: str
    rows: int
    flagged: int
    auroc: float | None
    precision: float | None
    passed: float | None
    brier: float


@dataclass(frozen=True, slots=True)
class Difference:
    """AUROC of a new screen less that of an old one, with its 95% confidence interval."""

    value: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """Whether chance alone is no likely reason for the new one's lead."""
        return self.low > 0


def figures(flagged: NDArray[np.bool_], risks: Vector, language: str = "", weights: Vector | None = None) -> Figures:
    """Figures of rows, of which there is at least one. weights: None for the same of all."""
    count = int(flagged.sum())
    each = np.ones(len(flagged)) if weights is None else weights
    brier = float(brier_score_loss(flagged, risks, sample_weight=each, labels=[False, True]))
    if not 0 < count < len(flagged):
        return Figures(language, len(flagged), count, None, None, None, brier)
    threshold = np.quantile(risks[flagged], 1 - RECALL, method="inverted_cdf", weights=each[flagged])
    return Figures(
        language,
        len(flagged),
        count,
        float(roc_auc_score(flagged, risks, sample_weight=each)),
        float(average_precision_score(flagged, risks, sample_weight=each)),
        float(np.average(risks < threshold, weights=each)),
        brier,
    )


def by_language(examples: Sequence[Example], risks: Vector) -> list[Figures]:
    """Figures of all rows, then of each language if there are several."""
    flagged, weights = flags(examples), weights_of(examples)
    languages = np.array([example.language for example in examples])
    found = [figures(flagged, risks, weights=weights)] if len(examples) else []
    each = sorted(set(languages.tolist()) - {""})
    if len(each) > 1:
        for name in each:
            some = languages == name
            found.append(figures(flagged[some], risks[some], name, weights[some]))
    return found


def flags(examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Which examples are to be flagged: those with at least half of the votes."""
    return np.array([example.flagged >= 0.5 for example in examples], dtype=bool)


def weights_of(examples: Sequence[Example]) -> Vector:
    """For how many texts each example counts."""
    return np.array([example.weight for example in examples], dtype=np.float64)


def difference(flagged: NDArray[np.bool_], old: Vector, new: Vector, weights: Vector | None = None) -> Difference:
    """Paired: both screens on the same rows, of which there must be both kinds. The interval is the bootstrap's (Efron
    1979), by percentiles, as `weir eval` has it. weights: for how many rows each counts; None for the same of all.
    """
    rows = len(flagged)
    each = np.ones(rows, dtype=np.float32) if weights is None else weights.astype(np.float32)
    unweighed = lead(Ranking(new, flagged).auroc, Ranking(old, flagged).auroc)

    def ahead(counts: Weights) -> Vector:
        return unweighed(counts * each)

    value = float(ahead(once(rows))[0])
    low, high = interval(resampled({"auroc": ahead}, rows)["auroc"])
    return Difference(value, min(low, value), max(high, value))
