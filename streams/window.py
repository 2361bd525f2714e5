"""The rows that a stage works on at once: how many, which, and in which order their verdicts leave."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable

_REMEMBERED = 20_000
_MAX_BYTES = 64 * 1024 * 1024


class Window:
    """Bounds the rows in flight and their bytes. `enter` waits while it is full, and that wait is what pauses Kafka."""

    def __init__(self, rows: int, max_bytes: int = _MAX_BYTES) -> None:
        self._max_rows = rows
        self._max_bytes = max_bytes
        self._rows = 0
        self._bytes = 0
        self._left = asyncio.Event()

    @property
    def rows(self) -> int:
        """Rows in flight."""
        return self._rows

    async def enter(self, size: int) -> None:
        """Take a place for a row of `size` bytes; wait while the window is full. One row alone always fits."""
        while not self._fits(size):
            await self._another_left()
        self._rows += 1
        self._bytes += size

    def _fits(self, size: int) -> bool:
        return not self._rows or (self._rows < self._max_rows and self._bytes + size <= self._max_bytes)

    def leave(self, size: int) -> None:
        """Give the place of such a row back."""
        self._rows -= 1
        self._bytes -= size
        self._left.set()

    async def empty(self) -> None:
        """Return when no row is in flight."""
        while self._rows:
            await self._another_left()

    async def _another_left(self) -> None:
        self._left.clear()
        await self._left.wait()


class Repeats:
    """Knows the events that are in flight, and the last ones that were finished."""

    def __init__(self) -> None:
        self._in_flight: dict[Hashable, asyncio.Future[None]] = {}
        self._finished: OrderedDict[Hashable, None] = OrderedDict()

    async def first(self, identity: Hashable) -> bool:
        """True if this event is new; the caller must then call `finish` or `give_up`. False when it is finished.

        While the same event is in flight, waits for what becomes of it, and then returns False whatever that is: two
        messages of one event have one outcome. If its worker stops instead, so do those who wait.
        """
        if (running := self._in_flight.get(identity)) is not None:
            await asyncio.wait([running])
            return False
        if identity in self._finished:
            return False
        self._in_flight[identity] = asyncio.get_running_loop().create_future()
        return True

    def finish(self, identity: Hashable) -> None:
        """The event is judged and stored: another message of it has nothing left to do."""
        self._finished[identity] = None
        if len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)
        self.give_up(identity)

    def give_up(self, identity: Hashable) -> None:
        """The event is a dead letter. Messages of it that come later, such as a replay, are tried anew."""
        self._in_flight.pop(identity).set_result(None)


class Turns:
    """Lets the rows of one key pass in the order in which they took their turn; rows of other keys do not wait."""

    def __init__(self) -> None:
        self._last: dict[Hashable, asyncio.Future[None]] = {}

    def take(self, key: Hashable | None) -> "Turn":
        """The next turn of `key`; without a key there is no order and nothing to wait for."""
        turn = Turn(self, key, self._last.get(key) if key is not None else None)
        if key is not None:
            self._last[key] = turn.passed
        return turn

    def forget(self, turn: "Turn") -> None:
        """A turn has passed; nobody needs to wait for it."""
        if turn.key is not None and self._last.get(turn.key) is turn.passed:
            del self._last[turn.key]


class Turn:
    """The place of one row among those of its key. Whoever takes it must call `end` once the row is settled.

    A row that is not settled, because its worker stops, keeps its turn: its verdict will come after the restart, and
    until then none of a later row may.
    """

    def __init__(self, turns: Turns, key: Hashable | None, before: "asyncio.Future[None] | None") -> None:
        self.key = key
        self.passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns = turns
        self._before = before

    async def come(self) -> None:
        """Return when the rows before it are settled."""
        if self._before is not None and not self._before.done():
            await asyncio.shield(self._before)

    def end(self) -> None:
        """The row is settled: let the next one pass, once those before have. Safe to call twice."""
        if self._before is not None and not self._before.done():
            self._before.add_done_callback(lambda _: self.end())
        elif not self.passed.done():
            self.passed.set_result(None)
            self._turns.forget(self)
