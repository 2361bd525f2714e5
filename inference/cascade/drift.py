"""Does something go wrong more often than was promised? Asked after each row, without more false alarms for asking.

An e-detector (Shin, Ramdas and Rinaldo, E-detectors, 2022, arXiv:2203.03532) of Shiryaev's and Roberts' kind: on each
row a bet on failure wins or loses so that nobody gains while failures come at the promised rate or less (Waudby-Smith
and Ramdas, Estimating means of bounded random variables by betting, 2020, arXiv:2010.09686). Before each row a new
bettor joins with a stake of one. While the promise holds, what all own together less the number of rows is a
supermartingale. So the mean number of rows to a false alarm is at least the sum that raises it, and within n rows one
comes with a probability of at most n divided by that sum (Ville's inequality). There are several bets at once, on
failure rates of several sizes, each with its share of the stake.
"""

from collections.abc import Sequence

_WORSE = (1.25, 1.5, 2.0, 3.0, 5.0)  # how many times the promised rate each bet is on
_MOST = 1e300  # owned; what is beyond it is alarm enough


class Detector:
    """Watches failures that were promised to come at `rate` or less.

    rows: seen. failures: of them. evidence: what the bettors own; compare it with the mean number of rows to a false
    alarm that is wanted.
    """

    def __init__(self, rate: float) -> None:
        """rate: above 0, below 1. Raises ValueError."""
        if not 0 < rate < 1:
            raise ValueError(f"the promised rate of failures must be above 0 and below 1, not {rate}")
        self.rows = 0
        self.failures = 0
        self._bets = _bets(rate)
        self._owned = [0.0] * len(self._bets)

    @property
    def evidence(self) -> float:
        """About the number of rows while the promise holds; grows exponentially when it does not."""
        return sum(self._owned) / len(self._owned)

    def observe(self, failed: bool) -> None:
        """Take one row."""
        self.rows += 1
        self.failures += failed
        self._owned = [
            min(_MOST, (owned + 1) * (lost if failed else kept))
            for owned, (lost, kept) in zip(self._owned, self._bets, strict=True)
        ]


def _bets(rate: float) -> Sequence[tuple[float, float]]:
    """By what a stake is multiplied at a failure and at none: likelihood ratios of worse rates and the promised one."""
    worse = [rate * times if rate * times < 1 else (1 + rate) / 2 for times in _WORSE]
    return [(bad / rate, (1 - bad) / (1 - rate)) for bad in worse]
