"""The worker's pages, over real HTTP."""

import html
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.errors import WorkerMisconfigured
from streams.health import Health
from streams.metrics import Metrics
from streams.sla import StageSla, Waiting
from streams.web import WebServer

Get = Callable[[str], Awaitable[tuple[int, str, str]]]


class Worker:
    """What the pages tell of."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.reasons: dict[str, str | None] = {"broker": None, "engine": None, "store": None}
        self.health = Health({name: self._check(name) for name in self.reasons}, self.metrics)
        self.health.consuming = True
        self.sla = StageSla(60)
        self.web = WebServer("127.0.0.1", 0, self.metrics, self.health, {"<p>/s": self.sla})

    def _check(self, name: str) -> Callable[[], Awaitable[str | None]]:
        async def check() -> str | None:
            return self.reasons[name]

        return check


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    started = Worker()
    await started.web.start()
    yield started
    await started.web.close()


@pytest.fixture
async def get(worker: Worker) -> AsyncIterator[Get]:
    """Status, content type and text of a page."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{worker.web.port}") as session:

        async def page(path: str) -> tuple[int, str, str]:
            async with session.get(path) as response:
                return response.status, response.headers["Content-Type"], await response.text()

        yield page


async def test_a_worker_that_lives_is_live_and_ready(get: Get) -> None:
    status, kind, text = await get("/health/live")
    assert (status, kind) == (200, "application/json")
    assert json.loads(text) == {"live": True, "reason": None}
    status, _, text = await get("/health/ready")
    assert status == 200
    states = {"broker": "up", "engine": "up", "store": "up"}
    assert json.loads(text) == {"ready": True, "consuming": True, "dependencies": states}


async def test_a_worker_that_starts_lives_and_is_not_ready(worker: Worker, get: Get) -> None:
    worker.health.consuming = False
    assert (await get("/health/live"))[0] == 200
    status, _, text = await get("/health/ready")
    assert (status, json.loads(text)["consuming"]) == (503, False)


async def test_a_dependency_that_is_down_is_named(worker: Worker, get: Get) -> None:
    worker.reasons["engine"] = "connection refused"
    status, kind, text = await get("/health/ready")
    assert (status, kind) == (503, "application/json")
    assert json.loads(text) == {
        "ready": False,
        "consuming": True,
        "dependencies": {"broker": "up", "engine": "connection refused", "store": "up"},
    }
    assert (await get("/health/live"))[0] == 200  # a restart would mend nothing


async def test_a_worker_that_stopped_is_neither(worker: Worker, get: Get) -> None:
    worker.health.stopped = "the consumer ended"
    status, _, text = await get("/health/live")
    assert (status, json.loads(text)) == (503, {"live": False, "reason": "the consumer ended"})
    status, _, text = await get("/health/ready")
    assert (status, json.loads(text)["ready"]) == (503, False)


async def test_metrics_are_served_with_the_state_of_now(worker: Worker, get: Get) -> None:
    worker.reasons["store"] = "gone"
    worker.metrics.received.labels("p", "s").inc()
    status, kind, text = await get("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = {
        (sample.name, sample.labels.get("dependency")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["weir_messages_received_total", None] == 1
    assert samples["weir_dependency_up", "store"] == 0
    assert samples["weir_dependency_up", "broker"] == 1


async def test_the_index_shows_reasons_as_text(worker: Worker, get: Get) -> None:
    worker.reasons["engine"] = "<script>alert(1)</script>"
    status, kind, text = await get("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "<script" not in text
    assert html.escape("<script>alert(1)</script>") in text
    for link in ("/metrics", "/health/live", "/health/ready"):
        assert f"href={link}" in text


async def test_the_index_shows_how_stages_stand_to_the_sla(worker: Worker, get: Get) -> None:
    worker.sla.take(1, time.time() - 120, None)
    worker.sla.take(2, time.time() - 7, None)
    worker.sla.finish(2)
    worker.sla.backlog = lambda: Waiting(3, 0)
    _, _, text = await get("/")
    (row,) = re.findall(r"<tr><td>&lt;p&gt;/s</td>(.*?)</tr>", text)
    cells = re.findall("<td>(.*?)</td>", row)
    assert (cells[0], cells[5], cells[6]) == ("60.0 s", "100.00%", "3")
    assert float(cells[1].removesuffix(" s")) >= 120
    assert cells[8].endswith(" s (late)")


async def test_other_pages_and_methods(worker: Worker, get: Get) -> None:
    assert (await get("/nothing"))[0] == 404
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{worker.web.port}/metrics") as response,
    ):
        assert response.status == 405


async def test_an_address_that_is_taken(worker: Worker) -> None:
    second = WebServer("127.0.0.1", worker.web.port, worker.metrics, worker.health)
    with pytest.raises(WorkerMisconfigured, match=r"WEIR_WEB_PORT: .*address already in use"):
        await second.start()
    await second.close()


async def test_a_closed_server_lets_go_of_its_port(worker: Worker) -> None:
    await worker.web.close()
    again = WebServer("127.0.0.1", worker.web.port, worker.metrics, worker.health)
    await again.start()
    assert again.port == worker.web.port
    await again.close()
