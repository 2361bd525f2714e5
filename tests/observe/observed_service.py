"""One worker on real parts, with traffic that leaves something to see in every panel."""

import asyncio
import json
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grafana
import orjson
from clickhouse_connect.driver.client import Client
from e2e_service import Message, Service, verdicts, wait_for

from deploy.embedded.broker import TansuBroker
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks.clickhouse import connect
from sinks.migrate import migrate
from streams import pipeline, topics
from streams.cli.main import PIPELINES
from streams.cloudevents import rfc3339
from streams.demo.calls import shipped
from streams.produce import Producer, read_rows
from streams.settings import Settings
from streams.turns import turns_of

ROOT = Path(__file__).parents[2]
ENGINE = Path(__file__).with_name("observed_engine.py")
RULES = ROOT / "deploy" / "prometheus" / "rules" / "weir.yaml"
ROWS = 100  # enough for the promise that is asked for below

_SCREEN = (ROOT / "deploy" / "screens" / "screens.sha256").read_text().split()[0]
_JUDGE = """
    prompt: v1
    judge:
      operator: moderate
      categories:
        - {name: harassment, definition: attacks a person}
        - {name: hate, definition: attacks people for what they are}
        - {name: threat, definition: threatens}
        - {name: sexual, definition: crude}
        - {name: spam, definition: advertising}
      calibration: {content_free: [hello]}
"""
_WATCHED = f"""
name: watched
version: "1"
source: watched.messages
sla: 30s
stages:
  - name: moderate
    writes: watched.verdicts
    escalate: {{writes: watched.escalations, decisions: [review, block]}}
    cascade: {{screen: community-1, sha256: {_SCREEN}, reference: people, pass_below: 0.2, flag_from: 0.85, audit: 0.5}}
{_JUDGE}"""
_LEARNING = f"""
name: learning
version: "1"
source: learning.messages
sla: 30s
stages:
  - name: moderate
    writes: learning.verdicts
    cascade: {{screen: community-1, sha256: {_SCREEN}, target: 0.5, rows: 50, audit: 0.5}}
{_JUDGE}"""
_LIMITED = """
name: limited
version: "1"
source: limited.tickets
sla: 1m
limits:
  tenants:
    acme: {usd_per_day: 5}
    frugal: {tokens_per_day: 1, past_budget: wait}
    broke: {usd_per_day: 0}
stages:
  - name: sort
    writes: limited.triage
    prompt: v1
    judge:
      operator: classify
      classes:
        - {name: billing, definition: charges}
        - {name: shipping, definition: parcels}
        - {name: account, definition: login}
      calibration: {content_free: [hello]}
"""
_TOPICS = ("watched.messages", "learning.messages")
_ALL_JUDGE = "count(count by (pipeline) (weir_cost_usd_total > 0)) == 4"


@dataclass(frozen=True)
class Observed:
    """What is there to be asked. row: id of a verdict that has everything around it. event: id of its event."""

    prometheus: str
    client: Client
    started: float
    row: str
    event: str

    def around(self, identity: str) -> grafana.Around:
        """The time from before the first message to now, and what Grafana would put in for All."""
        chosen = {
            name: grafana.get(self.prometheus, f"label/{name}/values", **{"match[]": "weir_sla_seconds"})
            for name in ("pipeline", "stage")
        }
        return grafana.Around(self.started, grafana.now(), {**chosen, "id": [identity]})


def program(name: str) -> Path | None:
    """A program of Prometheus, from `make deploy-tools` or from the PATH."""
    found = shutil.which(name, path=str(ROOT / ".tools" / "prometheus")) or shutil.which(name)
    return Path(found) if found else None


@asynccontextmanager
async def observed(folder: Path, prometheus: Path) -> AsyncIterator[Observed]:
    """Everything is started, has worked, and goes on running."""
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    for name, content in {"watched": _WATCHED, "learning": _LEARNING, "limited": _LIMITED}.items():
        (pipelines / f"{name}.yaml").write_text(content)
    shutil.copy(PIPELINES / "call-review.yaml", pipelines)
    messages = _traffic("community")[:ROWS]
    with ExitStack() as stack:
        broker = stack.enter_context(TansuBroker(folder))
        store = stack.enter_context(ChdbStore(folder))
        engine = stack.enter_context(_engine(folder, messages))
        settings = Settings(
            kafka_url=broker.url,
            engine_url=engine.url,
            clickhouse_url=store.url,
            web_port=free_port(),
            gpu_hour_usd=3.6,
        )
        service = Service(settings, folder)
        scraper = stack.enter_context(_prometheus(folder, prometheus, settings.web_port))
        migrate(settings.store)
        await topics.create(settings, topics.topics_of(pipeline.load_all([pipelines])), partitions=1, replication=1)
        started = grafana.now() - 60  # rollups are by the minute
        stack.enter_context(service.worker(pipelines))
        client = stack.enter_context(closing(connect(settings.store)))
        looks = _Looks(scraper.url, client)
        await wait_for(lambda: looks.sees('up{job="weir"} == 1 and on() weir_sla_seconds'))
        row, event = await _exercise(service, engine, messages, looks)
        yield Observed(scraper.url, client, started, row, event)


async def _exercise(service: Service, engine: "_Child", messages: Sequence[dict[str, Any]], looks: "_Looks") -> Any:
    """The traffic. Returns the row id of a verdict that was reviewed and reused, and the id of its event."""
    late = rfc3339(datetime.now(UTC) - timedelta(hours=1))
    async with (
        service.reading("watched.verdicts") as judged,
        service.reading("watched.messages.dlq") as dead,
        Producer(service.settings, "/test") as producer,
    ):
        # In two parts: Prometheus sees a counter grow only if it was there at the scrape before.
        for part in (0, 1):
            engine.fail(1)
            await asyncio.gather(
                *(producer.publish(topic, row) for topic in _TOPICS for row in messages[part::2]),
                *(producer.publish("limited.tickets", row) for row in _tickets()[part::2]),
                service.publish("watched.messages", *[Message(b"{no json")] * 3),
                _publish_call(producer, part),
            )
            if part == 0:
                await wait_for(lambda: looks.sees(_ALL_JUDGE))
        await producer.publish("watched.messages", {"id": "late", "text": "this one is late", "time": late})
        found = verdicts(await judged.until(lambda records: len(verdicts(records)) > ROWS))
        await dead.count(6)
        by_model = [verdict for verdict in found.values() if (verdict["screening"] or {}).get("tier") == "model"]
        assert len(by_model) > 5
        again = by_model[0]
        words = next(row["text"] for row in messages if row["id"] == again["source"]["id"])
        await producer.publish("watched.messages", {"id": "again", "text": words})
        await producer.publish("limited.tickets", {"id": "frugal-2", "text": "where is it?", "tenant": "frugal"})
        reviews = [_review(verdict, place) for place, verdict in enumerate(by_model[:6])]
        await service.publish("reviews", *reviews[:3])
        await wait_for(lambda: looks.sees("sum(weir_reviews_total) == 3"))
        await service.publish("reviews", *reviews[3:])
        await judged.until(lambda records: "again" in verdicts(records))
    await wait_for(lambda: looks.sees("weir_cascade_recall_ratio"))
    await wait_for(lambda: looks.sees("sum(weir_reviews_total) == 6"))
    await wait_for(lambda: looks.sees("sum(weir_rows_deferred_total) > 0"))
    await wait_for(lambda: looks.stored("SELECT count() FROM cascade_fits"))
    await wait_for(lambda: looks.stored("SELECT count() FROM engine_usage WHERE use = 'judged'"))
    return again["row_id"], again["source"]["id"]


def _review(verdict: dict[str, Any], place: int) -> Message:
    other = "block" if verdict["decision"] == "allow" else "allow"
    label = {"label": "spam"} if other == "block" else {}
    decided = (
        {"decision": verdict["decision"], "label": verdict["label"]} if place % 2 else {"decision": other, **label}
    )
    return Message(orjson.dumps({"row_id": verdict["row_id"], "reviewer": "ann", "id": f"r-{place}", **decided}))


def _tickets() -> list[dict[str, Any]]:
    tenants = ["acme"] * 6 + ["broke"] * 3 + ["frugal", "unnamed"]
    return [{"id": f"{who}-{n}", "text": f"ticket {n} of {who}", "tenant": who} for n, who in enumerate(tenants)]


async def _publish_call(producer: Producer, place: int) -> None:
    """A call with its documents, and the first turns of another one."""
    calls, documents = shipped(2)
    call, other = calls[place], calls[place + 2]
    for document in documents:
        if document["id"] in call["documents"]:
            await producer.publish("calls.documents", document, key=document["id"])
    turns = list(turns_of(call, datetime.now(UTC) - timedelta(minutes=5)))
    turns += list(turns_of(other, datetime.now(UTC) - timedelta(minutes=5)))[:3]
    await asyncio.gather(*(producer.publish("calls.turns", turn) for turn in turns))


def _traffic(name: str) -> list[dict[str, Any]]:
    return list(read_rows((ROOT / "deploy" / "traffic" / f"{name}.jsonl").read_text().splitlines()))


class _Looks:
    """Questions to Prometheus and the store that are asked until something is there."""

    def __init__(self, prometheus: str, client: Client) -> None:
        self._prometheus = prometheus
        self._client = client

    def sees(self, query: str) -> bool:
        return bool(grafana.get(self._prometheus, "query", query=query)["result"])

    def stored(self, sql: str) -> bool:
        return bool(self._client.command(sql))


class _Child(ChildProcess):
    """A child with an address."""

    url = ""

    def fail(self, requests: int) -> None:
        """Let so many requests fail."""
        request = urllib.request.Request(f"{self.url}/fail?requests={requests}", method="POST")
        with urllib.request.urlopen(request):
            pass


def _ready(child: _Child, port: int, path: str) -> _Child:
    child.url = f"http://127.0.0.1:{port}"
    child.wait_ready(lambda: http_ok(child.url + path), 30)
    return child


def _engine(folder: Path, messages: Sequence[dict[str, Any]]) -> _Child:
    answers = folder / "answers.jsonl"
    answers.write_bytes(b"\n".join(orjson.dumps({"text": row["text"], "word": row["label"]}) for row in messages))
    port = free_port()
    argv = [sys.executable, str(ENGINE), "--port", str(port), "--answers", str(answers)]
    child = _Child("engine", argv, folder / "engine.log", {"PYTHONPATH": str(ROOT)})
    return _ready(child, port, "/health")


def _prometheus(folder: Path, program: Path, worker: int) -> _Child:
    """A Prometheus with our rules that looks at the worker every two seconds."""
    port = free_port()
    settings = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "weir", "static_configs": [{"targets": [f"127.0.0.1:{worker}"]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(settings))  # which is YAML as well
    data = f"--storage.tsdb.path={folder / 'prometheus'}"
    argv = [str(program), f"--config.file={file}", data, f"--web.listen-address=127.0.0.1:{port}"]
    return _ready(_Child("prometheus", argv, folder / "prometheus.log"), port, "/-/ready")
