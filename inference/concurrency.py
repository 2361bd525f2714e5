"""How many prompts the engine is given at once: as many as keep it full, no more than it can take."""

from collections.abc import Callable
from dataclasses import dataclass

_GROWTH = 1.25
_SHRINK = 0.7
# Of what runs may wait in the engine. Prompts of one token all end with the same step, and the next step is made of
# what waits by then: with less than a whole step in its queue the engine runs dry before our next request is there.
_QUEUE_SHARE = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine says of itself. running, waiting: requests, one for each prompt."""

    running: float
    waiting: float


class Concurrency:
    """A limit that follows the engine: it grows while the engine has no queue, and shrinks when prompts wait there, are
    refused, or time out.

    Where the engine tells its load, that decides. Where it does not, the limit grows by one for each limit's worth of
    answers and shrinks by a third for each round trip with a refusal: additive increase, multiplicative decrease (Chiu
    and Jain, 1989).
    """

    def __init__(self, start: int, largest: int, on_change: Callable[[int], None] = lambda limit: None) -> None:
        """start: the limit to begin with. largest: the limit's bound. Both positive; equal for a limit that only
        shrinks and recovers; as many as `start` may wait in the engine, however few it runs. on_change: told the new
        limit.
        """
        self._start = start
        self._limit = float(min(start, largest))
        self._largest = largest
        self._on_change = on_change
        self._in_flight_since_refusal = 0
        self._told = False
        self._wanted = False
        on_change(self.limit)

    @property
    def limit(self) -> int:
        """Prompts that may be in flight, from 1."""
        return max(1, int(self._limit))

    def wanted(self) -> None:
        """Prompts wait here because the limit is reached. Without that, there is no reason for a larger one."""
        self._wanted = True

    def observed(self, load: Load) -> None:
        """The engine told its load."""
        self._told = True
        allowed = max(self._start, load.running * _QUEUE_SHARE)
        if load.waiting > allowed:
            fits = (load.running + allowed) / (load.running + load.waiting)
            self._set(self._limit * max(fits, _SHRINK))
        elif load.waiting == 0 and self._wanted:
            self._set(max(self._limit + 1, self._limit * _GROWTH))
        self._wanted = False

    def answered(self, prompts: int) -> None:
        """The engine answered a request of so many prompts."""
        self._in_flight_since_refusal = max(0, self._in_flight_since_refusal - prompts)
        if not self._told and self._wanted:
            self._set(self._limit + prompts / self._limit)
            self._wanted = False

    def refused(self) -> None:
        """The engine had no room for a request, or no time. Refusals of what is in flight by now say no more."""
        if not self._in_flight_since_refusal:
            self._in_flight_since_refusal = self.limit
            self._set(self._limit * _SHRINK)

    def _set(self, limit: float) -> None:
        before = self.limit
        self._limit = min(max(limit, 1.0), float(self._largest))
        if self.limit != before:
            self._on_change(self.limit)
