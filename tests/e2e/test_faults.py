"""What happens to messages when something dies, is not there yet, or is told to stop."""

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from e2e_service import PIPELINES, SECONDS, Service, text, verdicts, wait_for

from deploy.embedded.broker import TansuBroker
from deploy.embedded.engine import LlamaEngine
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks import clickhouse
from streams.settings import Settings

pytestmark = pytest.mark.slow


def stored(service: Service, prefix: str) -> list[tuple[str, int]]:
    """Event id and number of verdicts that a reader of ClickHouse sees, for events whose id starts with `prefix`."""
    client = clickhouse.connect(service.settings.store)
    try:
        result = client.query(
            "SELECT s.event_id, count() FROM verdicts AS v JOIN source_rows AS s ON v.source_row_id = s.row_id "
            "WHERE startsWith(s.event_id, {prefix:String}) GROUP BY s.event_id",
            parameters={"prefix": prefix},
        )
        return [(str(event), int(count)) for event, count in result.result_rows]
    finally:
        client.close()


async def test_events_in_flight_survive_a_kill(service: Service) -> None:
    names = [f"kill-{number}" for number in range(24)]
    await service.publish("messages", *(text(f"message number {name}", id=name) for name in names))
    async with service.reading("verdicts") as found:
        with service.worker() as worker:
            await found.until(lambda records: sum("kill" in name for name in verdicts(records)) >= 4)
            worker.signal(signal.SIGKILL)
            worker.wait(SECONDS)
        with service.worker() as second:
            await found.until(lambda records: set(names) <= set(verdicts(records)))
            second.stop(SECONDS)
        records = [orjson.loads(record.value) for record in await found.quiet()]
    rows = {(v["source"]["id"], v["row_id"]) for v in records if v["source"]["id"] in names}
    assert len(rows) == len(names), "an event that was judged twice has one row id"
    assert sorted(stored(service, "kill-")) == sorted((name, 1) for name in names)


async def test_sigterm_finishes_what_is_in_flight_and_commits_it(service: Service) -> None:
    names = [f"term-{number}" for number in range(16)]
    await service.publish("messages", *(text(f"message number {name}", id=name) for name in names))
    async with service.reading("verdicts") as found:
        with service.worker() as worker:
            await found.until(lambda records: any("term" in name for name in verdicts(records)))
            worker.stop(SECONDS)
            assert worker.returncode == 0
        with service.worker() as second:
            await found.until(lambda records: set(names) <= set(verdicts(records)))
            second.stop(SECONDS)
        every = Counter(orjson.loads(record.value)["source"]["id"] for record in await found.quiet())
    assert {name: every[name] for name in names} == dict.fromkeys(names, 1)


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, orjson.loads(error.read())


async def test_a_worker_waits_for_servers_that_are_not_there_yet(tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("broker", "engine", "store", "web")}
    settings = Settings(
        kafka_url=f"kafka://127.0.0.1:{ports['broker']}",
        kafka_session_seconds=6,
        engine_url=f"http://127.0.0.1:{ports['engine']}",
        clickhouse_url=f"http://127.0.0.1:{ports['store']}",
        web_port=ports["web"],
    )
    service = Service(settings, tmp_path)
    argv = [sys.executable, "-m", "streams", "worker", "--pipelines", str(PIPELINES)]
    with ChildProcess("worker", argv, tmp_path / "worker.log", service.environment) as worker:
        await wait_for(lambda: http_ok(f"{service.web}/health/live"))
        status, answer = get(f"{service.web}/health/ready")
        assert status == 503
        assert all(state != "up" for state in answer["dependencies"].values())
        await wait_for(lambda: "cannot be reached" in worker.log.read_text())

        with LlamaEngine(tmp_path, port=ports["engine"]) as engine, ChdbStore(tmp_path, port=ports["store"]):
            await wait_for(lambda: "weir migrate" in worker.log.read_text() or worker.returncode is not None)
            assert worker.returncode is None, "tables that are not there yet are waited for as well"
            service.weir("migrate")
            with TansuBroker(tmp_path, port=ports["broker"]):
                service.weir("topics", "create", "--pipelines", str(PIPELINES))
                await wait_for(lambda: get(f"{service.web}/health/ready")[0] == 200)
                async with service.reading("verdicts") as found:
                    await service.publish("messages", text("hello", id="before"))
                    await found.count(1)

                    engine.stop()
                    await service.publish("messages", text("hello again", id="without-engine"))
                    await wait_for(lambda: get(f"{service.web}/health/ready")[1]["dependencies"]["engine"] != "up")
                    with LlamaEngine(tmp_path, port=ports["engine"]):
                        await found.count(2)
                        assert set(verdicts(found.records)) == {"before", "without-engine"}
                        worker.stop(SECONDS)
        assert worker.returncode == 0
        assert "Traceback" not in worker.log.read_text()


def descendants(pid: int) -> set[int]:
    """Process ids below `pid`."""
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            found |= {child} | descendants(child)
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


RUDE = {"text": "you are a fucking idiot, shut up bitch", "label": "harassment"}  # which the screen decides
ROWS = [*({"text": f"hello number {number}", "label": "ok", "thread": "t"} for number in range(5)), RUDE, {"id": 7}]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, ROWS)))
    return file


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streams", "demo", *arguments]


def test_the_demo_accounts_for_every_row_and_keeps_them(rows: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = subprocess.run(
        demo("--input", str(rows), "--json", "--keep", str(kept)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = orjson.loads(done.stdout.splitlines()[-1])
    expected = {"published": 7, "verdicts": 6, "rows": 6, "lost": 0, "duplicated": 0, "dead_lettered": 1}
    assert {name: report[name] for name in expected} == expected
    assert {"seconds", "p50_ms", "p95_ms", "tokens_in", "tokens_out", "cost_usd", "agreement"} <= report.keys()
    (moderation,) = report["agreement_by_pipeline"].values()
    assert report["screened"] > 0
    assert moderation["rows"] == 6
    assert {moderation[name] * 6 for name in ("agreement", "model_alone")} <= {*range(7)}
    assert [report[name] for name in ("broker", "store")] == ["tansu", "chdb"]
    assert "no moderator" in done.stderr
    with ChdbStore(kept) as store:
        client = clickhouse.connect(clickhouse.StoreSettings(store.url))
        assert client.query("SELECT count() FROM verdicts").result_rows == [(6,)]
        client.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_demo(rows: Path, tmp_path: Path, number: signal.Signals) -> None:
    kept = tmp_path / "kept"
    process = subprocess.Popen(demo("--input", str(rows), "--keep", str(kept)), stdout=subprocess.DEVNULL)
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        while len(children := descendants(process.pid)) < 4:  # broker, store, engine, worker
            assert process.poll() is None
        process.send_signal(number)
        process.wait()
        while any(map(runs, children)):
            assert watchdog.is_alive(), f"still there: {[pid for pid in children if runs(pid)]}"
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_missing_settings_are_named_all_at_once() -> None:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    done = subprocess.run(
        [sys.executable, "-m", "streams", "worker", "--pipelines", str(PIPELINES)],
        env=surroundings | {"WEIR_WEB_PORT": "many", "WEIR_KAFKA_URL": "nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    for name in ("WEIR_KAFKA_URL", "WEIR_WEB_PORT", "WEIR_ENGINE_URL", "WEIR_CLICKHOUSE_URL"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
