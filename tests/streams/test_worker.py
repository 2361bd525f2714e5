"""The worker waits for what it needs, stops for what only a person can mend, and ends when told to."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.embedded.process import free_port
from inference.errors import EngineMisconfigured
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import SchemaMismatch
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
    async def run(settings: dict[str, Any]) -> AsyncIterator["asyncio.Task[None]"]:
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
