"""Messages that were erased and come again: from a backlog, a replay, a dead letter, or what waited for another day."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from sinks.erasures import ErasureLog, Erasures, digest_of
from streams.decode import Event

LOOK_SECONDS = 5.0


class Erased:
    """Knows whose messages up to when are erased, and which rows of others quoted them.

    A worker learns of an erasure within LOOK_SECONDS; `weir erase` waits for that, and then looks through the store
    once more.
    """

    def __init__(self, log: ErasureLog, on_rows: Callable[[frozenset[int]], None] = lambda rows: None) -> None:
        """on_rows: told the ids of rows that went since the last look, so that nothing of them is kept in memory."""
        self._log = log
        self._on_rows = on_rows
        self._until: dict[str, datetime] = {}
        self._made: set[int] = set()
        self._gone: frozenset[int] = frozenset()

    def holds(self, event: Event) -> bool:
        """Whether an event must not be taken: its author's words of that time are erased, or it quotes such words."""
        if not self._until:
            return False
        if event.row_id in self._made:
            return True
        if not event.author:
            return False
        times = (self._until.get(digest_of(event.author, tenant)) for tenant in (event.tenant, None))
        return any(time is not None and event.event_time <= time for time in times)

    async def look(self) -> None:
        """Learn what was erased since the last look. Waits while the store is unavailable."""
        self._note(await self._log.read())

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    def _note(self, found: Erasures) -> None:
        self._until = found.until
        self._made.update(found.made)
        rows = frozenset(found.rows)
        if new := rows - self._gone:  # the last look has seen some of them
            self._on_rows(new)
        self._gone = rows
