"""When too much of the traffic is given up, the worker is wrong and not the messages."""

from collections import deque

_ROWS = 200
_FEWEST = 50


class DeadLetterLimit:
    """Says when a dead letter would be one too many.

    A bad deploy must not drain the topic into the dead letters. Counted are the last 200 rows, and the limit holds
    once there were 50: a worker that gives up everything stops after 50 * share rows, and those can be replayed.
    """

    def __init__(self, share: float) -> None:
        """share: of the rows that may be dead letters, from 0 to 1; 1 for no limit."""
        self._share = share
        self._given_up: deque[bool] = deque(maxlen=_ROWS)

    def passed(self) -> None:
        """A row was finished as it should be."""
        self._given_up.append(False)

    def admits(self) -> bool:
        """Count one more row to be given up; False if that is too many."""
        self._given_up.append(True)
        return sum(self._given_up) <= self._share * max(len(self._given_up), _FEWEST)
