"""Rates hold in the long run, in order for each tenant, and no tenant waits for another's."""

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from streams.limits import Limits
from streams.rates import Bucket, Rates, Reservation

Settled = Callable[[], Awaitable[None]]


class Time:
    """Passes when told to: who sleeps is woken in the order of time."""

    def __init__(self) -> None:
        self.now = 100.0
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []
        self._slept = 0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self._slept += 1
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, self._slept, future))
        await future

    async def passes(self, seconds: float, settled: Settled) -> None:
        until = self.now + seconds
        await settled()
        while self._sleeping and self._sleeping[0][0] <= until:
            self.now, _, future = heapq.heappop(self._sleeping)
            if not future.done():
                future.set_result(None)
            await settled()
        self.now = until
        await settled()


@pytest.fixture
def time() -> Time:
    return Time()


class Rows:
    """Rows that want to the model, by name, in the order in which they were let in."""

    def __init__(self, rates: Rates, tokens: int = 0) -> None:
        self.rates = rates
        self.passed: list[str] = []
        self._tokens = tokens
        self._tasks: list[asyncio.Task[None]] = []

    def put(self, tenant: str, *names: str) -> None:
        self._tasks += [asyncio.create_task(self._row(tenant, name)) for name in names]

    async def _row(self, tenant: str, name: str) -> None:
        reserved = await self.rates.admit(tenant)
        self.passed.append(name)
        reserved.settle(1, self._tokens)

    def cancel(self, number: int) -> None:
        self._tasks[number].cancel()


def rates(time: Time, share: float = 1.0, **limits: Any) -> Rates:
    return Rates(Limits.model_validate(limits), lambda: share, time, time.sleep)


def names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def test_without_limits_nobody_waits_and_nothing_is_kept(time: Time) -> None:
    free = rates(time, tenants={"acme": {"requests_per_second": 1}})
    assert await free.admit("other") == Reservation()
    assert free.waiting("other") == 0


async def test_requests_pass_at_their_rate_after_one_seconds_worth(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, tenants={"acme": {"requests_per_second": 4}}))
    rows.put("acme", *names(40))
    await settled()
    assert rows.passed == names(4)
    await time.passes(5, settled)
    assert rows.passed == names(24)
    assert rows.rates.waiting("acme") == rows.rates.all_waiting == 16


async def test_a_rate_below_one_a_second_lets_one_row_in_at_once(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, requests_per_second=0.5))
    rows.put("acme", *names(4))
    await settled()
    assert rows.passed == names(1)
    await time.passes(4, settled)
    assert rows.passed == names(3)


async def test_tokens_are_charged_as_they_were_really_taken(time: Time, settled: Settled) -> None:
    """A row of 300 tokens at 100 tokens a second leaves a debt, which those after it wait for."""
    rows = Rows(rates(time, tokens_per_second=100), tokens=300)
    rows.put("acme", *names(10))
    await settled()
    assert rows.passed == names(1)
    await time.passes(2.9, settled)
    assert rows.passed == names(1)
    await time.passes(0.2, settled)
    assert rows.passed == names(2)
    await time.passes(12, settled)
    assert rows.passed == names(6)


async def test_many_rows_at_once_do_not_overrun_the_rate(time: Time, settled: Settled) -> None:
    """What a row takes is reserved before it is known, so a burst is one second's worth and not a window of rows."""
    limited = rates(time, tokens_per_second=1000)
    let_in: list[Reservation] = []

    async def row() -> None:
        let_in.append(await limited.admit("acme"))

    tasks = [asyncio.create_task(row()) for _ in range(50)]
    await settled()
    assert len(let_in) == 1  # nobody knows yet what a row takes
    let_in[0].settle(1, 100)
    await time.passes(0.25, settled)
    assert len(let_in) == 11  # 900 were left, and a quarter of a second brought the bucket to the full 1000
    for task in tasks:
        task.cancel()


async def test_a_tenant_that_waits_holds_no_other_back(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, tenants={"flood": {"requests_per_second": 1}}, requests_per_second=1000))
    rows.put("flood", *names(100, "f"))
    rows.put("calm", *names(5, "c"))
    await settled()
    assert rows.passed == ["f0", *names(5, "c")]


async def test_tenants_take_turns_for_the_rate_of_the_pipeline(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, requests_per_second=1))
    rows.put("flood", *names(50, "f"))
    await settled()
    rows.put("calm", *names(2, "c"))
    await time.passes(5, settled)
    assert rows.passed == ["f0", "f1", "c0", "f2", "c1", "f3"]


async def test_a_worker_takes_its_share(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, share=0.25, requests_per_second=8))
    rows.put("acme", *names(40))
    await settled()
    assert rows.passed == names(2)
    await time.passes(10, settled)
    assert rows.passed == names(22)


async def test_a_worker_without_partitions_waits_for_some(time: Time, settled: Settled) -> None:
    share = 0.0
    rows = Rows(Rates(Limits(requests_per_second=4), lambda: share, time, time.sleep))
    rows.put("acme", *names(9))
    await time.passes(60, settled)
    assert rows.passed == names(1)
    share = 1.0
    await time.passes(1, settled)
    assert len(rows.passed) > 3


async def test_a_row_that_gives_up_lets_the_next_one_pass(time: Time, settled: Settled) -> None:
    rows = Rows(rates(time, tenants={"acme": {"requests_per_second": 1}}))
    rows.put("acme", *names(3))
    await settled()
    rows.cancel(1)
    await time.passes(1, settled)
    assert rows.passed == ["0", "2"]
    assert rows.rates.all_waiting == 0


def test_a_row_without_an_answer_gives_back_what_it_reserved() -> None:
    bucket = Bucket("tokens", 100, 60, 0.0, level=40)
    assert bucket.delay(0.0, 1) == pytest.approx(0.2)
    bucket.settle(60, 0)
    assert (bucket.delay(0.0, 1), bucket.expected) == (0, 60)


def test_a_bucket_knows_more_with_every_row() -> None:
    bucket = Bucket("tokens", 100, math.inf, 0.0)
    assert bucket.delay(0.0, 1) == 0
    assert bucket.reserve() == 100
    bucket.settle(100, 30)
    assert bucket.expected == 30
    bucket.settle(30, 40)
    assert bucket.expected == pytest.approx(31)


async def test_tenants_without_end_take_no_memory_without_end(time: Time) -> None:
    limited = rates(time, tenants={"default": {"requests_per_second": 10}})
    for number in range(5000):
        await limited.admit(f"tenant {number}")
        time.now += 1
    assert len(limited._tenants) <= 1024
