"""Run events as a catalogue gets them, and that none of its troubles are a worker's."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import web
from aiokafka.errors import TopicAuthorizationFailedError
from faust.transport.drivers import aiokafka as driver

from deploy.embedded.process import free_port
from inference.errors import EngineMisconfigured
from sinks.clickhouse import StoreSettings
from streams import topics
from streams.metrics import Metrics
from streams.pipeline import Pipeline, load, load_all
from streams.settings import Settings
from streams.worker import Worker

pytest.importorskip("openlineage.client", reason="the extra `openlineage` is not installed")

from openlineage.client import event_v2

from streams.openlineage import RunEvents

Until = Callable[..., Awaitable[Any]]
Event = dict[str, Any]


class Catalogue:
    """A server that takes run events. answer: the status that it gives; None: it never answers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.keys: list[str | None] = []
        self.answer: int | None = 201
        self._closing = asyncio.Event()
        app = web.Application()
        app.router.add_post("/openapi/api/v1/lineage", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        self.url = ""

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/openapi"

    async def close(self) -> None:
        self._closing.set()
        await self._runner.cleanup()

    def told(self, job: str) -> list[str]:
        """What was told of the run of a job."""
        return [event["eventType"] for event in self.events if event["job"]["name"] == job]

    def last(self, job: str) -> Event:
        """What was told last of a job."""
        return next(event for event in reversed(self.events) if event["job"]["name"] == job)

    async def _take(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        self.events.append(checked(await request.json()))
        if self.answer is None:
            await self._closing.wait()
        return web.Response(status=self.answer or 500)


@pytest.fixture
async def catalogue() -> AsyncIterator[Catalogue]:
    started = Catalogue()
    await started.start()
    yield started
    await started.close()


def checked(event: Event) -> Event:
    """The event, if the library's own types take it and nothing is left that they do not know."""
    rest = {**event}
    kind, schema = event_v2.RunState(rest.pop("eventType")), rest.pop("schemaURL")
    run, job = event_v2.Run(**rest.pop("run")), event_v2.Job(**rest.pop("job"))
    inputs = [event_v2.InputDataset(**given) for given in rest.pop("inputs")]
    outputs = [event_v2.OutputDataset(**given) for given in rest.pop("outputs")]
    known = event_v2.RunEvent(eventType=kind, run=run, job=job, inputs=inputs, outputs=outputs, **rest)
    assert known.schemaURL == schema
    groups = [run.facets, job.facets, *(dataset.facets for dataset in (*inputs, *outputs))]
    groups += [dataset.inputFacets for dataset in inputs]
    groups += [dataset.outputFacets for dataset in outputs]
    facets = [facet for group in groups if group for facet in group.values()]
    assert facets
    assert all(facet["_producer"] == event["producer"] and facet["_schemaURL"] for facet in facets)
    return event


def settings_of(url: str, **more: Any) -> Settings:
    given = {"kafka_url": "kafka://broker-1,broker-2:9093", "clickhouse_url": "https://store", "openlineage_url": url}
    return Settings(**(given | more))


@pytest.fixture(scope="session")
def review(shipped: Path) -> Pipeline:
    return load(shipped / "call-review.yaml")


async def test_each_stage_is_a_job_and_its_topics_lead_from_one_to_the_next(
    catalogue: Catalogue, review: Pipeline
) -> None:
    metrics = Metrics()
    runs = RunEvents(settings_of(catalogue.url), [review], metrics)
    runs.start()
    metrics.received.labels("call-review", "check").inc(5)
    metrics.verdicts.labels("call-review", "check", "accept").inc(3)
    metrics.verdicts.labels("call-review", "check", "escalate").inc()
    metrics.verdicts.labels("call-review", "summarize", "accept").inc(70)
    metrics.escalated.labels("call-review", "check", "escalate").inc()
    runs.complete()
    await runs.close()

    names = ["call-review.documents", *(f"call-review.{stage.name}" for stage in review.stages), "weir.reviews"]
    assert [event["job"]["name"] for event in catalogue.events] == names * 2
    assert {event["job"]["namespace"] for event in catalogue.events} == {"weir"}
    assert [event["eventType"] for event in catalogue.events] == ["START"] * len(names) + ["COMPLETE"] * len(names)
    begun = [event["run"]["runId"] for event in catalogue.events[: len(names)]]
    assert [event["run"]["runId"] for event in catalogue.events[len(names) :]] == begun
    assert len({UUID(run) for run in begun}) == len(names)

    kafka, store = "kafka://broker-1:9092", "clickhouse://store:8443"
    made = {(review.source, kafka), (review.documents.topic, kafka), ("reviews", kafka)}
    for event in catalogue.events[: len(names)]:
        assert {(dataset["name"], dataset["namespace"]) for dataset in event["inputs"]} <= made
        made |= {(dataset["name"], dataset["namespace"]) for dataset in event["outputs"]}
    assert {("weir.verdicts_raw", store), ("weir.documents_raw", store), ("calls.findings", kafka)} <= made

    check = next(e for e in catalogue.events[len(names) :] if e["job"]["name"] == "call-review.check")
    assert check["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 5
    counted = {dataset["name"]: dataset["outputFacets"] for dataset in check["outputs"]}
    assert counted["calls.findings"]["outputStatistics"]["rowCount"] == 4
    assert counted["calls.escalations"]["outputStatistics"]["rowCount"] == 1
    assert counted["weir.verdicts_raw"] == {}


async def test_datasets_have_their_fields(catalogue: Catalogue, review: Pipeline) -> None:
    runs = RunEvents(settings_of(catalogue.url), [review], Metrics())
    runs.start()
    await runs.close()
    types = {
        dataset["name"]: {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]}
        for event in catalogue.events
        for dataset in (*event["inputs"], *event["outputs"])
    }
    assert types["calls.turns"] | {"text": "string", "turn": "integer", "final": "boolean"} == types["calls.turns"]
    assert (
        types["calls.findings"] | {"scores": "object", "source": "object", "reused_from": "string"}
        == (types["calls.findings"])
    )
    assert set(types["reviews"]) == {"row_id", "decision", "label", "reviewer", "time", "id", "comment"}
    assert set(types["calls.escalations"]) == {*types["calls.findings"], "text", "context", "report"}
    assert types["weir.verdicts_raw"]["scores"] == "list[float]"
    assert types["weir.verdicts_raw"]["event_time"] == "datetime"


async def test_reviews_are_a_job_that_reads_verdicts_and_writes_corrections(
    catalogue: Catalogue, review: Pipeline, shipped: Path
) -> None:
    metrics = Metrics()
    runs = RunEvents(settings_of(catalogue.url, reviews_topic="said"), load_all([shipped]), metrics)
    runs.start()
    metrics.received.labels("weir", "reviews").inc(4)
    metrics.verdicts.labels("call-review", "check", "accept").inc(9)
    metrics.reviews.labels("call-review", "check", "accept", "no").inc()
    metrics.reviews.labels("call-review", "check", "escalate", "yes").inc()
    metrics.reviews.labels("ticket-triage", "triage", "accept", "no").inc()
    runs.complete()
    await runs.close()
    assert catalogue.told("weir.reviews") == ["START", "COMPLETE"]
    ended = catalogue.last("weir.reviews")
    assert [each["name"] for each in ended["inputs"]] == ["said", "weir.verdicts_raw", "weir.source_rows_raw"]
    assert ended["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 4
    counted = {each["name"]: each["outputFacets"] for each in ended["outputs"]}
    assert counted.pop("weir.reviews_raw") == {}
    rows = {name: facets["outputStatistics"]["rowCount"] for name, facets in counted.items()}
    assert {name: count for name, count in rows.items() if count} == {"calls.findings": 2, "support.triage": 1}
    verdicts = {stage.writes for one in load_all([shipped]) for stage in one.stages if stage.judge is not None}
    assert set(rows) == verdicts


async def test_a_stage_with_a_screen_reads_and_writes_its_thresholds(catalogue: Catalogue) -> None:
    judge = {"operator": "moderate", "categories": [{"name": "spam", "definition": "advertising"}]}
    cascade = {"screen": "community-1", "sha256": "0" * 64}
    stage = {"name": "moderate", "writes": "chat.verdicts", "judge": judge, "cascade": cascade}
    given = {"name": "chat", "version": "1", "source": "chat", "sla": "1h", "stages": [stage]}
    runs = RunEvents(settings_of(catalogue.url), [Pipeline.model_validate(given)], Metrics())
    runs.start()
    await runs.close()
    told = catalogue.last("chat.moderate")
    for datasets in (told["inputs"], told["outputs"]):
        assert "weir.cascade_fits_raw" in [each["name"] for each in datasets]


@pytest.mark.parametrize("judges", [True, False])
async def test_where_no_reviews_are_read_there_is_no_such_job(
    catalogue: Catalogue, review: Pipeline, judges: bool
) -> None:
    cut = review.model_copy(update={"stages": [stage for stage in review.stages if stage.judge is None]})
    chosen = settings_of(catalogue.url, reviews_topic="" if judges else "reviews")
    runs = RunEvents(chosen, [review if judges else cut], Metrics())
    runs.start()
    await runs.close()
    assert catalogue.events
    assert catalogue.told("weir.reviews") == []


async def test_a_run_that_failed_says_why(catalogue: Catalogue, review: Pipeline) -> None:
    chosen = settings_of(catalogue.url, openlineage_namespace="eu", openlineage_api_key="s3cret")
    runs = RunEvents(chosen, [review], Metrics())
    runs.start()
    runs.fail(EngineMisconfigured("no model 'x'"))
    await runs.close()
    last = catalogue.last("call-review.check")
    assert (last["eventType"], last["job"]["namespace"]) == ("FAIL", "eu")
    assert last["run"]["facets"]["errorMessage"]["message"] == "no model 'x'"
    assert set(catalogue.keys) == {"Bearer s3cret"}


async def test_events_may_go_to_a_file(tmp_path: Path, review: Pipeline) -> None:
    file = tmp_path / "events.jsonl"
    for _ in range(2):
        runs = RunEvents(settings_of(file.as_uri()), [review], Metrics())
        runs.start()
        await runs.close()
    events = [checked(json.loads(line)) for line in file.read_text().splitlines()]
    assert len(events) == 2 * (2 + len(review.stages))


async def test_a_catalogue_that_is_away_is_told_of_once(review: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    alone = review.model_copy(update={"stages": review.stages[:1], "documents": None})
    runs = RunEvents(settings_of(f"http://127.0.0.1:{free_port()}"), [alone], Metrics(), close_seconds=60)
    runs.start()
    runs.complete()
    await runs.close()
    assert [record.message.split(":")[0] for record in caplog.records if record.name == "streams.openlineage"] == [
        "OpenLineage events are lost"
    ]


async def test_a_catalogue_that_does_not_answer_holds_nobody_up(
    catalogue: Catalogue, review: Pipeline, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    catalogue.answer = None
    runs = RunEvents(settings_of(catalogue.url), [review], Metrics(), close_seconds=0.01)
    runs.start()
    await until(lambda: catalogue.events)
    await runs.close()
    assert "were not sent in time" in caplog.text
    assert len(catalogue.events) == 1


@pytest.fixture
async def started(
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    catalogue: Catalogue,
    new_topic: Callable[..., Awaitable[str]],
) -> AsyncIterator[Callable[[str], Awaitable["asyncio.Task[None]"]]]:
    """`await started("name")`: a worker with a pipeline of this name, whose topics are `name` and `name.verdicts`."""
    tasks = []

    async def start(name: str) -> "asyncio.Task[None]":
        judge = {
            "operator": "moderate",
            "categories": [{"name": "spam", "definition": "advertising"}],
            "calibration": {"content_free": []},
        }
        pipeline = Pipeline.model_validate(
            {
                "name": name,
                "version": "1",
                "source": name,
                "sla": "1h",
                "stages": [{"name": "moderate", "writes": f"{name}.verdicts", "judge": judge}],
            }
        )
        await topics.create(settings, topics.topics_of([pipeline]), 1, 1)
        chosen = Settings(
            kafka_url=settings.kafka_url,
            kafka_group=name,
            engine_url=engine.url,
            engine_context_tokens=100_000,
            clickhouse_url=store.url,
            clickhouse_database=store.database,
            web_port=free_port(),
            openlineage_url=catalogue.url,
        )
        tasks.append(asyncio.create_task(Worker(chosen, [pipeline]).run()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_workers_tell_how_their_runs_end(
    started: Callable[[str], Awaitable["asyncio.Task[None]"]],
    catalogue: Catalogue,
    produce: Any,
    read: Any,
    until: Until,
) -> None:
    fails = await started("fails")
    await until(lambda: catalogue.told("fails.moderate"))
    ends = await started("ends")  # the signal is for the worker that was started last
    await produce("ends", orjson.dumps({"text": "hello"}))
    await produce("fails", orjson.dumps({"text": "hello"}))
    await read("ends.verdicts", 1)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(15):
        await ends
    assert catalogue.told("ends.moderate") == ["START", "COMPLETE"]
    assert catalogue.last("ends.moderate")["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1
    assert catalogue.told("fails.moderate") == ["START"]
    await produce("fails", orjson.dumps({"text": "lost"}))
    async with asyncio.timeout(15):
        with pytest.raises(EngineMisconfigured) as stopped:
            await fails
    assert catalogue.told("fails.moderate") == ["START", "FAIL"]
    for job in ("fails.moderate", "weir.reviews"):
        assert catalogue.last(job)["run"]["facets"]["errorMessage"]["message"] == str(stopped.value)


async def test_a_consumer_that_ends_for_good_fails_its_runs(
    started: Callable[[str], Awaitable["asyncio.Task[None]"]],
    catalogue: Catalogue,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker takes the right to read away; Tansu knows no rights, so Kafka's client says it."""
    fails = await started("refused")
    await until(lambda: catalogue.told("refused.moderate"))

    async def refuse(*_: Any, **__: Any) -> Any:
        raise TopicAuthorizationFailedError("refused")

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", refuse)
    async with asyncio.timeout(30):
        with pytest.raises(TopicAuthorizationFailedError) as stopped:
            await fails
    for job in ("refused.moderate", "weir.reviews"):
        assert catalogue.told(job) == ["START", "FAIL"]
        assert catalogue.last(job)["run"]["facets"]["errorMessage"]["message"] == str(stopped.value)
