"""Many callers, few requests: prompts that wait are sent together as soon as a request may start."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from inference.engine import LabelToken, Score
from inference.errors import AttemptsExhausted, PromptRejected

Outcome = Score | PromptRejected | AttemptsExhausted
Send = Callable[[Sequence[str], Sequence[LabelToken]], Awaitable[Sequence[Outcome]]]


@dataclass(slots=True, eq=False)
class _Waiting:
    prompt: str
    labels: tuple[LabelToken, ...]
    score: "asyncio.Future[Score]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Sends prompts as they come while requests are free, and in batches while they are not.

    A prompt never waits for others to fill its batch: batches form only out of what arrived while every request was
    busy. A request carries prompts of one set of labels, and its failure reaches only the prompts that it carried.
    """

    def __init__(self, send: Send, prompts_per_request: int, requests_in_flight: int) -> None:
        """send: asks the engine; a score, or why it failed, for each prompt in order, or raises for all of them."""
        self._send = send
        self._size = prompts_per_request
        self._free = requests_in_flight
        self._waiting: deque[_Waiting] = deque()
        self._requests: dict[asyncio.Task[None], list[_Waiting]] = {}
        self._closed = False

    async def submit(self, prompt: str, labels: Sequence[LabelToken]) -> Score:
        """The score of one prompt. Raises why it was given up, or what the request that carried it raised.

        Raises asyncio.CancelledError once `close` was called.
        """
        if self._closed:
            raise asyncio.CancelledError
        waiting = _Waiting(prompt, tuple(labels))
        self._waiting.append(waiting)
        self._start_requests()
        return await waiting.score

    def _start_requests(self) -> None:
        while self._waiting and self._free:
            batch = self._take()
            if batch:
                self._free -= 1
                task = asyncio.create_task(self._request(batch))
                self._requests[task] = batch
                task.add_done_callback(self._requests.pop)

    def _take(self) -> list[_Waiting]:
        """The next prompts that may share a request; callers that gave up are dropped."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self._size:
            if batch and self._waiting[0].labels != batch[0].labels:
                break
            waiting = self._waiting.popleft()
            if not waiting.score.done():
                batch.append(waiting)
        return batch

    async def _request(self, batch: list[_Waiting]) -> None:
        try:
            scores = await self._send([waiting.prompt for waiting in batch], batch[0].labels)
        except BaseException as error:
            for waiting in batch:
                if not waiting.score.done():
                    waiting.score.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for waiting, score in zip(batch, scores, strict=True):
                if waiting.score.done():
                    continue
                if isinstance(score, PromptRejected | AttemptsExhausted):
                    waiting.score.set_exception(score)
                else:
                    waiting.score.set_result(score)
        finally:
            self._free += 1
            self._start_requests()

    async def close(self) -> None:
        """End the requests under way and forget those that wait; their callers get asyncio.CancelledError."""
        self._closed = True
        requests = list(self._requests)
        for waiting in chain(self._waiting, *self._requests.values()):
            waiting.score.cancel()
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
