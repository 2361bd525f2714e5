"""Fit a screen to labelled texts. Needs the extra `screen`; a worker does not import this."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from sklearn.linear_model import LogisticRegression

from inference.screen.errors import TooFewRows
from inference.screen.model import Card, Features, Screen
from inference.screen.normalize import VERSION, normalized

SPLIT = f"blake2b of the text, normalised by version {VERSION}: 20% held out, 10% to calibrate"
LEAST = 20  # texts that are to be flagged, and as many that are not, in each part
_HELD_OUT = 0.2
_CALIBRATION = 0.3  # up to here
_STRENGTH = 3.0  # inverse of the regularisation's
_HALF = 65504.0  # the largest number of half precision

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text.

    flagged: 1 or 0, or the share of votes to flag it. weight: for how many texts it counts. language, label: of which
    figures are told apart; empty where unknown, and then the text teaches nothing about categories.
    """

    text: str
    flagged: float
    weight: float = 1.0
    language: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Parts:
    """Examples by what they are for. No text is in two of them, whatever version of it a file has."""

    fit: list[Example]
    calibration: list[Example]
    held_out: list[Example]


def place(text: str) -> float:
    """A number from 0 to 1 that belongs to the text; texts that are normalised alike have the same."""
    digest = hashlib.blake2b(" ".join(normalized(text).split()).encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(text: str) -> bool:
    """Whether no screen with this split is ever fitted to the text, nor calibrated on it."""
    return place(text) < _HELD_OUT


def split(examples: Iterable[Example]) -> Parts:
    """A text's part depends on the text alone. So a new screen and an old one leave out the same texts."""
    parts = Parts([], [], [])
    for example in examples:
        at = place(example.text)
        part = parts.held_out if at < _HELD_OUT else parts.calibration if at < _CALIBRATION else parts.fit
        part.append(example)
    return parts


def fit(
    parts: Parts,
    card: Card,
    strength: float = _STRENGTH,
) -> Screen:
    """A screen fitted to `parts.fit` and calibrated on `parts.calibration`; the same parts and card give the same one.

    Logistic regression, calibrated by another one of its evidence (Platt 1999), which the weights take up. A share of
    votes counts as that much of a flagged text and the rest of one that is not. The categories of the card are labels
    of the examples, each told from all others that have a label.

    Raises TooFewRows.
    """
    for examples, purpose in ((parts.fit, "to fit"), (parts.calibration, "to calibrate")):
        check(examples, purpose)
    rows, calibration = (_rows(card.features, part) for part in (parts.fit, parts.calibration))
    weights, biases = [], []
    for category in (None, *card.categories):
        learned, checked = _telling(parts.fit, category), _telling(parts.calibration, category)
        shares, counts = _shares(parts.fit, category)[learned], _weights(parts.fit)[learned]
        model = _regression(rows[learned], shares, counts, strength, card.seed)
        coefficients, intercept = model.coef_[0], float(model.intercept_[0])
        evidence = calibration[checked] @ coefficients + intercept
        shares, counts = _shares(parts.calibration, category)[checked], _weights(parts.calibration)[checked]
        slope, shift = _platt(evidence, shares, counts)
        weights.append(coefficients * slope)
        biases.append(intercept * slope + shift)
    told = card.model_copy(update={"rows": len(parts.fit) + len(parts.calibration), "split": SPLIT})
    half = np.clip(np.array(weights), -_HALF, _HALF).astype(np.float16)  # as it will be read from its file
    return Screen(told, half.astype(np.float32), np.array(biases, dtype=np.float32))


def check(examples: Sequence[Example], purpose: str) -> None:
    """Raises TooFewRows unless there are LEAST texts to be flagged and as many not to be."""
    flagged = sum(example.flagged >= 0.5 for example in examples)
    rest = len(examples) - flagged
    if min(flagged, rest) < LEAST:
        raise TooFewRows(
            f"too few rows {purpose}: {flagged} are to be flagged and {rest} are not; it takes {LEAST} of each, and "
            "some thousand in all for a screen that is worth something"
        )


def _rows(features: Features, examples: Sequence[Example]) -> csr_matrix:
    """N-grams of each text, as `Screen` weighs them."""
    counts = features.vectorizer().transform(" ".join(features.words(example.text)) for example in examples)
    norms = np.sqrt(np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1))
    return diags(1 / norms).astype(np.float32) @ counts


def _telling(examples: Sequence[Example], category: str | None) -> NDArray[np.intp]:
    """Which examples say something of a category; of whether texts are to be flagged all do."""
    return np.flatnonzero([category is None or example.label != "" for example in examples])


def _shares(examples: Sequence[Example], category: str | None) -> Vector:
    if category is None:
        return np.array([example.flagged for example in examples])
    return np.array([float(example.label == category) for example in examples])


def _weights(examples: Sequence[Example]) -> Vector:
    return np.array([example.weight for example in examples])


def _regression(
    rows: csr_matrix | Vector, shares: Vector, weights: Vector, strength: float, seed: int
) -> LogisticRegression:
    """Each row stands as a flagged one and as one that is not, by its share of votes."""
    chosen = np.concatenate([np.flatnonzero(shares > 0), np.flatnonzero(shares < 1)])
    flagged = np.repeat([1, 0], [int((shares > 0).sum()), int((shares < 1).sum())])
    parts = np.where(flagged == 1, shares[chosen], 1 - shares[chosen]) * weights[chosen]
    model = LogisticRegression(C=strength, solver="liblinear", random_state=seed)
    return model.fit(rows[chosen], flagged, sample_weight=parts)


def _platt(evidence: Vector, shares: Vector, weights: Vector) -> tuple[float, float]:
    """Slope and shift that make probabilities of evidence, with next to no regularisation."""
    if not len(shares) or not 0 < shares.mean() < 1:
        return 1.0, 0.0
    model = _regression(evidence[:, None], shares, weights, 1e4, 0)
    slope = float(model.coef_[0, 0])
    return (slope, float(model.intercept_[0])) if slope > 0 else (1.0, 0.0)
