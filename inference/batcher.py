"""Many callers, few requests: prompts that wait are sent together."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

from msgspec import Struct

from inference.concurrency import Concurrency
from inference.engine import Caller, Prompt
from inference.errors import AttemptsExhausted, PromptRejected
from inference.fairness import FairQueue, Shares

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

_PATIENCE = 16  # times the linger, while this process can do no more: fewer and fuller requests are what it needs then
_BUSY = 0.8  # share of the time that the event loop works
_BUSY_SECONDS = 0.05  # over which that is measured
_FULL_CHARACTERS = 16_000  # of the prompts' own parts, in one request: its answer comes when the longest is done


class _Waiting(Struct, Generic[A], eq=False):
    prompt: Prompt
    answer: "asyncio.Future[A]"


class _LoopLoad:
    """How much of its time the thread of the event loop works."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._worked = time.thread_time()
        self._busy = False

    def busy(self) -> bool:
        """Whether it had next to no rest of late."""
        now = time.monotonic()
        if now >= self._at + _BUSY_SECONDS:
            worked = time.thread_time()
            self._busy = worked - self._worked >= _BUSY * (now - self._at)
            self._at, self._worked = now, worked
        return self._busy


class Batcher(Generic[Q, A]):
    """Groups prompts that ask the same question of the same shared text into requests, and bounds the prompts in
    flight.

    A full request is sent at once, a partial one when its first prompt has waited for `linger`, or for longer while
    this process itself is what all wait for, both as far as `concurrency` allows. While it does not, tenants get equal
    shares and urgent prompts go first (`FairQueue`). A request that fails reaches only the prompts that it carried. A
    long prompt has a request of its own, so that it delays no other.
    """

    def __init__(
        self,
        send: Callable[[Q, Sequence[Prompt]], Awaitable[Sequence[A | PromptRejected | AttemptsExhausted]]],
        prompts_per_request: Callable[[Q], int],
        concurrency: Concurrency,
        linger: float = 0.0,
        resting: Callable[[], int] = lambda: 0,
    ) -> None:
        """send: asks the engine; an answer, or why there is none, for each prompt in order, or raises for all of them.
        prompts_per_request: at most, by question. linger: seconds. resting: how many requests were put off by the
        engine and wait to be sent again; while all of them do, one more may go, so that a prompt for which the engine
        is always too busy holds up no other.
        """
        self._send = send
        self._size = prompts_per_request
        self._concurrency = concurrency
        self._linger = linger
        self._resting = resting
        self._groups: dict[tuple[Q, str], FairQueue[_Waiting[A]]] = {}
        self._shares = Shares()
        self._in_flight = 0
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at: float | None = None
        self._requests: dict[asyncio.Task[None], list[_Waiting[A]]] = {}
        self._loop = _LoopLoad()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Prompts that are not sent yet."""
        return sum(map(len, self._groups.values()))

    @property
    def in_flight(self) -> int:
        """Prompts that are sent and not answered."""
        return self._in_flight

    def submit(self, question: Q, prompt: Prompt, caller: Caller) -> "asyncio.Future[A]":
        """The answer to one prompt, or why it was given up, or what the request that carried it raised.

        Cancelled once `close` was called.
        """
        waiting: _Waiting[A] = _Waiting(prompt, asyncio.get_running_loop().create_future())
        if self._closed:
            waiting.answer.cancel()
            return waiting.answer
        queue = self._groups.setdefault((question, prompt.shared), FairQueue(self._shares))
        queue.put(waiting, caller, len(prompt.own))
        if len(queue) >= self._size(question) or not self._will_look_within(self._patience()):
            self._start_requests()
        return waiting.answer

    def look_again(self) -> None:
        """Send what may be sent by now. To be called when a request begins to rest."""
        if not self._closed:
            self._start_requests()

    def _start_requests(self) -> None:
        """Send what may be sent now, in turn, and come back for the rest when its time has come."""
        now = time.monotonic()
        linger = self._patience()
        while True:
            ready: list[tuple[tuple[bool, float, int], tuple[Q, str]]] = []
            wake = math.inf
            for group, queue in self._groups.items():
                if (head := queue.head()) is None:
                    continue
                due = head.arrived + linger
                if due <= now or len(queue) >= self._size(group[0]):
                    ready.append((head.turn, group))
                else:
                    wake = min(wake, due)
            if not ready:
                break
            if self._in_flight >= self._concurrency.limit and self._under_way > self._resting():
                self._concurrency.wanted()
                break
            _, group = min(ready, key=itemgetter(0))
            if batch := self._take(self._groups[group], self._size(group[0])):
                self._start(group[0], batch)
        for group in [group for group, queue in self._groups.items() if not queue]:
            del self._groups[group]
        self._wake(None if wake == math.inf else wake)

    def _patience(self) -> float:
        """Seconds that a partial request waits for more prompts."""
        return self._linger * (_PATIENCE if self._loop.busy() else 1)

    def _will_look_within(self, seconds: float) -> bool:
        return self._wake_at is not None and self._wake_at <= time.monotonic() + seconds

    def _wake(self, at: float | None) -> None:
        """Look again at that time; None: no need to."""
        if at == self._wake_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = at
        self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(at - time.monotonic(), self._time_has_come)

    def _time_has_come(self) -> None:
        self._timer = self._wake_at = None
        self._start_requests()

    def _take(self, queue: FairQueue[_Waiting[A]], size: int) -> list[_Waiting[A]]:
        """The next prompts that may share a request; callers that gave up are dropped."""
        room = min(size, max(1, self._concurrency.limit - self._in_flight))
        batch: list[_Waiting[A]] = []
        characters = 0
        while len(batch) < room and (head := queue.head()) is not None:
            characters += len(head.item.prompt.own)
            if batch and characters > _FULL_CHARACTERS:
                break
            waiting = queue.take()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    def _start(self, question: Q, batch: list[_Waiting[A]]) -> None:
        self._in_flight += len(batch)
        self._under_way += 1
        task = asyncio.create_task(self._request(question, batch))
        self._requests[task] = batch
        task.add_done_callback(self._requests.pop)

    async def _request(self, question: Q, batch: list[_Waiting[A]]) -> None:
        try:
            answers = await self._send(question, [waiting.prompt for waiting in batch])
        except BaseException as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(answer, PromptRejected | AttemptsExhausted):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)
        finally:
            self._in_flight -= len(batch)
            self._under_way -= 1
            self.look_again()

    async def close(self) -> None:
        """End the requests under way and forget those that wait; their callers get asyncio.CancelledError."""
        self._closed = True
        self._wake(None)
        queued = [queue.take() for queue in self._groups.values() for _ in range(len(queue))]
        requests = list(self._requests)
        for waiting in chain(queued, *self._requests.values()):
            waiting.answer.cancel()
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
