"""Single texts of a stream get the speed of batches: those that wait go to the screen together."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from inference.screen.model import Scores, Screen

SIZE = 256
LINGER = 0.002


class ScreenBatcher:
    """Asks a screen in a thread of its own, one batch at a time; while it works, the next batch collects.

    A batch leaves when it is full, or when its first text has waited for `linger` and no other batch is under way.
    """

    def __init__(self, screen: Screen, size: int = SIZE, linger: float = LINGER) -> None:
        """size: texts of a batch, at most. linger: seconds."""
        self.screen = screen
        self._size = size
        self._linger = linger
        self._waiting: list[tuple[str, asyncio.Future[list[float]]]] = []
        self._thread = ThreadPoolExecutor(1, "screen")
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: asyncio.Task[None] | None = None
        self._closed = False

    async def risk(self, text: str) -> float:
        """The probability that the text is to be flagged."""
        return (await self.scores(text))[0]

    async def scores(self, text: str) -> list[float]:
        """The risk, then the probability of each category. asyncio.CancelledError once `close` was called."""
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.cancel()
        else:
            self._waiting.append((text, answer))
            self._look()
        return await answer

    def _look(self) -> None:
        """Start a batch if it is full, or else see to it that it starts in time."""
        if self._under_way is not None or not self._waiting:
            return
        if len(self._waiting) >= self._size:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]  # callers that gave up
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        if batch:
            self._under_way = asyncio.create_task(self._answer(batch))

    async def _answer(self, batch: Sequence[tuple[str, "asyncio.Future[list[float]]"]]) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._ask, [text for text, _ in batch]
            )
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, answer), scores in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(scores)
        finally:
            self._under_way = None
            if not self._closed:
                self._start()  # those that came meanwhile have waited long enough

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        scores: Scores = self.screen.scores(texts)
        answers: list[list[float]] = scores.tolist()
        return answers

    async def close(self) -> None:
        """Let the batch under way end and forget the texts that wait; their callers get asyncio.CancelledError."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for _, answer in self._waiting:
            answer.cancel()
        self._waiting = []
        if self._under_way is not None:
            await self._under_way
        self._thread.shutdown()
