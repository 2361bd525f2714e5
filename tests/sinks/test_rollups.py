"""Rollups count each event once, by minute, and a filter on the minute reads no more than it must."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.rows import VerdictRow

Make = Callable[..., Any]

_ALL = "SELECT * FROM verdict_rollups ORDER BY ALL"


@pytest.fixture
def unmerged(tables: Client) -> Iterator[Client]:
    """Tables whose parts stay as they were written."""
    tables.command("SYSTEM STOP MERGES")
    yield tables
    tables.command("SYSTEM START MERGES")


def put(client: Client, *rows: VerdictRow) -> None:
    client.insert("verdicts_raw", rows, column_names=list(VerdictRow._fields))


def rollups(client: Client) -> list[dict[str, Any]]:
    return list(client.query(_ALL, tz_mode="aware").named_results())


@pytest.fixture
def rows(make: Make) -> list[VerdictRow]:
    """A hundred verdicts of one minute; every tenth is reused."""
    first = make(VerdictRow)
    return [
        first._replace(row_id=first.row_id + n, latency_ms=n + 1, reused_from=first.row_id if n % 10 == 9 else 0)
        for n in range(100)
    ]


def test_a_minute_is_one_line(unmerged: Client, rows: list[VerdictRow]) -> None:
    put(unmerged, *rows)
    (line,) = rollups(unmerged)
    assert line.pop("cost_usd") == pytest.approx(0.1)
    assert line.pop("engine_seconds") == 25
    assert line == {
        "minute": rows[0].event_time.replace(second=0, microsecond=0),
        "pipeline": "moderation",
        "stage": "moderate",
        "tenant": "acme",
        "label": "ok",
        "decision": "allow",
        "verdicts": 100,
        "reused": 10,
        "input_tokens": 3000,
        "cached_tokens": 2000,
        "output_tokens": 100,
        "latency_p50_ms": 51,
        "latency_p95_ms": 96,
        "latency_p99_ms": 100,
    }


def test_redelivery_and_the_cut_of_batches_change_nothing(unmerged: Client, rows: list[VerdictRow]) -> None:
    put(unmerged, *rows)
    once = rollups(unmerged)
    later = [row._replace(judged_at=row.judged_at + timedelta(seconds=1)) for row in rows]
    put(unmerged, *later[:70])
    put(unmerged, *later[30:], *rows[:10])
    assert unmerged.command("SELECT count() FROM verdicts_raw") == 250
    again = rollups(unmerged)
    assert [line.pop("cost_usd") for line in again] == pytest.approx([line.pop("cost_usd") for line in once])
    assert again == once


def test_a_verdict_that_changed_counts_as_what_it_is_now(unmerged: Client, rows: list[VerdictRow]) -> None:
    put(unmerged, *rows)
    put(unmerged, rows[0]._replace(judged_at=rows[0].judged_at + timedelta(seconds=1), decision="flag", label="spam"))
    assert [(line["decision"], line["label"], line["verdicts"]) for line in rollups(unmerged)] == [
        ("allow", "ok", 99),
        ("flag", "spam", 1),
    ]


@pytest.mark.parametrize("column", ["pipeline", "stage", "tenant", "label", "decision"])
def test_what_differs_is_counted_apart(unmerged: Client, rows: list[VerdictRow], column: str) -> None:
    put(unmerged, rows[0], rows[1]._replace(**{column: "zz"}))
    assert [line[column] for line in rollups(unmerged)] == sorted([getattr(rows[0], column), "zz"])


def test_a_filter_on_the_minute_skips_other_months_and_hours(unmerged: Client, rows: list[VerdictRow]) -> None:
    row = rows[0]
    for age in (timedelta(0), timedelta(hours=1), timedelta(days=60)):
        time = row.event_time - age
        put(unmerged, row._replace(event_time=time, row_id=int(time.timestamp() * 1000) << 80))
    minute = {"minute": row.event_time.replace(second=0, microsecond=0)}
    sql = "FROM verdict_rollups WHERE minute = {minute:DateTime('UTC')}"
    assert unmerged.query(f"SELECT verdicts {sql}", minute).result_rows == [(1,)]
    lines = [line.strip() for (line,) in unmerged.query(f"EXPLAIN indexes = 1 SELECT * {sql}", minute).result_rows]
    assert ["event_time" in line for line in lines[lines.index("Min-Max") :][:3]] == [False, False, True]
    assert "Name: event_time_range" in lines
    assert "Parts: 1/3" in lines


def test_a_filter_on_hours_reads_few_granules(unmerged: Client, rows: list[VerdictRow]) -> None:
    put(unmerged, rows[0])
    unmerged.command("""
        INSERT INTO verdicts_raw (row_id, pipeline, stage, event_time)
        SELECT bitShiftLeft(toUInt128(1767225600000 + number * 100), 80), 'p', 's',
            fromUnixTimestamp64Milli(toInt64(1767225600000 + number * 100), 'UTC')
        FROM numbers(100000)
    """)
    sql = "FROM verdict_rollups WHERE minute BETWEEN toDateTime('2026-01-01 01:00:00', 'UTC') AND "
    lines = [
        line.strip()
        for (line,) in unmerged.query(
            f"EXPLAIN indexes = 1 SELECT * {sql} toDateTime('2026-01-01 01:10:00', 'UTC')"
        ).result_rows
    ]
    skipped = lines[lines.index("Name: event_time_range") :]
    read, total = next(line for line in skipped if line.startswith("Granules: ")).removeprefix("Granules: ").split("/")
    assert int(read) <= 8 < int(total) / 10
