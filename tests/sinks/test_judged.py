"""Stored verdicts are found again, many with few queries, and callers wait for a store that is away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.embedded.process import free_port
from deploy.embedded.store import ChdbStore
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import StoreMisconfigured
from sinks.judged import Judged, Known
from sinks.migrate import migrate
from sinks.rows import TABLES, AnyRow, LineageEdgeRow, PromptRow, VerdictRow

Make = Callable[..., Any]


@pytest.fixture
async def judged(settings: StoreSettings) -> AsyncIterator[Judged]:
    running = Judged(settings)
    running.start()
    yield running
    await running.close()


def put(client: Client, *rows: AnyRow) -> None:
    for kind, table in TABLES.items():
        if chosen := [row for row in rows if isinstance(row, kind)]:
            client.insert(table, chosen, column_names=list(kind._fields))


def key(row: VerdictRow) -> tuple[str, str, int]:
    return row.pipeline, row.stage, row.row_id


async def test_a_verdict_comes_back_as_it_was_written(tables: Client, judged: Judged, make: Make) -> None:
    row = make(
        VerdictRow,
        reused_from=(1 << 128) - 1,
        output='{"evidence":"“é”\\n"}',
        confidence_source="votes",
        engine_seconds=0.1,
    )
    put(tables, row, make(PromptRow))
    found = await judged.find(*key(row))
    assert found is not None
    assert found.row == row
    assert found.row.event_time.utcoffset() == timedelta(0)
    assert type(found.row.scores) is list
    assert found.labels == ["ok", "spam"]
    assert found.parents == []


async def test_parents_are_in_the_order_of_lineage(tables: Client, judged: Judged, make: Make) -> None:
    row = make(VerdictRow)
    early, late = row.row_id - (2 << 80), row.row_id - (1 << 80)
    wanted = [(late, "input"), (late, "reused"), (early, "context"), (late, "context"), (early, "another")]
    edges = [make(LineageEdgeRow, child=row.row_id, parent=parent, kind=kind) for parent, kind in reversed(wanted)]
    other = make(LineageEdgeRow, child=row.row_id + 1, parent=1)
    put(tables, row, *edges, other)
    put(tables, *edges)
    found = await judged.find(*key(row))
    assert found is not None
    assert found.parents == wanted
    assert found.labels == []  # the store has lost the prompt


async def test_what_is_not_there_is_not_found(tables: Client, judged: Judged, make: Make) -> None:
    row = make(VerdictRow)
    put(tables, row)
    keys = [(*key(row)[:2], row.row_id + 1), (row.pipeline, "other", row.row_id), ("other", row.stage, row.row_id)]
    assert await asyncio.gather(*(judged.find(*absent) for absent in keys)) == [None] * 3
    assert await judged.find(*key(row)) is not None


async def test_the_latest_wins(tables: Client, judged: Judged, make: Make) -> None:
    row = make(VerdictRow)
    tables.command("SYSTEM STOP MERGES")
    for seconds in (0, 2, 1):
        put(tables, row._replace(judged_at=row.judged_at + timedelta(seconds=seconds), label=f"after {seconds}"))
    found = await judged.find(*key(row))
    tables.command("SYSTEM START MERGES")
    assert found is not None
    assert found.row.label == "after 2"


async def test_many_are_found_with_few_queries(tables: Client, judged: Judged, make: Make) -> None:
    first = (1 << 128) - 4000  # the longest ids
    rows = [
        make(VerdictRow, row_id=first + n, stage=("a", "b")[n % 2], event_time=make(VerdictRow).event_time)
        for n in range(1500)
    ]
    put(tables, make(PromptRow), *rows, *(make(LineageEdgeRow, child=row.row_id, parent=row.row_id) for row in rows))
    asked = "SELECT value FROM system.events WHERE event = 'SelectQuery'"
    before = int(tables.command(asked))
    found = await asyncio.gather(*(judged.find(*key(row)) for row in rows), judged.find("p", "s", 1))
    queries = int(tables.command(asked)) - before
    assert found.pop() is None
    assert [answer.row for answer in found if answer] == rows
    assert all(answer and answer.parents == [(answer.row.row_id, "input")] for answer in found)
    assert queries < 30


@pytest.mark.parametrize("row_id", [-1, 1 << 128])
async def test_an_id_that_none_can_have_is_not_found(tables: Client, judged: Judged, make: Make, row_id: int) -> None:
    put(tables, make(VerdictRow))
    found = await asyncio.gather(judged.find("p", "s", row_id), judged.find(*key(make(VerdictRow))))
    assert [answer is not None for answer in found] == [False, True]


async def test_a_question_that_cannot_be_asked_is_its_callers_error(tables: Client, judged: Judged, make: Make) -> None:
    put(tables, make(VerdictRow))
    with pytest.raises(UnicodeEncodeError):
        await judged.find("\ud800", "s", 1)
    assert await judged.find(*key(make(VerdictRow))) is not None


async def test_a_caller_who_gave_up_does_not_hold_up_others(tables: Client, judged: Judged, make: Make) -> None:
    put(tables, make(VerdictRow))
    gone, staying = (asyncio.create_task(judged.find(*key(make(VerdictRow)))) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert await staying is not None


async def test_callers_wait_for_a_store_that_is_away(
    tmp_path: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("chdb", reason="the extra `embedded` is not installed")
    port = free_port()
    settings = StoreSettings(f"http://127.0.0.1:{port}", timeout=5)
    judged = Judged(settings)
    judged.start()
    waiting = [asyncio.create_task(judged.find(*key(make(VerdictRow)))) for _ in range(2)]
    while not caplog.records:
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
    store = await asyncio.to_thread(ChdbStore, tmp_path, port)
    try:
        async with asyncio.timeout(60):
            await asyncio.to_thread(migrate, settings)
            assert await asyncio.gather(*waiting) == [None, None]
            client = connect(settings)
            put(client, make(VerdictRow))
            client.close()
            assert await judged.find(*key(make(VerdictRow))) is not None
    finally:
        await judged.close()
        store.stop()
    assert all(settings.url in record.getMessage() for record in caplog.records)
    assert not any(record.exc_info for record in caplog.records)


async def test_a_store_that_lets_nobody_in_is_told_at_once(locked: StoreSettings) -> None:
    judged = Judged(locked)
    judged.start()
    with pytest.raises(StoreMisconfigured, match=locked.url):
        await judged.find("p", "s", 1)
    await judged.close()


async def test_the_store_is_asked_not_to_miss_rows(new_database: Callable[[], StoreSettings], make: Make) -> None:
    own = new_database()
    migrate(own)
    client = connect(own)
    put(client, *(make(kind) for kind in TABLES))
    for table in ("prompts_raw", "lineage_edges_raw"):
        client.command(f"RENAME TABLE {table} TO {table}_aside")
        client.command(
            f"CREATE VIEW {table} AS SELECT * FROM {table}_aside WHERE getSetting('select_sequential_consistency') = 1"
        )
    assert client.command("SELECT count() FROM prompts_raw") == 0
    client.close()
    judged = Judged(own)
    judged.start()
    found = await judged.find(*key(make(VerdictRow)))
    await judged.close()
    assert found is not None
    assert found.labels
    assert found.parents


async def test_closing_leaves_what_waits_unanswered() -> None:
    judged = Judged(StoreSettings(f"http://127.0.0.1:{free_port()}"))
    judged.start()
    asked = asyncio.create_task(judged.find("p", "s", 1))
    await asyncio.wait([asked], timeout=0.1)
    behind = asyncio.create_task(judged.find("p", "s", 2))
    await asyncio.sleep(0)
    await judged.close()
    for waiting in (asked, behind):
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_closing_before_the_start(settings: StoreSettings) -> None:
    await Judged(settings).close()


async def test_what_is_known_of_a_partition_ends_at_its_last_verdict(
    new_database: Callable[[], StoreSettings], make: Make
) -> None:
    own = new_database()
    migrate(own)
    client = connect(own)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    places = [(0, 5, 3), (0, 9, 1), (1, 40, 2)]  # partition, offset, minutes
    put(
        client,
        *(
            make(
                VerdictRow,
                row_id=(1_700_000_000_000 + minute) << 80,
                partition=p,
                offset=o,
                event_time=at.replace(minute=minute),
            )
            for p, o, minute in places
        ),
    )
    client.close()
    pipeline, stage, topic = (
        make(VerdictRow)[VerdictRow._fields.index(name)] for name in ("pipeline", "stage", "topic")
    )
    judged = Judged(own)
    judged.start()
    assert await judged.known(pipeline, stage, topic, 0, 0) == Known(9, at.replace(minute=3))
    assert await judged.known(pipeline, stage, topic, 0, 10) == Known(-1, at.replace(minute=3))
    assert await judged.known(pipeline, stage, topic, 1, 0) == Known(40, at.replace(minute=2))
    assert await judged.known(pipeline, stage, topic, 7, 0) == Known(-1, None)
    assert await judged.known(pipeline, "another", topic, 0, 0) == Known(-1, None)
    await judged.close()
