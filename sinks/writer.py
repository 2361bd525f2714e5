"""Rows to ClickHouse in large batches, from a thread of its own, with an answer for each writer."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, DataError, ProgrammingError
from clickhouse_connect.driver.insert import InsertContext

from sinks.clickhouse import StoreSettings, brief
from sinks.errors import RowNotKept, RowRejected
from sinks.kept import not_kept
from sinks.rows import TABLES, AnyRow
from sinks.session import Session

_INSERT_SETTINGS = {
    "max_partitions_per_insert_block": 0,  # events of any age may share a batch; each month is a partition
    "async_insert": 0,  # batches are made here, and an answer means that the rows can be read
    "distributed_foreground_insert": 1,  # the same where tables are spread over shards; elsewhere it changes nothing
}
# What clickhouse-connect raises, before anything is sent, for a value that does not fit its column.
_MISFIT = (DataError, ProgrammingError, ValueError, TypeError, OverflowError, AttributeError)
# ClickHouse's codes for a value that it cannot parse, convert or hold, and for a constraint that a row violates. Each
# is about rows whatever the state of the server. Not among them is 53, TYPE_MISMATCH: it is about types, so about all
# rows alike, and dead-lettering a whole stream does not mend a schema.
_REFUSED = frozenset({6, 27, 38, 41, 69, 70, 72, 117, 131, 321, 349, 376, 407, 469, 691})


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
        batch_rows: int = 5000,
        linger: float = 0.2,
        on_flush: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        """on_flush: called with the number of rows kept and the seconds of each batch that ClickHouse acknowledged."""
        self._batch_rows = batch_rows
        self._linger = linger
        self._on_flush = on_flush
        self._waiting: list[_Submission] = []
        self._rows_waiting = 0
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._session = Session(settings, "clickhouse-writer")
        self._contexts: dict[str, InsertContext] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write. Must be called inside the event loop."""
        self._task = asyncio.create_task(self._run(), name="clickhouse-writer")

    async def write(self, rows: Sequence[AnyRow]) -> None:
        """Return when ClickHouse has acknowledged all rows. Raises what `submit` says."""
        await self.submit(rows)

    def submit(self, rows: Sequence[AnyRow]) -> "asyncio.Future[None]":
        """A future that is done when ClickHouse has acknowledged all rows.

        It has RowRejected if one of them fits no table or is refused by ClickHouse, RowNotKept if ClickHouse took one
        and drops it for its age, or StoreMisconfigured. Others of these rows may have been stored by then, but no
        verdict whose source row, among these rows, was not.
        """
        submission = _Submission(rows)
        self._waiting.append(submission)
        self._rows_waiting += len(rows)
        self._arrived.set()
        if self._rows_waiting >= self._batch_rows:
            self._full.set()
        return submission.done

    async def close(self) -> None:
        """Stop writing. What is not acknowledged yet stays unacknowledged; its writers get CancelledError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for submission in self._waiting:
            submission.done.cancel()
        self._session.close()

    async def _run(self) -> None:
        while True:
            batch = await self._next_batch()
            try:
                await self._flush(batch)
            except asyncio.CancelledError:
                for submission in batch:
                    submission.done.cancel()
                raise
            except Exception as error:  # noqa: BLE001  the callers must not wait for ever for what can never be
                for submission in batch:
                    _answer(submission, error)

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
            failed, kept, seconds = await self._session.run(partial(self._store, batch))
        except RowRejected as error:
            if len(batch) == 1:
                _answer(batch[0], error)
                return
            # One row of many is at fault: halving finds it in few inserts, and to store the others twice does no harm.
            half = len(batch) // 2
            await self._flush(batch[:half])
            await self._flush(batch[half:])
            return
        self._on_flush(kept, seconds)
        for submission in batch:
            _answer(submission, failed.get(submission))

    def _store(self, batch: list[_Submission], client: Client) -> tuple[dict[_Submission, RowNotKept], int, float]:
        """One insert a table, in the session's thread. Returns what failed, the number of rows kept, and the seconds.

        Once ClickHouse has not kept a row, the later tables get no row of its submission: no verdict without its event.
        """
        started = time.perf_counter()
        failed: dict[_Submission, RowNotKept] = {}
        kept = 0
        by_kind: dict[type[AnyRow], list[tuple[AnyRow, _Submission]]] = {kind: [] for kind in TABLES}
        for submission in batch:
            for row in submission.rows:
                by_kind[type(row)].append((row, submission))
        try:
            for kind, table in TABLES.items():
                owners = by_kind[kind]
                if failed:
                    owners = [(row, submission) for row, submission in owners if submission not in failed]
                if not owners:
                    continue
                rows = [row for row, _ in owners]
                self._insert(client, kind, table, rows)
                lost = not_kept(client, rows)
                kept += sum(id(row) not in lost for row in rows)
                failed |= {submission: lost[id(row)] for row, submission in owners if id(row) in lost}
            return failed, kept, time.perf_counter() - started
        except Exception:
            # A context may still hold these rows, and would refuse any others; or the schema is another one by now.
            self._contexts.clear()
            raise

    def _insert(self, client: Client, kind: type[AnyRow], table: str, rows: list[AnyRow]) -> None:
        if table not in self._contexts:
            self._contexts[table] = client.create_insert_context(
                table, column_names=list(kind._fields), column_oriented=True, settings=_INSERT_SETTINGS
            )
        try:
            client.insert(context=self._contexts[table], data=list(zip(*rows, strict=True)))
        except _MISFIT as error:
            raise RowRejected(f"a row does not fit its table: {brief(error)}") from error
        except DatabaseError as error:
            if error.code not in _REFUSED:
                raise
            # Without the server's own text, which quotes the row.
            reason = f"ClickHouse refuses a row for {table}: error {error.code}, {error.name}"
            raise RowRejected(reason) from None


def _answer(submission: _Submission, error: Exception | None = None) -> None:
    if submission.done.done():
        return
    if error is None:
        submission.done.set_result(None)
    else:
        submission.done.set_exception(error)
