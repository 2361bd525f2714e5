"""Attempts at one request: which failures count against it, how long to wait before the next one, when to give up."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, Future, RetryCallState, RetryError, retry_if_exception_type, wait_random_exponential

from inference.breaker import Breaker
from inference.errors import AttemptsExhausted, EngineBusy, EngineUnavailable

log = logging.getLogger(__name__)

R = TypeVar("R")

_LONGEST_BACKOFF_SECONDS = 15.0


class Budget:
    """How many failures a request may cause.

    A failure counts only if the engine answered someone since the request was first made, or since its last failure:
    otherwise the engine may be down for all, which is no request's fault. EngineBusy never counts.
    """

    def __init__(self, failures: int, answers: Callable[[], int], since: int | None = None) -> None:
        """answers: how often the engine has answered until now. since: what that was at an earlier failure of the same
        prompts; None for new ones.
        """
        self._failures = failures
        self._answers = answers
        self.since = answers() if since is None else since
        self.counted = 0

    @property
    def spent(self) -> bool:
        """Whether the request should be given up."""
        return self.counted >= self._failures

    def failed(self, error: EngineUnavailable) -> None:
        """Take note of one failed attempt."""
        if isinstance(error, EngineBusy):
            return
        answers = self._answers()
        if answers > self.since:
            self.counted += 1
            self.since = answers


class Retries:
    """Makes requests through a breaker until they are answered, or their budget is spent."""

    def __init__(self, breaker: Breaker, backoff_seconds: float, on_retry: Callable[[str], None]) -> None:
        """backoff_seconds: at most before the second attempt; doubles with each one, up to 15 s. on_retry: told the
        `reason` of each failed attempt.
        """
        self._breaker = breaker
        self._backoff = wait_random_exponential(multiplier=backoff_seconds, max=_LONGEST_BACKOFF_SECONDS)
        self._on_retry = on_retry
        self._closed = asyncio.Event()

    async def call(self, request: Callable[[], Awaitable[R]], budget: Budget) -> R:
        """What the request returns. Each failed attempt is one log line.

        Raises AttemptsExhausted, what the request raises other than EngineUnavailable, or asyncio.CancelledError once
        `close` was called.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EngineUnavailable),
            after=partial(self._note, budget),
            stop=lambda _: budget.spent,
            wait=self._wait,
            sleep=self._sleep,
        )
        try:
            return await retrying(self._breaker.call, request)
        except RetryError as error:
            last = _failure(error.last_attempt)
            raise AttemptsExhausted(budget.counted, last) from last

    def _note(self, budget: Budget, state: RetryCallState) -> None:
        error = _failure(state.outcome)
        budget.failed(error)
        self._on_retry(error.reason)
        log.warning("attempt %d failed, %d count: %s", state.attempt_number, budget.counted, error)

    def _wait(self, state: RetryCallState) -> float:
        error = _failure(state.outcome)
        if isinstance(error, EngineBusy) and error.retry_after:
            return error.retry_after
        return self._backoff(state)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise asyncio.CancelledError

    async def close(self) -> None:
        """Try nothing again. Callers that wait get asyncio.CancelledError."""
        self._closed.set()
        await self._breaker.close()


def _failure(attempt: Future | None) -> EngineUnavailable:
    error = attempt.exception() if attempt is not None else None
    assert isinstance(error, EngineUnavailable)
    return error
