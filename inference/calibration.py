"""From the model's answer to probabilities that can be taken at their word.

Contextual calibration takes out what the model would answer whatever the text says. Zhao et al., "Calibrate Before Use"
(ICML 2021): the answer to inputs without content shows the model's bias for each label; dividing by it leaves the
evidence of the text. That is as if all labels were equally frequent, so it is multiplied by how frequent they are
expected to be (Saerens, Latinne and Decaestecker, 2002).

Two fits to labelled rows go further (`inference.fit` makes them). A temperature divides the logarithm of the evidence
before the expected shares come in (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017): evidence that is
worth nothing leaves the shares, not all labels alike. An isotonic map replaces the probability that a decision rests on
by how often it was right (Zadrozny and Elkan, KDD 2002).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Self

from pydantic import Field, model_validator

from inference.section import Section

CONTENT_FREE = ("N/A", "[MASK]", "...")

Probability = Annotated[float, Field(ge=0, le=1)]
Points = Sequence[tuple[float, float]]


class CalibrationSettings(Section):
    """How the model's bias is measured, what is expected instead, and what labelled rows taught."""

    content_free: list[str] = Field(
        default=list(CONTENT_FREE),
        description="texts that deserve no label in particular; the model's answer to them is its bias; [] for none",
    )
    prior: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="label to its expected share of the traffic, any scale; all labels or none; none: all equal",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="what the model's evidence is divided by; above 1: it is too sure; `weir calibrate` fits it",
    )
    isotonic: list[tuple[Probability, Probability]] = Field(
        default_factory=list,
        description="[score, probability] points of the map from one to the other; `weir calibrate` fits them",
    )

    @model_validator(mode="after")
    def _one_fit(self) -> Self:
        if self.temperature != 1 and self.isotonic:
            raise ValueError("temperature and isotonic are two fits of the same thing; give one of them")
        for (before, lower), (score, probability) in pairwise(self.isotonic):
            if score <= before:
                raise ValueError(f"isotonic: scores must rise from point to point, but {score} follows {before}")
            if probability < lower:
                raise ValueError(f"isotonic: probabilities must not fall, but {probability} follows {lower}")
        return self


class Calibration:
    """Turns the model's label log-probabilities into calibrated probabilities."""

    def __init__(
        self,
        bias: Sequence[Sequence[float]],
        prior: Sequence[float],
        temperature: float = 1.0,
        isotonic: Points = (),
        fine: int | None = None,
    ) -> None:
        """bias: label log-probabilities for each input without content; their mean is taken. prior: expected share of
        each label, positive, any scale. Both in the order of the labels. temperature: positive; 1 for none. isotonic:
        (score, probability), scores rising, probabilities not falling; empty for none. fine: index of the label of text
        with which nothing is wrong: the map is then for the probability of all others together; None: for that of the
        most probable label.
        """
        count = len(bias)
        self._bias = [sum(row[i] for row in bias) / count for i in range(len(prior))] if count else [0.0] * len(prior)
        total = sum(prior)
        self._log_prior = [math.log(share / total) for share in prior]
        self._temperature = temperature
        self._isotonic = isotonic
        self._fine = fine

    def __call__(self, logprobs: Sequence[float]) -> list[float]:
        """Calibrated probabilities, summing to 1, for label log-probabilities in the same order."""
        probabilities = _softmax(
            [
                (value - bias) / self._temperature + share
                for value, bias, share in zip(logprobs, self._bias, self._log_prior, strict=True)
            ]
        )
        if not self._isotonic:
            return probabilities
        if self._fine is None:
            return with_confidence(probabilities, interpolated(self._isotonic, max(probabilities)))
        risk = interpolated(self._isotonic, risk_of(probabilities, self._fine))
        return with_risk(probabilities, self._fine, risk)


def interpolated(points: Points, score: float) -> float:
    """The probability for a score: linear between points, that of the nearest point outside them."""
    right = bisect_right(points, score, key=lambda point: point[0])
    if right in {0, len(points)}:
        return points[max(0, right - 1)][1]
    (before, lower), (after, upper) = points[right - 1], points[right]
    return lower + (upper - lower) * (score - before) / (after - before)


def risk_of(probabilities: Sequence[float], fine: int) -> float:
    """The probability of all labels but `fine` together, exact where it is next to nothing."""
    return sum(value for index, value in enumerate(probabilities) if index != fine)


def with_risk(probabilities: Sequence[float], fine: int, risk: float) -> list[float]:
    """All labels but `fine` have `risk` together, shared as before; equally if they had nothing."""
    others = risk_of(probabilities, fine)
    equal = 1 / (len(probabilities) - 1)
    return [
        1 - risk if index == fine else risk * (value / others if others > 0 else equal)
        for index, value in enumerate(probabilities)
    ]


def with_confidence(probabilities: Sequence[float], confidence: float) -> list[float]:
    """The most probable label has `confidence`, and labels keep their order.

    Less than before: all are drawn towards equal shares, which are the least that the most probable label can have.
    More than before: the others shrink.
    """
    top = max(range(len(probabilities)), key=probabilities.__getitem__)
    before, equal = probabilities[top], 1 / len(probabilities)
    confidence = max(confidence, equal)
    if confidence < before:
        kept = (confidence - equal) / (before - equal)
        return [equal + kept * (value - equal) for value in probabilities]
    others = sum(probabilities) - before
    return [
        confidence if index == top else (1 - confidence) * (value / others if others > 0 else 0.0)
        for index, value in enumerate(probabilities)
    ]


def _softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    total = sum(weights)
    return [weight / total for weight in weights]
