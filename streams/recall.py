"""Which events may have been judged before this worker read them, so that the store is worth asking."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta

from faust.types import TP

from sinks.judged import Known
from streams.decode import Event

_RESOLUTION = timedelta(milliseconds=1)  # of the times in the store


class Recall:
    """Watches the partitions of one stage.

    When a partition comes to this worker, its first messages may have been judged by the worker that had it before, up
    to the last offset that the store has. Beyond that only two kinds of messages can have been: replays, and events
    that their producer publishes again, which are no newer than the newest that was judged. What was judged by this
    worker since then, `Repeats` knows.
    """

    def __init__(self, ask: Callable[[TP, int], Awaitable[Known]]) -> None:
        """ask: what the store knows of a partition from an offset on."""
        self._ask = ask
        self._known: dict[TP, asyncio.Task[Known]] = {}

    def assigned(self, partitions: Iterable[TP]) -> None:
        """These partitions come to this worker, or come anew."""
        for tp in partitions:
            self._known.pop(tp, None)

    async def may_know(self, event: Event, delivered: TP, offset: int) -> bool:
        """Whether the store may have a verdict of this event.

        delivered, offset: where it was read, which for a replay is not the place of the event.
        """
        if (event.topic, event.partition, event.offset) != (*delivered, offset):
            return True
        if delivered not in self._known:
            self._known[delivered] = asyncio.ensure_future(self._ask(delivered, offset))
        task = self._known[delivered]
        known = task.result() if task.done() else await asyncio.shield(task)
        if offset <= known.last_offset:
            return True
        return bool(event.event_id) and known.newest is not None and event.event_time < known.newest + _RESOLUTION
