"""Rows to ClickHouse in large batches, from a thread of its own, with an answer for each writer."""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DataError, ProgrammingError
from clickhouse_connect.driver.insert import InsertContext
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from sinks.clickhouse import UNAVAILABLE, StoreSettings, brief, connect
from sinks.errors import RowRejected, StoreUnavailable
from sinks.rows import TABLES, AnyRow

log = logging.getLogger(__name__)

_MAX_BACKOFF_SECONDS = 15.0
# Events of any age may share a batch; each month is a partition.
_INSERT_SETTINGS = {"max_partitions_per_insert_block": 0}
# What clickhouse-connect raises, before anything is sent, for a value that does not fit its column.
_MISFIT = (DataError, ProgrammingError, ValueError, TypeError, OverflowError, AttributeError)


@dataclass(slots=True, eq=False)
class _Submission:
    rows: Sequence[AnyRow]
    done: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Writer:
    """Collects rows of many callers into one insert a table.

    A batch is written when it has `batch_rows` rows, or `linger` seconds after its first row. While the store is
    unavailable the batch is tried again, for ever; callers wait, and it is for them to stop bringing more.
    """

    def __init__(
        self,
        settings: StoreSettings,
        batch_rows: int = 2000,
        linger: float = 0.2,
        on_flush: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """on_flush: called with the number of rows and the seconds of each batch that ClickHouse acknowledged."""
        self._settings = settings
        self._batch_rows = batch_rows
        self._linger = linger
        self._on_flush = on_flush
        self._waiting: list[_Submission] = []
        self._rows_waiting = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clickhouse")
        self._client: Client | None = None
        self._contexts: dict[str, InsertContext] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write. Must be called inside the event loop."""
        self._task = asyncio.create_task(self._run(), name="clickhouse-writer")

    async def write(self, rows: Sequence[AnyRow]) -> None:
        """Return when ClickHouse has acknowledged all rows. Raises RowRejected if one of them fits no table."""
        submission = _Submission(rows)
        self._waiting.append(submission)
        self._rows_waiting += len(rows)
        self._arrived.set()
        if self._rows_waiting >= self._batch_rows:
            self._full.set()
        await submission.done

    async def close(self) -> None:
        """Stop writing. What is not acknowledged yet stays unacknowledged; its writers get CancelledError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for submission in self._waiting:
            submission.done.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            batch = await self._next_batch()
            try:
                await self._flush(batch)
            except asyncio.CancelledError:
                for submission in batch:
                    submission.done.cancel()
                raise

    async def _next_batch(self) -> list[_Submission]:
        await self._arrived.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._full.wait(), self._linger)
        batch, self._waiting = self._waiting, []
        self._rows_waiting = 0
        self._arrived.clear()
        self._full.clear()
        return batch

    async def _flush(self, batch: list[_Submission]) -> None:
        try:
            await self._insert_until_stored(batch)
        except RowRejected as error:
            if len(batch) == 1:
                _answer(batch[0], error)
                return
            for submission in batch:  # one row of many fits no table: each caller for itself
                await self._flush([submission])
        else:
            for submission in batch:
                _answer(submission)

    async def _insert_until_stored(self, batch: list[_Submission]) -> None:
        rows = [row for submission in batch for row in submission.rows]
        loop = asyncio.get_running_loop()
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=_MAX_BACKOFF_SECONDS),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        ):
            with attempt:
                started = time.perf_counter()
                await loop.run_in_executor(self._thread, self._insert, rows)
                self._on_flush(len(rows), time.perf_counter() - started)

    def _insert(self, rows: list[AnyRow]) -> None:
        """One insert a table, in the writer's thread."""
        by_type: dict[type[AnyRow], list[AnyRow]] = defaultdict(list)
        for row in rows:
            by_type[type(row)].append(row)
        try:
            if self._client is None:
                self._client = connect(self._settings)
            for kind, table in TABLES.items():
                if kind in by_type:
                    self._insert_table(self._client, kind, table, by_type[kind])
        except StoreUnavailable:
            raise
        except _MISFIT as error:
            self._contexts.clear()  # one of them may still hold the rows, and would refuse any others
            raise RowRejected(f"a row does not fit its table: {brief(error)}") from error
        except UNAVAILABLE as error:
            self._forget_connection()
            raise StoreUnavailable(f"ClickHouse {self._settings.url}: {brief(error)}") from error

    def _insert_table(self, client: Client, kind: type[AnyRow], table: str, rows: list[AnyRow]) -> None:
        if table not in self._contexts:
            self._contexts[table] = client.create_insert_context(
                table, column_names=list(kind._fields), column_oriented=True, settings=_INSERT_SETTINGS
            )
        columns = list(zip(*rows, strict=True))
        client.insert(context=self._contexts[table], data=columns)

    def _forget_connection(self) -> None:
        """The next attempt starts afresh: the schema may be another one by then."""
        client, self._client = self._client, None
        self._contexts.clear()
        if client is not None:
            client.close()


def _answer(submission: _Submission, error: Exception | None = None) -> None:
    if submission.done.done():
        return
    if error is None:
        submission.done.set_result(None)
    else:
        submission.done.set_exception(error)
