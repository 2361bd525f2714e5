"""Judgements of texts that were judged a moment ago."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from inference.judgement import Judgement
from streams.identity import digest_of

_ENTRIES = 10_000


class Reused(Struct, frozen=True):
    """A judgement and where it is from. row_id: of the verdict that paid for it, or None if this one did."""

    judgement: Judgement
    row_id: int | None


class Reuse:
    """The last judgements of one stage, and those under way, by what was judged.

    A stage has one prompt and one model as long as the worker lives, so its answer to the same words in the same
    context is the same answer. What was asked for within the window, or is being asked for now, is not asked again.
    """

    def __init__(self, window: float, clock: Callable[[], float] = time.monotonic) -> None:
        """window: seconds that a judgement may be reused for; 0 for none."""
        self._window = window
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, int, Judgement]] = OrderedDict()
        self._asked: dict[bytes, tuple[int, asyncio.Future[Judgement]]] = {}

    async def judge(self, key: bytes | None, row_id: int, ask: Callable[[], Awaitable[Judgement]]) -> Reused:
        """The judgement of what `key` stands for; None for a text that must not share one.

        row_id: of the verdict that is to be. ask: asks the model. Raises what `ask` raised; those who waited for it ask
        for themselves then, one after the other.
        """
        if key is None or not self._window:
            return Reused(await ask(), None)
        while (running := self._asked.get(key)) is not None:
            first, future = running
            await asyncio.wait([future])
            if not future.cancelled():
                return _reused(future.result(), first, row_id)
        return self.known(key, row_id) or Reused(await self._ask(key, row_id, ask), None)

    def known(self, key: bytes | None, row_id: int) -> Reused | None:
        """The judgement of what `key` stands for, if it was made within the window."""
        if key is None or (found := self._known.get(key)) is None or found[0] <= self._clock() - self._window:
            return None
        return _reused(found[2], found[1], row_id)

    def forget(self, rows: Collection[int]) -> None:
        """Judgements made for verdicts with these row ids are not reused."""
        for key in [key for key, (_, row_id, _) in self._known.items() if row_id in rows]:
            del self._known[key]

    def _forget_old(self) -> None:
        while self._known and next(iter(self._known.values()))[0] <= self._clock() - self._window:
            self._known.popitem(last=False)

    async def _ask(self, key: bytes, row_id: int, ask: Callable[[], Awaitable[Judgement]]) -> Judgement:
        future: asyncio.Future[Judgement] = asyncio.get_running_loop().create_future()
        self._asked[key] = row_id, future
        try:
            judgement = await ask()
        except BaseException:
            future.cancel()
            raise
        else:
            future.set_result(judgement)
            self._forget_old()
            self._known[key] = self._clock(), row_id, judgement
            if len(self._known) > _ENTRIES:
                self._known.popitem(last=False)
            return judgement
        finally:
            del self._asked[key]


def _reused(judgement: Judgement, first: int, row_id: int) -> Reused:
    """The judgement without its calls: those were paid for once. A row that comes again is its own first."""
    return Reused(replace(judgement, calls=()), None if first == row_id else first)


def key_of(tenant: str, text: str, context: Sequence[str]) -> bytes:
    """16 bytes that stand for what a stage's model reads of an event. One tenant's judgements are not another's."""
    return digest_of(tenant, text, *context)
