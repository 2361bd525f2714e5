"""Many callers, few requests: prompts that wait are sent together as soon as a request may start."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from inference.engine import LabelToken, Score

Send = Callable[[Sequence[str], Sequence[LabelToken]], Awaitable[list[Score]]]


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
        """send: asks the engine; one score a prompt, in order, or an exception for all of them."""
        self._send = send
        self._size = prompts_per_request
        self._free = requests_in_flight
        self._waiting: deque[_Waiting] = deque()
        self._requests: set[asyncio.Task[None]] = set()

    async def submit(self, prompt: str, labels: Sequence[LabelToken]) -> Score:
        """The score of one prompt. Raises what the request that carried it raised."""
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
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)

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
                if not waiting.score.done():
                    waiting.score.set_result(score)
        finally:
            self._free += 1
            self._start_requests()

    async def close(self) -> None:
        """End the requests under way; their callers get asyncio.CancelledError."""
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
