"""A circuit breaker that waits: nobody asks an engine that is down, and one that comes back is not run over."""

import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from inference.errors import EngineMisconfigured, EngineUnavailable, PromptRejected

log = logging.getLogger(__name__)

R = TypeVar("R")
State = Literal["closed", "open", "half_open"]


class Breaker:
    """Lets requests to one engine pass while it answers.

    closed: requests pass. `failures` of them in a row, with no answer to anyone in between, open the breaker.
    open: callers wait, and nothing is raised. After a pause, which grows from one to the next, a probe is made.
    half_open: the probe is under way. If it fails, the breaker is open again; if not, it is closed.

    After a probe one request passes at a time; each answer doubles that number until `width` is reached and nobody
    waits any more. The first request after a probe is on trial: its failure opens the breaker at once.

    Of our own, because libraries raise when open where rows should wait, and have neither probe nor slow start.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        width: int,
        pause_seconds: float = 0.5,
        longest_pause_seconds: float = 15.0,
        failures: int = 5,
    ) -> None:
        """probe: whether the engine answers a request that is known to be good. width: requests at once in good times.
        pause_seconds: before the first probe; doubles with each one, up to longest_pause_seconds, less a random part of
        at most half. failures: in a row, to open.
        """
        self._probe = probe
        self._width = width
        self._pause_seconds = pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._failures = failures
        self._state: State = "closed"
        self._successes = 0
        self._failed_in_a_row = 0
        self._limit = math.inf
        self._places: set[object] = set()
        self._waiting: deque[asyncio.Future[object]] = deque()
        self._prober: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def state(self) -> State:
        """Whether requests pass."""
        return self._state

    @property
    def successes(self) -> int:
        """How many requests and probes the engine has answered."""
        return self._successes

    async def call(self, request: Callable[[], Awaitable[R]]) -> R:
        """Make the request as soon as it may pass; what it returns or raises.

        EngineUnavailable is a failure. A result, PromptRejected and EngineMisconfigured are answers. Raises
        asyncio.CancelledError once `close` was called.
        """
        place = await self._enter()
        try:
            result = await request()
        except EngineUnavailable:
            self._failed(place)
            raise
        except (PromptRejected, EngineMisconfigured):
            self._answered()
            raise
        else:
            self._answered()
            return result
        finally:
            self._leave(place)

    async def _enter(self) -> object:
        if self._ended:
            raise asyncio.CancelledError
        turn: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave(turn.result())
            with contextlib.suppress(ValueError):
                self._waiting.remove(turn)
            raise

    def _admit(self) -> None:
        while self._waiting and self._state == "closed" and len(self._places) < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                place = object()
                self._places.add(place)
                turn.set_result(place)
        if self._limit >= self._width and not self._waiting:
            self._limit = math.inf

    def _leave(self, place: object) -> None:
        self._places.discard(place)
        self._admit()

    def _failed(self, place: object) -> None:
        """Has no effect for a request from before the breaker opened: it says nothing about the engine since then."""
        if place in self._places:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._failures and not self._ended:
                self._open()

    def _answered(self) -> None:
        self._successes += 1
        if self._state == "closed":
            self._failed_in_a_row = 0
            self._limit *= 2
            return
        # A request from before the breaker opened was answered after all, which is as good as a probe.
        if self._prober is not None:
            self._prober.cancel()
        self._close()

    def _open(self) -> None:
        log.warning("the engine failed %d times in a row; requests wait", self._failed_in_a_row)
        self._state = "open"
        self._places.clear()  # requests that still hang must take no place once the engine is back
        self._prober = asyncio.create_task(self._recover())

    def _close(self) -> None:
        log.info("the engine answers again")
        self._state = "closed"
        self._failed_in_a_row = self._failures - 1
        self._limit = 1
        self._admit()

    async def _recover(self) -> None:
        pause = self._pause_seconds
        while True:
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  not for secrets
            self._state = "half_open"
            if await self._probe_answers():
                self._successes += 1
                self._close()
                return
            self._state = "open"
            pause = min(2 * pause, self._longest_pause_seconds)

    async def _probe_answers(self) -> bool:
        try:
            return await self._probe()
        except Exception:  # if this ended the prober, requests would wait for ever
            log.exception("the probe itself is broken")
            return False

    async def close(self) -> None:
        """Probe no more. Callers that wait get asyncio.CancelledError."""
        self._ended = True
        for turn in list(self._waiting):
            turn.cancel()
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
