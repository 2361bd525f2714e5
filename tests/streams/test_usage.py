"""Every second of the engine is in the ledger once, and the sum of its costs is the price of the time that passed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inference.cost import Prices
from inference.engine import Usage
from inference.judgement import Call, Judgement
from inference.metering import Meter
from sinks.clickhouse import StoreSettings, connect
from sinks.rows import EngineUsageRow
from sinks.spend import Spend
from sinks.writer import Writer
from streams.budgets import Budgets
from streams.limits import Limits
from streams.metrics import Metrics
from streams.usage import UsageLedger

HOURLY = Prices(gpu_hour_usd=7.2, gpus=0.5)  # a tenth of a cent a second


class Time:
    """Seconds for the meter, and the time of day that goes with them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 3, 4, 12, tzinfo=UTC) + timedelta(seconds=self.seconds)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def meter(time: Time) -> Meter:
    return Meter(time)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def spend(store: StoreSettings) -> Iterator[Spend]:
    opened = Spend(store)
    yield opened
    opened.close()


@pytest.fixture
def budgets(spend: Spend, time: Time) -> Budgets:
    limits = Limits.model_validate({"tenants": {"acme": {"tokens_per_day": 100}}})
    return Budgets({"watch": limits}, spend, time.now)


@pytest.fixture
def ledger(time: Time, meter: Meter, budgets: Budgets, metrics: Metrics, store: StoreSettings) -> UsageLedger:
    time.seconds += 30  # before the engine was connected
    made = UsageLedger(HOURLY, Writer(store), budgets, metrics, "w-1", time.now)
    made.open(meter, "http://engine")
    return made


def judgement(*seconds: float, prices: Prices = HOURLY) -> Judgement:
    usage = Usage(30, 1, 20)
    calls = [Call(usage, 1.0, prices.cost(usage, each), each) for each in seconds]
    return Judgement("allow", "ok", {"ok": 1.0}, 1.0, "m-1", "a1", calls, 1)


def sums(rows: list[EngineUsageRow], field: str = "seconds") -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        found[row.use] = found.get(row.use, 0.0) + getattr(row, field)
    return found


def test_an_idle_engine_costs_what_it_costs(ledger: UsageLedger, time: Time) -> None:
    time.seconds += 10
    (row,) = ledger.cut()
    assert (row.use, row.seconds, row.pipeline, row.stage, row.tenant) == ("idle", 10, "", "", "")
    assert row.cost_usd == pytest.approx(0.01)
    assert (row.worker, row.engine, row.calls) == ("w-1", "http://engine", 0)


def test_the_time_of_rows_is_their_tenants(ledger: UsageLedger, meter: Meter, time: Time) -> None:
    spans = [meter.enter(1), meter.enter(3)]
    time.seconds += 4
    shares = [meter.leave(span) for span in spans]
    time.seconds += 1
    ledger.judged("watch", "judge", "acme", judgement(shares[0]))
    ledger.judged("watch", "judge", "other", judgement(shares[1]))
    rows = {(row.use, row.tenant): row for row in ledger.cut()}
    assert rows["judged", "acme"].seconds == pytest.approx(1)
    assert rows["judged", "other"].seconds == pytest.approx(3)
    assert rows["judged", "other"].cost_usd == pytest.approx(0.003)
    assert rows["judged", "acme"][-5:-1] == (1, 30, 20, 1)
    assert rows["idle", ""].seconds == pytest.approx(1)
    assert sum(row.cost_usd for row in rows.values()) == pytest.approx(0.005)


def test_rows_of_one_payer_are_one_row(ledger: UsageLedger) -> None:
    ledger.judged("watch", "judge", "acme", judgement(1.0, 2.0))
    ledger.judged("watch", "judge", "acme", judgement(4.0))
    rows = [row for row in ledger.cut() if row.use == "judged"]
    assert [(row.seconds, row.calls, row.input_tokens) for row in rows] == [(7, 3, 90)]


def test_a_judgement_that_was_reused_is_nobodys(ledger: UsageLedger) -> None:
    ledger.judged("watch", "judge", "acme", judgement())
    assert ledger.cut() == []


def test_what_no_row_is_charged_with_is_overhead(ledger: UsageLedger, meter: Meter, time: Time) -> None:
    span = meter.enter(1)
    time.seconds += 2
    meter.leave(span)
    assert sums(ledger.cut()) == {"overhead": 2}


def test_sums_are_exact_whenever_they_are_cut(ledger: UsageLedger, meter: Meter, time: Time) -> None:
    """A row of two prompts: the first is answered in one period, the second and so the verdict in a later one."""
    rows: list[EngineUsageRow] = []
    first, second = meter.enter(1), meter.enter(1)
    time.seconds += 5
    rows += ledger.cut()
    assert sums(rows) == {}  # it is not known whose it was
    time.seconds += 1
    shares = [meter.leave(first)]
    rows += ledger.cut()
    assert sums(rows) == {"overhead": pytest.approx(3)}
    time.seconds += 2
    shares.append(meter.leave(second))
    ledger.judged("watch", "judge", "acme", judgement(*shares))
    time.seconds += 4
    last = ledger.cut()
    assert sums(last) == {"judged": pytest.approx(8), "overhead": pytest.approx(-3), "idle": pytest.approx(4)}
    total = sums(rows + last)
    assert total["overhead"] == pytest.approx(0)
    assert sum(total.values()) == pytest.approx(12)
    assert sum(sums(rows + last, "cost_usd").values()) == pytest.approx(0.012)


def test_what_is_given_up_at_the_end_is_overhead(ledger: UsageLedger, meter: Meter, time: Time) -> None:
    meter.enter(1)
    time.seconds += 3
    assert sums(ledger.cut(last=True)) == {"overhead": 3}


def test_where_tokens_are_paid_only_rows_cost_something(
    time: Time, meter: Meter, budgets: Budgets, metrics: Metrics, store: StoreSettings
) -> None:
    prices = Prices(input_usd=1, cached_usd=0.1, output_usd=2)
    ledger = UsageLedger(prices, Writer(store), budgets, metrics, "w-1", time.now)
    ledger.open(meter, "http://engine")
    span = meter.enter(1)
    time.seconds += 2
    ledger.judged("watch", "judge", "acme", judgement(meter.leave(span) / 2, prices=prices))
    time.seconds += 1
    rows = ledger.cut()
    assert sums(rows) == {"judged": 1, "overhead": 1, "idle": 1}
    assert sums(rows, "cost_usd") == {"judged": pytest.approx(14 / 1e6), "overhead": 0, "idle": 0}


def test_no_two_periods_begin_at_the_same_time(ledger: UsageLedger) -> None:
    """They would be one row for the store, and the other's cost would be gone."""
    starts = []
    for _ in range(3):
        ledger.judged("watch", "judge", "acme", judgement(1.0))
        starts += [row.period_start for row in ledger.cut() if row.use == "judged"]
    assert len(set(starts)) == 3


def test_before_the_engine_is_connected_nothing_counts(
    budgets: Budgets, metrics: Metrics, store: StoreSettings, time: Time
) -> None:
    assert UsageLedger(HOURLY, Writer(store), budgets, metrics, "w-1", time.now).cut() == []


def test_budgets_are_told(ledger: UsageLedger, budgets: Budgets) -> None:
    ledger.judged("watch", "judge", "acme", judgement(1.0))
    assert budgets.share_spent("watch", "acme") == pytest.approx(0.31)


def test_counters_only_grow(ledger: UsageLedger, meter: Meter, time: Time, metrics: Metrics) -> None:
    def shown(use: str) -> Any:
        return metrics.registry.get_sample_value("weir_engine_seconds_total", {"use": use})

    span = meter.enter(1)
    time.seconds += 2
    share = meter.leave(span)
    ledger.cut()
    assert shown("overhead") == 2
    ledger.judged("watch", "judge", "acme", judgement(share))
    ledger.cut()
    assert (shown("overhead"), shown("judged")) == (2, 2)
    span = meter.enter(1)
    time.seconds += 3
    meter.leave(span)
    ledger.cut()
    assert shown("overhead") == 3
    cost = metrics.registry.get_sample_value("weir_engine_cost_usd_total", {"use": "overhead"})
    assert cost == pytest.approx(0.003)


async def test_what_was_used_is_stored(time: Time, meter: Meter, budgets: Budgets, store: StoreSettings) -> None:
    writer = Writer(store, linger=0.01)
    writer.start()
    ledger = UsageLedger(HOURLY, writer, budgets, Metrics(), "stored", time.now)
    ledger.open(meter, "http://engine")
    time.seconds += 5
    ledger.judged("watch", "judge", "acme", judgement(2.0))
    await ledger.write()
    time.seconds += 1
    await ledger.close()
    await writer.close()
    client = connect(store)
    found = client.query(
        "SELECT use, sum(seconds), sum(cost_usd), sum(calls) FROM engine_usage WHERE worker = 'stored' GROUP BY use"
    ).result_rows
    client.close()
    assert {use: (seconds, round(cost, 6), calls) for use, seconds, cost, calls in found} == {
        "judged": (2, 0.002, 1),
        "overhead": (-2, -0.002, 0),
        "idle": (6, 0.006, 0),
    }
