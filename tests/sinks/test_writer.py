"""The writer: many callers, few inserts, an answer only for what is stored, and patience with the store."""

import asyncio
import signal
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.embedded.process import free_port
from deploy.embedded.store import ChdbStore
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import RowNotKept, RowRejected, StoreMisconfigured
from sinks.migrate import migrate
from sinks.rows import (
    TABLES,
    CallRow,
    DocumentRow,
    EngineUsageRow,
    InferenceCallRow,
    LineageEdgeRow,
    PromptRow,
    SourceRow,
    VerdictRow,
)
from sinks.writer import Writer

Make = Callable[..., Any]
Running = Callable[..., AbstractAsyncContextManager[Writer]]

NEVER = 3600.0
SOON = 0.01


class StoreAt:
    """A store that can be killed and started again at the same port and folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.settings = StoreSettings(f"http://127.0.0.1:{self._port}", timeout=5)
        self._process: ChdbStore | None = None

    def start(self) -> None:
        self._process = ChdbStore(self._folder, self._port)

    def kill(self) -> None:
        assert self._process
        self._process.signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreAt]:
    """A store that a test may kill; it must start it again."""
    pytest.importorskip("chdb", reason="the extra `embedded` is not installed")
    store = StoreAt(tmp_path_factory.mktemp("own"))
    store.start()
    migrate(store.settings)
    yield store
    store.kill()


@pytest.fixture
def running(settings: StoreSettings) -> Running:
    """A writer that is started and closed."""

    @asynccontextmanager
    async def run(**options: Any) -> AsyncIterator[Writer]:
        writer = Writer(**{"settings": settings, "linger": SOON, **options})
        writer.start()
        try:
            yield writer
        finally:
            await writer.close()

    return run


def stored(client: Client, table: str = "source_rows_raw", column: str = "event_id") -> list[Any]:
    return sorted(row[0] for row in client.query(f"SELECT {column} FROM {table}").result_rows)


def sources(make: Make, count: int) -> list[SourceRow]:
    return [make(SourceRow, row_id=make(SourceRow).row_id + n, event_id=f"e-{n:03}") for n in range(count)]


async def test_rows_of_many_callers_are_one_insert(tables: Client, running: Running, make: Make) -> None:
    flushed: list[int] = []
    async with running(linger=0.1, on_flush=lambda rows, seconds: flushed.append(rows)) as writer:
        await asyncio.gather(*(writer.write([row]) for row in sources(make, 50)))
    assert flushed == [50]
    assert len(stored(tables)) == 50


async def test_a_full_batch_does_not_wait(tables: Client, running: Running, make: Make) -> None:
    async with running(linger=NEVER, batch_rows=10) as writer:
        rows = sources(make, 10)
        await asyncio.gather(writer.write(rows[:4]), writer.write(rows[4:]))
    assert len(stored(tables)) == 10


async def test_a_batch_that_is_not_full_waits(tables: Client, running: Running, make: Make) -> None:
    async with running(linger=NEVER, batch_rows=10) as writer:
        rows = sources(make, 10)
        first = asyncio.create_task(writer.write(rows[:9]))
        done, _ = await asyncio.wait([first], timeout=0.2)
        assert not done
        assert stored(tables) == []
        await writer.write(rows[9:])
        await first
    assert len(stored(tables)) == 10


async def test_batches_follow_each_other(tables: Client, running: Running, make: Make) -> None:
    flushed: list[tuple[int, float]] = []
    async with running(on_flush=lambda *batch: flushed.append(batch)) as writer:
        for row in sources(make, 3):
            await writer.write([row])
    assert [rows for rows, _ in flushed] == [1, 1, 1]
    assert all(seconds > 0 for _, seconds in flushed)
    assert stored(tables) == ["e-000", "e-001", "e-002"]


async def test_rows_of_all_tables_go_where_they_belong(tables: Client, running: Running, make: Make) -> None:
    async with running() as writer:
        await writer.write([make(kind) for kind in TABLES])
    assert {table: tables.command(f"SELECT count() FROM {table}") for table in TABLES.values()} == dict.fromkeys(
        TABLES.values(), 1
    )


async def test_nothing_to_write_is_answered(running: Running) -> None:
    async with running() as writer:
        await writer.write([])


async def test_an_answered_row_survives_a_kill(own_store: StoreAt, running: Running, make: Make) -> None:
    async with running(settings=own_store.settings) as writer:
        await writer.write([make(SourceRow)])
        own_store.kill()
    own_store.start()
    client = connect(own_store.settings)
    assert "e-1" in stored(client)
    client.close()


async def test_writes_wait_for_a_store_that_is_down(
    own_store: StoreAt, running: Running, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = sources(make, 3)
    async with running(settings=own_store.settings) as writer:
        await writer.write([first])
        own_store.kill()
        waiting = [asyncio.create_task(writer.write([row])) for row in (second, third)]
        done, _ = await asyncio.wait(waiting, timeout=0.5)
        assert not done
        assert writer.rows_held == 2
        await asyncio.to_thread(own_store.start)
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)
        await asyncio.sleep(0)
        assert writer.rows_held == 0
    client = connect(own_store.settings)
    assert set(stored(client)) >= {"e-000", "e-001", "e-002"}
    client.close()
    assert any(own_store.settings.url in record.getMessage() for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)  # an outage is a line, no traceback


MISFITS = {
    "lone surrogate": (SourceRow, {"text": "\ud800"}),
    "lone surrogate in a dictionary column": (SourceRow, {"lang": "\ud800"}),
    "no text": (SourceRow, {"text": None}),
    "no time": (SourceRow, {"event_time": None}),
    "negative id": (SourceRow, {"row_id": -1}),
    "id beyond 128 bits": (SourceRow, {"row_id": 1 << 128}),
    "partition beyond 32 bits": (SourceRow, {"partition": 1 << 32}),
    "negative offset": (SourceRow, {"offset": -1}),
    "a list in a dictionary column": (SourceRow, {"lang": ["en"]}),
    "no scores": (VerdictRow, {"scores": None}),
    "a word among the scores": (VerdictRow, {"scores": ["high"]}),
    "a share beyond 32 bits": (VerdictRow, {"confidence": 1e300}),
    "negative latency": (VerdictRow, {"latency_ms": -1}),
    "a child without id": (LineageEdgeRow, {"child": None}),
    "labels that are none": (PromptRow, {"labels": 3}),
    "seconds in words": (InferenceCallRow, {"seconds": "two"}),
}


async def test_misfits_are_the_fault_of_their_callers_alone(tables: Client, running: Running, make: Make) -> None:
    good = {f"good {number}": row for number, row in enumerate(sources(make, len(MISFITS) + 1))}
    bad = {name: make(kind, **columns) for name, (kind, columns) in MISFITS.items()}
    mixed = [pair for pairs in zip(good.items(), [*bad.items(), ("", None)], strict=True) for pair in pairs][:-1]
    async with running() as writer:
        answers = await asyncio.gather(*(writer.write([row]) for _, row in mixed), return_exceptions=True)
        await asyncio.sleep(0)
        assert writer.rows_held == 0
    found = {name: type(answer) for (name, _), answer in zip(mixed, answers, strict=True)}
    assert found == dict.fromkeys(good, type(None)) | dict.fromkeys(bad, RowRejected)
    assert set(stored(tables)) == {row.event_id for row in good.values()}


async def test_a_misfit_is_forgotten_when_the_next_batch_comes(tables: Client, running: Running, make: Make) -> None:
    async with running() as writer:
        with pytest.raises(RowRejected):
            await writer.write([make(SourceRow, lang=["en"])])
        await writer.write([make(SourceRow)])
    assert stored(tables) == ["e-1"]


async def test_the_error_of_a_misfit_does_not_quote_its_text(running: Running, make: Make) -> None:
    async with running() as writer:
        with pytest.raises(RowRejected) as caught:
            await writer.write([make(SourceRow, text="very private \ud800")])
    assert "private" not in str(caught.value)


async def test_a_caller_who_gave_up_does_not_hold_up_others(tables: Client, running: Running, make: Make) -> None:
    first, second = sources(make, 2)
    async with running(linger=0.1) as writer:
        gone = asyncio.create_task(writer.write([first]))
        staying = asyncio.create_task(writer.write([second]))
        await asyncio.sleep(0)
        gone.cancel()
        await staying
    assert "e-001" in stored(tables)


@pytest.mark.parametrize("linger", [NEVER, 0], ids=["not sent yet", "being sent"])
async def test_closing_leaves_what_waits_unanswered(running: Running, make: Make, linger: float) -> None:
    nowhere = StoreSettings(f"http://127.0.0.1:{free_port()}")
    async with running(settings=nowhere, linger=linger) as writer:
        waiting = asyncio.create_task(writer.write([make(SourceRow)]))
        await asyncio.wait([waiting], timeout=0.1)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closing_before_the_start(settings: StoreSettings) -> None:
    await Writer(settings).close()


async def test_a_lost_database_is_an_outage(
    new_database: Callable[[], StoreSettings], running: Running, make: Make
) -> None:
    late = new_database()
    async with running(settings=replace(late, timeout=5)) as writer:
        waiting = asyncio.create_task(writer.write([make(SourceRow)]))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        await asyncio.to_thread(migrate, late)
        async with asyncio.timeout(30):
            await waiting
    client = connect(late)
    assert stored(client) == ["e-1"]
    client.close()


async def test_events_of_many_months_share_a_batch(tables: Client, running: Running, make: Make) -> None:
    start = datetime.fromisoformat("2012-01-15T00:00:00Z")
    times = [start + timedelta(days=30 * n) for n in range(110)]
    rows = [make(SourceRow, row_id=n, event_time=time) for n, time in enumerate(times)]
    async with running() as writer:
        await writer.write(rows)
    assert len(stored(tables)) == 110


@pytest.mark.parametrize("text", ["", "a\0b\x1b", "'\"`\\\n\r\n\t{x:String}", "😀 ünï שלום", "x" * (1 << 20)])
async def test_words_are_kept_as_they_are(tables: Client, running: Running, make: Make, text: str) -> None:
    async with running() as writer:
        await writer.write([make(SourceRow, text=text, thread=text[:100], lang=text[:20])])
    assert tables.query("SELECT text, thread, lang FROM source_rows_raw").first_row == (text, text[:100], text[:20])


async def test_views_show_a_row_once(tables: Client, running: Running, make: Make) -> None:
    """A redelivery writes the same rows again, in another batch and at a later time."""
    later = make(SourceRow).written_at + timedelta(seconds=5)
    stamps = {
        PromptRow: "used_at",
        SourceRow: "written_at",
        InferenceCallRow: "called_at",
        LineageEdgeRow: "written_at",
        VerdictRow: "judged_at",
        EngineUsageRow: "written_at",
        DocumentRow: "written_at",
        CallRow: "closed_at",
    }
    again = [make(kind, **{stamp: later}) for kind, stamp in stamps.items()]
    tables.command("SYSTEM STOP MERGES")
    async with running() as writer:
        for rows in ([make(kind) for kind in stamps], again, [make(kind) for kind in stamps]):
            await writer.write(rows)
    for kind, stamp in stamps.items():
        table = TABLES[kind]
        view = table.removesuffix("_raw")
        assert tables.command(f"SELECT count() FROM {table}") == 3
        rows = tables.query(f"SELECT {stamp} FROM {view}", tz_mode="aware").result_rows
        assert rows == [(later,)], f"{view} shows the latest, once"
    tables.command("SYSTEM START MERGES")


async def test_views_name_rows_and_labels(tables: Client, running: Running, make: Make) -> None:
    unknown = make(VerdictRow, row_id=make(VerdictRow).row_id + 1, prompt_hash="gone")
    async with running() as writer:
        await writer.write([*(make(kind) for kind in TABLES), unknown])
    view = "SELECT toString(row_uuid), scores, score_values FROM verdicts WHERE prompt_hash = {hash:String}"
    uuid, scores, values = tables.query(view, parameters={"hash": "a1"}).first_row
    assert uuid.replace("-", "") == f"{make(VerdictRow).row_id:032x}"
    assert scores == {"ok": 0.75, "spam": 0.25}
    assert values == [0.75, 0.25]
    edge = tables.query("SELECT toString(child_uuid), toString(parent_uuid) FROM lineage_edges").first_row
    assert [part.replace("-", "") for part in edge] == [
        f"{make(VerdictRow).row_id:032x}",
        f"{make(SourceRow).row_id:032x}",
    ]


async def test_a_verdict_without_its_prompt_can_still_be_read(tables: Client, running: Running, make: Make) -> None:
    async with running() as writer:
        await writer.write([make(VerdictRow, prompt_hash="gone")])
    assert tables.query("SELECT scores, score_values FROM verdicts").first_row == ({}, [0.75, 0.25])


@pytest.fixture
def altered(new_database: Callable[[], StoreSettings]) -> Iterator[Callable[..., tuple[StoreSettings, Client]]]:
    """`altered(*statements)`: a database of its own after these statements, and a client."""
    opened: list[Client] = []

    def alter(*statements: str) -> tuple[StoreSettings, Client]:
        chosen = new_database()
        migrate(chosen)
        opened.append(connect(chosen))
        for statement in statements:
            opened[-1].command(statement)
        return chosen, opened[-1]

    yield alter
    for client in opened:
        client.close()


Altered = Callable[..., tuple[StoreSettings, Client]]


async def test_rows_older_than_their_tables_ttl_are_told_to_their_callers(
    altered: Altered, running: Running, make: Make
) -> None:
    ttl = "ALTER TABLE {} MODIFY TTL toDateTime(event_time) + INTERVAL 30 DAY"
    own, client = altered(ttl.format("source_rows_raw"), ttl.format("verdicts_raw"))
    now = datetime.now(UTC)
    times = {"fresh": now, "old": now - timedelta(days=3), "too old": now - timedelta(days=400)}
    rows = {
        (kind, name): make(kind, row_id=number, event_time=time)
        for kind in (SourceRow, VerdictRow)
        for number, (name, time) in enumerate(times.items())
    }
    flushed: list[int] = []
    async with running(settings=own, on_flush=lambda count, seconds: flushed.append(count)) as writer:
        answers = await asyncio.gather(
            *(writer.write([make(LineageEdgeRow), row]) for row in rows.values()), return_exceptions=True
        )
    found = dict(zip(rows, answers, strict=True))
    lost = {key: found.pop(key) for key in [(SourceRow, "too old"), (VerdictRow, "too old")]}
    assert set(found.values()) == {None}
    assert {type(error) for error in lost.values()} == {RowNotKept}
    assert [TABLES[kind] in str(error) and "TTL" in str(error) for (kind, _), error in lost.items()] == [True, True]
    assert flushed == [9]  # without the two, and the edge that would have followed the source row
    for table in ("source_rows_raw", "verdicts_raw"):
        assert stored(client, table, "row_id")[:2] == [0, 1]


async def test_no_verdict_outlives_its_source_row(altered: Altered, running: Running, make: Make) -> None:
    own, client = altered("ALTER TABLE source_rows_raw MODIFY TTL toDateTime(event_time) + INTERVAL 30 DAY")
    now = datetime.now(UTC)
    submissions = [
        [make(kind, row_id=number, event_time=now - timedelta(days=days)) for kind in (VerdictRow, SourceRow)]
        + [make(InferenceCallRow, row_id=number), make(LineageEdgeRow, child=number)]
        for number, days in enumerate([40, 20, 0])
    ]
    flushed: list[int] = []
    async with running(settings=own, linger=0.1, on_flush=lambda count, _: flushed.append(count)) as writer:
        answers = await asyncio.gather(*map(writer.write, submissions), return_exceptions=True)
    assert [type(answer) for answer in answers] == [RowNotKept, type(None), type(None)]
    assert "source_rows_raw" in str(answers[0])
    assert flushed == [8]
    assert stored(client, "verdicts", "row_id") == [1, 2]
    assert stored(client, "inference_calls", "row_id") == [1, 2]
    assert stored(client, "lineage_edges", "child") == [1, 2]
    assert client.command("SELECT sum(verdicts) FROM verdict_rollups") == 2


async def test_a_source_row_may_outlive_its_verdict(altered: Altered, running: Running, make: Make) -> None:
    own, client = altered("ALTER TABLE verdicts_raw MODIFY TTL toDateTime(event_time) + INTERVAL 30 DAY")
    old = datetime.now(UTC) - timedelta(days=40)
    async with running(settings=own) as writer:
        with pytest.raises(RowNotKept, match="verdicts_raw"):
            await writer.write([make(SourceRow, event_time=old), make(VerdictRow, event_time=old)])
    assert stored(client) == ["e-1"]


@pytest.mark.parametrize(
    ("ttl", "kept"),
    [
        ("toDateTime(event_time) + INTERVAL 10 DAY", ["fresh"]),
        ("toDateTime(event_time) + INTERVAL 10 DAY DELETE WHERE stage = 'b'", ["a", "fresh"]),
        ("toDate(event_time) + 10 DELETE WHERE stage IN ('x', 'b'), toDate(event_time) + 900", ["a", "fresh"]),
        ("toDateTime(event_time) + INTERVAL 5 DAY RECOMPRESS CODEC(ZSTD(9)), toDate(event_time) + 10", ["fresh"]),
        ("toDateTime(event_time) + INTERVAL 5 DAY RECOMPRESS CODEC(ZSTD(9))", ["a", "b", "fresh"]),
    ],
)
async def test_an_expired_row_is_told_before_a_merge_drops_it(
    altered: Altered, running: Running, make: Make, ttl: str, kept: list[str]
) -> None:
    own, client = altered(f"ALTER TABLE verdicts_raw MODIFY TTL {ttl}", "SYSTEM STOP MERGES verdicts_raw")
    now = datetime.now(UTC)
    times = {"a": now - timedelta(days=12), "b": now - timedelta(days=12), "fresh": now - timedelta(days=2)}
    rows = [make(VerdictRow, stage=stage, event_time=time) for stage, time in times.items()]  # one row id for all
    async with running(settings=own) as writer:
        answers = await asyncio.gather(*(writer.write([row]) for row in rows), return_exceptions=True)
    assert [stage for stage, answer in zip(times, answers, strict=True) if answer is None] == kept
    assert all(answer is None or isinstance(answer, RowNotKept) for answer in answers)
    assert len(stored(client, "verdicts_raw", "stage")) == 3


async def test_many_old_rows_are_looked_up(tables: Client, running: Running, make: Make) -> None:
    first = (1 << 128) - 2500  # the longest ids, and more than one query can ask for
    rows = [make(SourceRow, row_id=first + n, event_time=datetime(2012, 1, 1, tzinfo=UTC)) for n in range(2500)]
    async with running() as writer:
        await writer.write(rows)
    assert len(stored(tables)) == 2500


async def test_a_look_up_that_fails_is_an_outage(
    altered: Altered, running: Running, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    own, client = altered(
        "RENAME TABLE source_rows_raw TO aside",
        "CREATE TABLE source_rows_raw AS aside ENGINE = Set",  # it takes rows and shows none
    )
    async with running(settings=own) as writer:
        waiting = asyncio.create_task(writer.write([make(SourceRow, event_time=datetime(2012, 1, 1, tzinfo=UTC))]))
        while not caplog.records:
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done
        client.command("DROP TABLE source_rows_raw")
        client.command("RENAME TABLE aside TO source_rows_raw")
        async with asyncio.timeout(30):
            await waiting
    assert stored(client) == ["e-1"]


async def test_a_row_that_clickhouse_refuses_costs_few_inserts(altered: Altered, running: Running, make: Make) -> None:
    own, client = altered("ALTER TABLE source_rows_raw ADD CONSTRAINT short CHECK length(text) < 20")
    rows = sources(make, 64)
    rows[37] = rows[37]._replace(text="very private and too long")
    flushed: list[int] = []
    async with running(settings=own, on_flush=lambda count, seconds: flushed.append(count)) as writer:
        answers = await asyncio.gather(*(writer.write([row]) for row in rows), return_exceptions=True)
    assert sorted(flushed) == [1, 2, 4, 8, 16, 32]
    assert [number for number, answer in enumerate(answers) if answer is not None] == [37]
    assert isinstance(answers[37], RowRejected)
    assert "source_rows_raw: error 469, VIOLATED_CONSTRAINT" in str(answers[37])
    assert "private" not in "".join(traceback.format_exception(answers[37]))
    assert stored(client) == [row.event_id for row in rows if row is not rows[37]]


async def test_a_row_that_another_column_cannot_be_parsed_from_is_refused(
    altered: Altered, running: Running, make: Make
) -> None:
    own, client = altered("ALTER TABLE source_rows_raw ADD COLUMN number UInt64 MATERIALIZED toUInt64(event_id)")
    async with running(settings=own) as writer:
        good, bad = make(SourceRow, event_id="12"), make(SourceRow, event_id="twelve")
        answers = await asyncio.gather(writer.write([good]), writer.write([bad]), return_exceptions=True)
    assert (answers[0], type(answers[1])) == (None, RowRejected)
    assert stored(client, column="number") == [12]


async def test_an_error_that_is_not_about_the_row_is_an_outage(
    altered: Altered, running: Running, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    own, client = altered("ALTER TABLE source_rows_raw ADD CONSTRAINT sick CHECK throwIf(length(text) > 2) = 0")
    async with running(settings=own) as writer:
        waiting = asyncio.create_task(writer.write([make(SourceRow)]))
        while not caplog.records:
            done, _ = await asyncio.wait([waiting], timeout=0.05)
            assert not done
        client.command("ALTER TABLE source_rows_raw DROP CONSTRAINT sick")
        async with asyncio.timeout(30):
            await waiting
    assert stored(client) == ["e-1"]


async def test_a_store_that_lets_nobody_in_is_told_at_once(locked: StoreSettings, running: Running, make: Make) -> None:
    async with running(settings=locked) as writer:
        with pytest.raises(StoreMisconfigured, match=locked.url):
            await writer.write([make(SourceRow)])


async def test_what_nobody_foresaw_reaches_the_caller_and_the_writer_goes_on(
    tables: Client, running: Running, make: Make
) -> None:
    async with running() as writer:
        with pytest.raises(AttributeError):
            await writer.write([make(SourceRow, event_time=1)])  # ClickHouse takes a number for a time
        await writer.write([make(SourceRow, event_id="e-2")])
    assert "e-2" in stored(tables)
