"""Traffic whose truth is known: how often a threshold misses, and how often the screen is right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta


@dataclass(frozen=True)
class Traffic:
    """share: of the rows that the reference flags. steps: if not 0, risks are multiples of 1 / steps, so with ties."""

    share: float = 0.3
    steps: int = 0

    def sample(
        self, rows: int, flagged: int | None = None, seed: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        chance = np.random.default_rng(seed)
        flags = chance.random(rows) < self.share if flagged is None else np.arange(rows) < flagged
        risk = np.where(flags, chance.beta(5, 1.5, rows), chance.beta(1.5, 5, rows))
        return (np.ceil(risk * self.steps) / self.steps if self.steps else risk), flags

    def below(self, threshold: float) -> tuple[float, float]:
        """The probability that a flagged row, and that another one, has a lower risk."""
        if self.steps:
            threshold = np.ceil(round(threshold * self.steps, 6) - 1) / self.steps
        return float(beta.cdf(threshold, 5, 1.5)), float(beta.cdf(threshold, 1.5, 5))

    def recall(self, pass_below: float | None) -> float:
        return 1.0 if pass_below is None else 1 - self.below(pass_below)[0]

    def precision(self, flag_from: float | None) -> float:
        if flag_from is None:
            return 1.0
        flagged, other = self.below(flag_from)
        right, wrong = self.share * (1 - flagged), (1 - self.share) * (1 - other)
        return right / (right + wrong)
