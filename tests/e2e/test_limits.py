"""Limits and costs on real parts: a flood, a spent budget, the day after, and where every second of the engine went."""

import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from e2e_service import SECONDS, Service, text, verdicts, wait_for

from deploy.embedded.engine import LlamaEngine
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks.clickhouse import connect
from streams.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("broker", ["tansu"], indirect=True)]

LATE_WORKER = Path(__file__).with_name("late_worker.py")
GPU_HOUR_USD = 3.6  # a tenth of a cent a second
PIPELINE = """
name: limited
version: "1"
source: limited.messages
sla: 10s
limits:
  tenants:
    flood: {requests_per_second: 2}
    frugal: {tokens_per_day: 1, past_budget: wait}
    broke: {usd_per_day: 0}
stages:
  - name: judge
    writes: limited.verdicts
    judge:
      operator: moderate
      categories:
        - {name: spam, definition: advertising}
      calibration: {content_free: [hello], prior: {ok: 3, spam: 1}}
"""


@pytest.fixture(scope="module")
def service(broker: str, engine: LlamaEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Servers with topics and tables for the pipeline above, and an engine that is paid by the hour."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "limited.yaml").write_text(PIPELINE)
    with ChdbStore(folder) as store:
        settings = Settings(
            kafka_url=broker,
            kafka_session_seconds=6,
            engine_url=engine.url,
            clickhouse_url=store.url,
            web_port=free_port(),
            gpu_hour_usd=GPU_HOUR_USD,
            rows_in_flight=16,
        )
        ready = Service(settings, folder)
        ready.weir("migrate")
        ready.weir("topics", "create", "--pipelines", str(folder), "--partitions", "2")
        yield ready


@dataclass(frozen=True)
class Day:
    """What one worker left behind. elapsed: seconds from before its start to after its end."""

    service: Service
    client: Client
    published: dict[str, str]
    verdicts: dict[str, dict[str, Any]]
    deferred: list[Any]
    elapsed: float

    def of(self, tenant: str) -> list[str]:
        return [name for name, of in self.published.items() if of == tenant]

    def usage(self, column: str) -> dict[str, float]:
        rows = self.client.query(f"SELECT use, sum({column}) FROM engine_usage GROUP BY use").result_rows
        return dict(rows)


@pytest.fixture(scope="module")
async def day(service: Service) -> AsyncIterator[Day]:
    tenants = {"flood": 30, "calm": 5, "frugal": 4, "broke": 3}
    published = {f"{tenant}-{number}": tenant for tenant, count in tenants.items() for number in range(count)}
    messages = {name: text(f"this is {name}", id=name, tenant=tenant) for name, tenant in published.items()}
    folder = service.folder / "limited.yaml"
    async with service.reading("limited.verdicts") as found, service.reading("limited.messages.deferred") as waiting:
        started = time.monotonic()
        with service.worker(folder) as worker:
            await service.publish("limited.messages", messages["frugal-0"])
            await found.count(1)
            await _charged(service)
            await service.publish("limited.messages", *(m for name, m in messages.items() if name != "frugal-0"))
            await found.until(lambda records: len(verdicts(records)) == len(published) - 3)
            await waiting.count(3)
            worker.stop(SECONDS)
            assert worker.returncode == 0
        elapsed = time.monotonic() - started
        client = connect(service.settings.store)
        yield Day(service, client, published, verdicts(await found.quiet()), waiting.records, elapsed)
        client.close()


async def _charged(service: Service) -> None:
    """The first row was paid for: what it cost is in the budget when its verdict is stored."""

    def spent() -> bool:
        with urllib.request.urlopen(f"{service.web}/metrics") as page:
            return 'weir_budget_spent_ratio{pipeline="limited",tenant="frugal"} 0.0' not in page.read().decode()

    await wait_for(spent)


def models(day: Day, tenant: str) -> Counter[str]:
    return Counter("prior" if day.verdicts[name]["model"] == "prior" else "model" for name in day.of(tenant))


async def test_nothing_is_lost_and_everything_is_accounted_for(day: Day) -> None:
    deferred = {f"frugal-{number}" for number in (1, 2, 3)}
    assert day.verdicts.keys() == day.published.keys() - deferred
    assert len(day.deferred) == 3
    assert day.client.command("SELECT count() FROM verdicts") == len(day.verdicts)


async def test_a_flood_of_one_tenant_stops_no_other(day: Day) -> None:
    assert models(day, "calm") == {"model": 5}
    assert models(day, "flood")["model"] >= 2
    assert models(day, "flood")["prior"] >= 10
    late = [name for name in day.of("flood") if day.verdicts[name]["model"] == "prior"]
    assert {day.verdicts[name]["decision"] for name in late} == {"review"}


async def test_past_its_budget_a_tenant_gets_reviews(day: Day) -> None:
    assert models(day, "broke") == {"prior": 3}
    verdict = day.verdicts["broke-0"]
    assert (verdict["scores"], verdict["cost_usd"]) == ({"ok": 0.75, "spam": 0.25}, 0)


async def test_the_bill_is_the_time_that_passed(day: Day) -> None:
    """To 1 %, by the clock on the wall and not by the meter's."""
    ((seconds,),) = day.client.query(
        "SELECT dateDiff('millisecond', min(period_start), max(written_at)) / 1000 FROM engine_usage"
    ).result_rows
    assert sum(day.usage("cost_usd").values()) == pytest.approx(seconds * GPU_HOUR_USD / 3600, rel=0.01)
    assert 0.5 * day.elapsed < sum(day.usage("seconds").values()) < day.elapsed


async def test_what_verdicts_cost_is_what_was_judged(day: Day) -> None:
    ((stored,),) = day.client.query("SELECT sum(cost_usd) FROM verdicts").result_rows
    published = sum(verdict["cost_usd"] for verdict in day.verdicts.values())
    judged = day.usage("cost_usd")["judged"]
    assert judged > 0
    assert stored == pytest.approx(judged, rel=0.01)
    assert published == pytest.approx(judged, rel=0.01)
    assert day.usage("seconds")["idle"] > 0
    assert day.usage("seconds")["overhead"] > 0  # the prompts that calibrate


async def test_the_day_after_what_waited_is_judged(day: Day) -> None:
    service = day.service
    richer = service.folder / "richer.yaml"
    richer.write_text(PIPELINE.replace("tokens_per_day: 1,", "tokens_per_day: 100000,"))
    argv = [sys.executable, str(LATE_WORKER), str(richer)]
    async with service.reading("limited.verdicts") as found:
        with ChildProcess("late worker", argv, service.folder / "late.log", service.environment) as late:
            late.wait_ready(lambda: http_ok(f"{service.web}/health/ready"), SECONDS)
            await found.until(lambda records: verdicts(records).keys() == day.published.keys())
            late.stop(SECONDS)
            assert late.returncode == 0
        after = verdicts(found.records)
    for number in (1, 2, 3):
        verdict = after[f"frugal-{number}"]
        assert verdict["model"] != "prior"
        assert verdict["source"]["topic"] == "limited.messages"
    rows = day.client.query("SELECT count(), uniqExact(source_row_id) FROM verdicts").result_rows
    assert rows == [(len(day.published), len(day.published))]
