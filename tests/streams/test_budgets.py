"""What a tenant has spent today: what the store has, and what is not there yet, each once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.rows import EngineUsageRow
from sinks.spend import Spend
from streams.budgets import Budgets, BudgetSpent, next_day
from streams.limits import Limits

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


class Time:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def spend(store: StoreSettings) -> Iterator[Spend]:
    client = connect(store)
    client.command("TRUNCATE TABLE engine_usage_raw")
    client.close()
    opened = Spend(store)
    yield opened
    opened.close()


def budgets(spend: Spend, time: Time, **tenants: Any) -> Budgets:
    return Budgets({"watch": Limits.model_validate({"tenants": tenants}), "free": Limits()}, spend, time)


def write(store: StoreSettings, at: datetime, usd: float, tokens: int, worker: str = "w-2") -> None:
    """As a worker does."""
    row = EngineUsageRow(at, worker, "e", "watch", "judge", "acme", "judged", 1.0, usd, 1, tokens, 0, 0, at)
    client = connect(store)
    client.insert("engine_usage_raw", [row], column_names=EngineUsageRow._fields)
    client.close()


async def test_a_budget_is_spent_by_what_was_charged(spend: Spend, time: Time) -> None:
    some = budgets(spend, time, acme={"usd_per_day": 1})
    some.charge("watch", "acme", 0.75, 10)
    some.check("watch", "acme")
    assert some.share_spent("watch", "acme") == 0.75
    some.charge("watch", "acme", 0.25, 10)
    with pytest.raises(BudgetSpent):
        some.check("watch", "acme")
    some.check("watch", "other")
    some.check("free", "acme")


async def test_whichever_ends_first_ends_the_day(spend: Spend, time: Time) -> None:
    some = budgets(spend, time, acme={"usd_per_day": 1, "tokens_per_day": 100})
    some.charge("watch", "acme", 0.1, 60)
    assert some.share_spent("watch", "acme") == pytest.approx(0.6)


async def test_a_budget_of_nothing_is_always_spent(spend: Spend, time: Time) -> None:
    with pytest.raises(BudgetSpent):
        budgets(spend, time, acme={"tokens_per_day": 0}).check("watch", "acme")


async def test_tenants_that_are_not_named_have_a_budget_each(spend: Spend, time: Time) -> None:
    some = budgets(spend, time, default={"tokens_per_day": 100})
    some.charge("watch", "one", 0, 100)
    some.check("watch", "two")
    with pytest.raises(BudgetSpent):
        some.check("watch", "one")


async def test_what_other_workers_wrote_counts_from_the_next_look(
    spend: Spend, time: Time, store: StoreSettings
) -> None:
    some = budgets(spend, time, acme={"usd_per_day": 1})
    write(store, NOON, 0.5, 10)
    await some.look()
    assert some.share_spent("watch", "acme") == 0.5


async def test_what_this_worker_writes_counts_once(spend: Spend, time: Time, store: StoreSettings) -> None:
    some = budgets(spend, time, acme={"tokens_per_day": 1000})
    await some.look()
    some.charge("watch", "acme", 0, 100)
    some.cut()
    some.charge("watch", "acme", 0, 10)  # while the others are written
    write(store, NOON, 0, 100, worker="w-1")
    assert some.share_spent("watch", "acme") == pytest.approx(0.11)
    await some.look()
    assert some.share_spent("watch", "acme") == pytest.approx(0.11)
    some.cut()
    write(store, NOON + timedelta(seconds=5), 0, 10, worker="w-1")
    await some.look()
    assert some.share_spent("watch", "acme") == pytest.approx(0.11)


async def test_a_new_day_begins_with_a_whole_budget(spend: Spend, time: Time, store: StoreSettings) -> None:
    some = budgets(spend, time, acme={"tokens_per_day": 100})
    write(store, NOON, 0, 60)
    await some.look()
    some.charge("watch", "acme", 0, 50)
    assert some.day_ends == datetime(2026, 3, 5, tzinfo=UTC)
    time.now = datetime(2026, 3, 5, tzinfo=UTC)
    assert some.share_spent("watch", "acme") == 0
    write(store, time.now, 0, 30)
    await some.look()
    assert some.share_spent("watch", "acme") == pytest.approx(0.3)


def test_the_next_day_is_one_of_utc() -> None:
    at = datetime.fromisoformat("2026-03-04T23:30:00-05:00")
    assert next_day(at) == datetime(2026, 3, 6, tzinfo=UTC)
