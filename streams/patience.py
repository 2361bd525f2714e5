"""Calls that are made until they succeed, each failed attempt with one line in the log."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from streams.errors import is_transient

log = logging.getLogger(__name__)

R = TypeVar("R")

_LONGEST_BACKOFF_SECONDS = 15.0


async def persist(call: Callable[[], Awaitable[R]], backoff_seconds: float = 0.5) -> R:
    """What `call` returns, tried again for ever after transient errors. Raises any other error.

    The second attempt is made at once. backoff_seconds: at most before the third; doubles with each one, up to 15 s, at
    random below that, so that many workers do not come back at once.
    """
    try:
        return await call()  # nearly always all there is to do, and tenacity takes longer than a message to Kafka
    except Exception as error:
        if not is_transient(error):
            raise
        log.warning("%s; trying again in 0.0 s", str(error) or type(error).__name__)
    retrying = AsyncRetrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=backoff_seconds, max=_LONGEST_BACKOFF_SECONDS),
        before_sleep=_note,
        reraise=True,
    )

    async def attempt() -> R:  # tenacity awaits what a coroutine function returns, but not what a lambda does
        return await call()

    return await retrying(attempt)


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    log.warning("%s; trying again in %.1f s", str(error) or type(error).__name__, pause)
