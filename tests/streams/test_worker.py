"""The worker waits for what it needs, stops for what only a person can mend, and ends when told to."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.embedded.process import free_port
from inference.errors import EngineMisconfigured
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import SchemaMismatch
from streams import topics
from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline, load_all
from streams.settings import Settings
from streams.worker import Worker

Until = Callable[..., Awaitable[Any]]
Running = Callable[..., AbstractAsyncContextManager["asyncio.Task[None]"]]


@pytest.fixture
def given(settings: Settings, store: StoreSettings, engine: Any) -> dict[str, Any]:
    """Settings of servers that all answer."""
    return {
        "kafka_url": settings.kafka_url,
        "engine_url": engine.url,
        "engine_context_tokens": 100_000,
        "clickhouse_url": store.url,
        "clickhouse_database": store.database,
        "web_port": free_port(),
    }


@pytest.fixture
def running(shipped: Path) -> Running:
    """A worker at work; it is ended at the latest when the block is left."""
    pipelines: list[Pipeline] = load_all([shipped])

    @asynccontextmanager
    async def run(
        settings: dict[str, Any], pipelines: list[Pipeline] = pipelines
    ) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(Worker(Settings(**settings), pipelines).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


async def test_a_budget_in_dollars_needs_prices(given: dict[str, Any], shipped: Path) -> None:
    limits = {"tenants": {"acme": {"usd_per_day": 1}}}
    pipelines = [Pipeline.model_validate(one.model_dump() | {"limits": limits}) for one in load_all([shipped])]
    with pytest.raises(WorkerMisconfigured, match="usd_per_day"):
        Worker(Settings(**given), pipelines)
    Worker(Settings(**given, gpu_hour_usd=2), pipelines)


async def test_without_the_extra_for_run_events_the_worker_says_what_to_install(
    given: dict[str, Any], shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "streams.openlineage", raising=False)
    monkeypatch.setitem(sys.modules, "openlineage.client.event_v2", None)
    with pytest.raises(WorkerMisconfigured, match=r"pip install 'weir\[openlineage\]'"):
        Worker(Settings(**given, openlineage_url="http://catalogue:5000"), load_all([shipped]))


async def health(port: int) -> dict[str, Any] | None:
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/health/ready") as response,
        ):
            assert response.status == 503
            found: dict[str, Any] = await response.json()
            return found
    except aiohttp.ClientConnectionError:
        return None


async def test_a_worker_without_servers_says_what_it_waits_for_and_ends_when_told(
    given: dict[str, Any], running: Running, until: Until
) -> None:
    nowhere = free_port()
    given |= {
        "kafka_url": f"kafka://127.0.0.1:{nowhere}",
        "engine_url": f"http://127.0.0.1:{nowhere}",
        "clickhouse_url": f"http://127.0.0.1:{nowhere}",
    }
    async with running(given) as task:
        found = await until(lambda: health(given["web_port"]))
        assert found["ready"] is False
        assert set(found["dependencies"]) == {"broker", "engine", "store"}
        assert "up" not in found["dependencies"].values()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(15):
            await task


async def test_a_worker_waits_for_topics(
    given: dict[str, Any], running: Running, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(given) as task:
        await until(lambda: "topics are missing: calls.claims," in caplog.text)
        assert not task.done()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(15):
            await task


@pytest.mark.usefixtures("nothing_is_left_open")
async def test_a_model_that_is_not_there_ends_the_worker(given: dict[str, Any], running: Running) -> None:
    async with running(given | {"engine_model": "other"}) as task, asyncio.timeout(15):
        with pytest.raises(EngineMisconfigured, match="no model 'other'; it has: scripted"):
            await task


async def test_a_newer_schema_ends_the_worker(given: dict[str, Any], running: Running, store: StoreSettings) -> None:
    client = connect(store)
    journal = ["version", "name", "checksum", "applied", "changed_at"]
    client.insert(
        "schema_migrations", [[9999, "later", "0", 1, datetime(2026, 1, 1, tzinfo=UTC)]], column_names=journal
    )
    try:
        async with running(given) as task, asyncio.timeout(15):
            with pytest.raises(SchemaMismatch, match="upgrade Weir"):
                await task
    finally:
        client.insert("schema_migrations", [[9999, "later", "0", 0, datetime.now(UTC)]], column_names=journal)
        client.close()


@pytest.mark.usefixtures("nothing_is_left_open")
async def test_a_port_that_is_taken_ends_the_worker(given: dict[str, Any], running: Running) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", given["web_port"])
    async with server, running(given) as task, asyncio.timeout(15):
        with pytest.raises(WorkerMisconfigured, match=r"WEIR_WEB_PORT: .*address already in use"):
            await task


@pytest.fixture
async def watch(settings: Settings, new_topic: Callable[..., Awaitable[str]]) -> Pipeline:
    """A pipeline with a stage that puts turns together and one that asks the model, and their topics."""
    made = Pipeline.model_validate(
        {
            "name": "watch",
            "version": "1",
            "source": await new_topic(),
            "sla": "1h",
            "stages": [
                {"name": "assemble", "writes": await new_topic(), "assemble": {}},
                {
                    "name": "moderate",
                    "writes": await new_topic(),
                    "judge": {
                        "operator": "moderate",
                        "categories": [{"name": "spam", "definition": "advertising"}],
                        "calibration": {"content_free": []},
                    },
                },
            ],
        }
    )
    await topics.create(settings, topics.topics_of([made]), 1, 1)
    return made


class Pages:
    """What a worker shows."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    async def get(self, path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(self._url + path) as page:
            return await page.text()

    async def sla(self, stage: str, **values: float) -> dict[str, float] | None:
        """The metrics of a stage's SLA once these have such values; None before."""
        try:
            families = list(text_string_to_metric_families(await self.get("/metrics")))
        except aiohttp.ClientConnectionError:
            return None
        found = {
            f"{sample.name.removeprefix('weir_sla_')}_{sample.labels.get('outcome', '')}".rstrip("_"): sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("stage") == stage and "quantile" not in sample.labels
        }
        return found if all(found.get(name) == value for name, value in values.items()) else None


async def test_a_worker_tells_how_its_stages_stand_to_the_sla(
    given: dict[str, Any], watch: Pipeline, produce: Any, engine: Any, running: Running, until: Until
) -> None:
    source, judged = map(watch.reads, watch.stages)
    now = datetime.now(UTC)
    turn = {"text": "It covers 50 miles.", "time": (now - timedelta(minutes=30)).isoformat(), "turn": 0, "thread": "t"}
    await produce(source, orjson.dumps(turn), key=b"t")
    await produce(judged, orjson.dumps({"text": "hold it", "time": (now - timedelta(hours=2)).isoformat()}))
    for number in range(5):
        await produce(judged, orjson.dumps({"text": f"hold it {number}", "time": now.isoformat()}))
    pages = Pages(given["web_port"])
    async with running(given | {"rows_in_flight": 2, "kafka_group": "watch"}, [watch]):
        found = await until(lambda: pages.sla("moderate", backlog_messages=4, will_be_missed=1))
        assert 7200 <= found["oldest_age_seconds"] < 7300
        assert (found["seconds"], found["forecast_seconds"]) == (3600, math.inf)
        assert "<td>never (late)</td>" in await pages.get("/")
        found = await until(lambda: pages.sla("assemble", backlog_messages=0, rows_total_met=1))
        assert 1800 <= found["oldest_age_seconds"] < 1900  # an open call, whose turn is stored
        engine.go("it")
        found = await until(lambda: pages.sla("moderate", backlog_messages=0, rows_total_met=5, rows_total_missed=1))
        assert found["met_ratio"] == pytest.approx(5 / 6)
        assert found["rows_per_second"] > 0
        assert (found["oldest_age_seconds"], found["forecast_seconds"], found["will_be_missed"]) == (0, 0, 0)
