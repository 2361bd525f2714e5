"""One connection to ClickHouse in a thread of its own, for coroutines that have the patience to wait for the store."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clickhouse_connect.driver.client import Client
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from sinks.clickhouse import UNAVAILABLE, StoreSettings, connect, store_error
from sinks.errors import StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_BACKOFF_SECONDS = 15.0


class Session:
    """Runs functions that take a client, one at a time. The client is made when needed, and anew after an error."""

    def __init__(self, settings: StoreSettings, name: str) -> None:
        """name: of the thread."""
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._client: Client | None = None

    async def run(self, work: Callable[[Client], T]) -> T:
        """What `work` returns. While the store is unavailable it is called again, for ever, with a line in the log.

        Raises what `work` raises, but for the errors of an unavailable store, and StoreMisconfigured.
        """
        loop = asyncio.get_running_loop()
        patience = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=_MAX_BACKOFF_SECONDS),
            before_sleep=_note,
            reraise=True,
        )

        async def attempt() -> T:
            return await loop.run_in_executor(self._thread, self._call, work)

        return await patience(attempt)

    def close(self) -> None:
        """Disconnect once the function that is running has ended. Does not wait for that."""
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=False)

    def _call(self, work: Callable[[Client], T]) -> T:
        try:
            if self._client is None:
                self._client = connect(self._settings)
            return work(self._client)
        except UNAVAILABLE as error:
            self._disconnect()
            raise store_error(error, self._settings.url) from error

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _note(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    log.warning("%s; trying again in %.1f s", error, pause)
