"""What a row is charged with, and what happens to one that is not answered."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from inference.engine import Usage
from inference.errors import PromptRejected
from inference.judgement import Call, Judgement
from sinks.clickhouse import StoreSettings
from sinks.spend import Spend
from streams.admission import Admission, RateExceeded
from streams.budgets import Budgets, BudgetSpent
from streams.limits import Limits
from streams.rates import Rates

Settled = Callable[[], Awaitable[None]]


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def today(self) -> datetime:
        return datetime(2026, 3, 4, tzinfo=UTC)

    async def sleep(self, seconds: float) -> None:
        """At once: the clock goes on by that much."""
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def spend() -> Iterator[Spend]:
    opened = Spend(StoreSettings("http://127.0.0.1:1"))
    yield opened
    opened.close()


@pytest.fixture
def admission(time: Time, spend: Spend) -> Callable[..., Admission]:
    def make(**tenants: Any) -> Admission:
        limits = Limits.model_validate({"tenants": tenants})
        budgets = Budgets({"watch": limits}, spend, time.today)
        return Admission("watch", limits, Rates(limits, lambda: 1.0, time, time.sleep), budgets)

    return make


Make = Callable[..., Admission]


def answer(parts: int = 1) -> Judgement:
    call = Call(Usage(90, 10, 20), 1.0, 0.5, 1.0)
    return Judgement("allow", "ok", {"ok": 1.0}, 1.0, "m-1", "a1", [call] * parts, parts)


async def judged(parts: int = 1) -> Judgement:
    return answer(parts)


async def test_a_row_is_charged_with_all_its_prompts(admission: Make, time: Time) -> None:
    some = admission(acme={"requests_per_second": 1})
    assert await some.ask("acme", lambda: judged(5)) == answer(5)
    await some.ask("acme", judged)
    assert time.now == pytest.approx(5, abs=0.5)


async def test_tokens_read_and_written_are_charged(admission: Make, time: Time) -> None:
    some = admission(acme={"tokens_per_second": 10})
    await some.ask("acme", judged)
    await some.ask("acme", judged)
    assert time.now == pytest.approx(10, abs=0.5)


async def test_a_row_without_an_answer_costs_nothing(admission: Make, time: Time) -> None:
    some = admission(acme={"requests_per_second": 1, "tokens_per_second": 100})

    async def reject() -> Judgement:
        raise PromptRejected("no")

    for _ in range(5):
        with pytest.raises(PromptRejected):
            await some.ask("acme", reject)
    assert time.now == 0


async def test_a_budget_that_is_spent_while_a_row_waits_for_its_rate_is_noticed(
    admission: Make, settled: Settled
) -> None:
    some = admission(acme={"requests_per_second": 1, "tokens_per_day": 100})
    await some.ask("acme", judged)
    waiting = asyncio.create_task(some.ask("acme", judged))
    await asyncio.sleep(0)
    assert some.rates.waiting("acme") == 1
    some.budgets.charge("watch", "acme", 0, 100)
    with pytest.raises(BudgetSpent):
        await waiting


async def test_a_tenant_holds_a_quarter_of_the_window_only_while_its_rate_holds_it_up(admission: Make) -> None:
    some = admission(acme={"requests_per_second": 1})
    with some.row("acme", 4), some.row("acme", 4):  # at the engine: nobody waits for the rate
        await some.ask("acme", judged)
        waiting = asyncio.create_task(some.ask("acme", judged))
        await asyncio.sleep(0)
        with pytest.raises(RateExceeded), some.row("acme", 4):
            pass
        with some.row("other", 4), some.row("acme", 100):
            pass
        await waiting
        with some.row("acme", 4):
            pass
    assert not some._waiting
