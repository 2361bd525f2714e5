"""What audited rows say about a cascade: how much it catches and saves, and whether its promise is in doubt.

An audited row is judged by the reference whatever the screen says, and `inference.cascade.choose` picks it whatever it
is. So audited rows are a plain random sample of the traffic, and shares of them have exact intervals.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from inference.binomial import Interval, clopper_pearson
from inference.cascade.drift import Detector
from inference.cascade.guarantee import Goal

Route = Literal["pass", "ask", "flag"]  # what the screen says: let it pass, ask the model, flag it

RUN_LENGTH = 10_000.0


@dataclass(frozen=True, slots=True)
class Estimates:
    """Shares, each with its interval; None where no audited row tells.

    recall: of what the reference flags, what the screen does not let pass. saved: of all rows, those that the screen
    decides. precision: of what the screen flags by itself, what the reference flags. flagged: of all rows, those that
    the reference flags. The intervals are right for a moment chosen beforehand; whoever looks all day and acts on the
    worst one is wrong more often. `Audit.doubt` is for that.
    """

    recall: Interval | None
    saved: Interval | None
    precision: Interval | None
    flagged: Interval | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a promise is in doubt, as it was when the alarm was raised.

    evidence: of the detector; run_length: what it had to reach. rows: that the claim is about, since the fit. failures:
    of them. target: the share that was promised.
    """

    of: Literal["recall", "precision"]
    target: float
    rows: int
    failures: int
    evidence: float
    run_length: float

    def __str__(self) -> str:
        what = "that the reference flags were let pass" if self.of == "recall" else "that the screen flags are not"
        return (
            f"{self.of} of {self.target:.1%} is in doubt: {self.failures} of {self.rows} audited rows {what}; evidence "
            f"{self.evidence:.0f}, where {self.run_length:.0f} raises the alarm"
        )


class Audit:
    """Audited rows since the last fit. Its state is a few numbers, and rows in the order of time rebuild it.

    Each row counts once: who hands rows in sees to that. doubt: why the guarantee is in doubt; None while it is not.
    Once in doubt it stays so, until a new fit begins a new audit.
    """

    def __init__(self, goal: Goal, run_length: float = RUN_LENGTH) -> None:
        """run_length: while all promises hold, the mean number of rows to a false alarm is at least this. Only rows
        count that the reference or the screen flags, so of all audited rows it takes more. Raises ValueError.
        """
        if not run_length > 1:
            raise ValueError(f"run_length must be above 1 row, not {run_length}")
        self.doubt: Doubt | None = None
        self._goal = goal
        self._run_length = run_length
        self._counts: dict[tuple[Route, bool], int] = {
            (route, flagged): 0 for route in ("pass", "ask", "flag") for flagged in (False, True)
        }
        self._misses = Detector(1 - goal.recall)
        self._false = None if goal.precision is None else Detector(1 - goal.precision)

    @classmethod
    def of(cls, rows: Iterable[tuple[Route, bool]], goal: Goal, run_length: float = RUN_LENGTH) -> Self:
        """The audit of rows in the order of time: what the screen said, and whether the reference flags the row."""
        audit = cls(goal, run_length)
        for route, flagged in rows:
            audit.observe(route, flagged)
        return audit

    def observe(self, route: Route, flagged: bool) -> None:
        """Take one audited row: what the screen said, and whether the reference flags it. Raises ValueError."""
        if (route, flagged) not in self._counts:
            raise ValueError(
                f"a row's route is one of pass, ask, flag, and flagged is yes or no; not {(route, flagged)}"
            )
        self._counts[route, flagged] += 1
        if flagged:
            self._misses.observe(route == "pass")
        if self._false is not None and route == "flag":
            self._false.observe(not flagged)
        if self.doubt is None:
            self.doubt = self._look()

    @property
    def rows(self) -> int:
        """How many rows were audited."""
        return sum(self._counts.values())

    @property
    def evidence(self) -> float:
        """The mean of the claims' evidence; `run_length` of it is an alarm."""
        owned = [detector.evidence for detector in (self._misses, self._false) if detector is not None]
        return sum(owned) / len(owned)

    def estimates(self, confidence: float = 0.95) -> Estimates:
        """What the rows so far say."""

        def share(count: int, rows: int) -> Interval | None:
            return clopper_pearson(count, rows, confidence)

        by = self._counts
        flagged = sum(count for (_, said), count in by.items() if said)
        caught = by["flag", True] + by["flag", False]
        passed = by["pass", True] + by["pass", False]
        return Estimates(
            recall=share(flagged - by["pass", True], flagged),
            saved=share(passed + caught, self.rows),
            precision=share(by["flag", True], caught),
            flagged=share(flagged, self.rows),
        )

    def _look(self) -> Doubt | None:
        if self.evidence < self._run_length:
            return None
        if self._false is None or self._misses.evidence >= self._false.evidence:
            of, target, worst = "recall", self._goal.recall, self._misses
        else:
            assert self._goal.precision is not None
            of, target, worst = "precision", self._goal.precision, self._false
        return Doubt(of, target, worst.rows, worst.failures, self.evidence, self._run_length)  # type: ignore[arg-type]
