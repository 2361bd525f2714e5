"""What tenants have spent, summed up from what was stored."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings
from sinks.errors import StoreMisconfigured
from sinks.rows import EngineUsageRow
from sinks.spend import Spend, Spent

DAY = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
def spend(settings: StoreSettings) -> Iterator[Spend]:
    opened = Spend(settings)
    yield opened
    opened.close()


def row(**fields: Any) -> EngineUsageRow:
    given: dict[str, Any] = {
        "period_start": DAY,
        "worker": "w-1",
        "engine": "http://engine",
        "pipeline": "watch",
        "stage": "judge",
        "tenant": "acme",
        "use": "judged",
        "seconds": 1.0,
        "cost_usd": 0.5,
        "calls": 1,
        "input_tokens": 30,
        "cached_tokens": 20,
        "output_tokens": 1,
        "written_at": DAY + timedelta(seconds=6),
    }
    return EngineUsageRow(**(given | fields))


def insert(client: Client, *rows: EngineUsageRow) -> None:
    client.insert("engine_usage_raw", rows, column_names=EngineUsageRow._fields)


async def test_the_sum_of_a_tenant_is_over_workers_stages_and_periods(tables: Client, spend: Spend) -> None:
    insert(
        tables,
        row(),
        row(worker="w-2"),
        row(stage="again", cost_usd=0.25),
        row(period_start=DAY + timedelta(seconds=5), input_tokens=100),
        row(tenant="other", cost_usd=7),
        row(pipeline="triage", cost_usd=9),
    )
    assert await spend.since(DAY, ["watch"]) == {
        ("watch", "acme"): Spent(1.75, 4 * 31 + 70),
        ("watch", "other"): Spent(7, 31),
    }


async def test_a_row_that_was_written_twice_counts_once(tables: Client, spend: Spend) -> None:
    insert(tables, row())
    insert(tables, row())
    assert await spend.since(DAY, ["watch"]) == {("watch", "acme"): Spent(0.5, 31)}


async def test_other_days_and_uses_are_not_counted(tables: Client, spend: Spend) -> None:
    insert(
        tables,
        row(period_start=DAY - timedelta(milliseconds=1)),
        row(use="idle", tenant="", stage="", pipeline=""),
        row(use="overhead"),
    )
    assert await spend.since(DAY, ["watch", ""]) == {}


async def test_a_store_that_lets_nobody_in_is_told(locked: StoreSettings) -> None:
    spend = Spend(locked)
    with pytest.raises(StoreMisconfigured):
        await spend.since(DAY, ["watch"])
    spend.close()
