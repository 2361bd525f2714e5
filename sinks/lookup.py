"""Look-ups by key, many at a time."""

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import partial
from typing import Generic, TypeVar

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY
from sinks.session import Session

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Lookup(Generic[Key, Value]):
    """Answers what many callers ask with few queries.

    A query starts at once if none is running; what is asked for meanwhile goes into the next one. While the store is
    unavailable the query is tried again, for ever, and callers wait.
    """

    def __init__(self, session: Session, find: Callable[[Collection[Key], Client], Mapping[Key, Value]]) -> None:
        """find: what the store has of these keys, at most as many as fit into a query."""
        self._session = session
        self._find = find
        self._waiting: list[tuple[Key, asyncio.Future[Value | None]]] = []
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, name: str) -> None:
        """Begin to answer. Must be called inside the event loop. name: of the task."""
        self._task = asyncio.create_task(self._run(), name=name)

    async def find(self, key: Key) -> Value | None:
        """What the store has of this key; None for nothing. Raises what `find` raised."""
        found: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, found))
        self._arrived.set()
        return await found

    async def close(self) -> None:
        """Stop. Callers that wait get CancelledError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, found in self._waiting:
            found.cancel()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[:KEYS_A_QUERY], self._waiting[KEYS_A_QUERY:]
            if not self._waiting:
                self._arrived.clear()
            try:
                answers = await self._session.run(partial(self._find, {key for key, _ in batch}))
            except asyncio.CancelledError:
                for _, found in batch:
                    found.cancel()
                raise
            except Exception as error:  # noqa: BLE001  the callers must not wait for ever for what can never be
                for _, found in batch:
                    if not found.done():
                        found.set_exception(error)
                continue
            for key, found in batch:
                if not found.done():
                    found.set_result(answers.get(key))
