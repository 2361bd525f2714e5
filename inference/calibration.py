"""Contextual calibration: take out what the model would answer whatever the text says.

Zhao et al., "Calibrate Before Use" (ICML 2021): the answer to inputs without content shows the model's bias for each
label; dividing by it removes the bias. What remains is as if all labels were equally frequent, so it is multiplied by
how frequent they are expected to be (Saerens, Latinne and Decaestecker, 2002).
"""

import math
from collections.abc import Sequence

CONTENT_FREE = ("N/A", "[MASK]", "...")


class Calibration:
    """Turns the model's label log-probabilities into calibrated probabilities."""

    def __init__(self, bias: Sequence[Sequence[float]], prior: Sequence[float]) -> None:
        """bias: label log-probabilities for each input without content; their mean is taken. prior: expected share of
        each label, positive, any scale. Both in the order of the labels.
        """
        count = len(bias)
        mean = [sum(row[i] for row in bias) / count for i in range(len(prior))] if count else [0.0] * len(prior)
        total = sum(prior)
        self._shift = [math.log(share / total) - value for share, value in zip(prior, mean, strict=True)]

    def __call__(self, logprobs: Sequence[float]) -> list[float]:
        """Calibrated probabilities, summing to 1, for label log-probabilities in the same order."""
        shifted = [value + shift for value, shift in zip(logprobs, self._shift, strict=True)]
        top = max(shifted)
        weights = [math.exp(value - top) for value in shifted]
        total = sum(weights)
        return [weight / total for weight in weights]
