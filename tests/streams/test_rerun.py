"""Rows that another prompt judged are judged anew, and the old verdicts stay."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from clickhouse_connect.driver.client import Client

from sinks import versions
from sinks.clickhouse import StoreSettings, connect
from sinks.lineage import ancestors
from sinks.session import Session
from streams import rerun
from streams.cut import CutAgent
from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline
from streams.rerun import Plan, Progress
from streams.settings import Settings
from streams.tail import consumer
from tests.streams.agents import Delivery, Running, Shared, share

GetMessage = Callable[..., Any]
Until = Callable[..., Awaitable[Any]]

BEGIN = datetime.now(UTC) - timedelta(hours=1)


class Review:
    """A topic that two stages read, with workers that come and go."""

    def __init__(self, settings: Settings, store: StoreSettings, engine: Any, message: GetMessage, source: str) -> None:
        self.source = source
        self.name = f"watch-{uuid4().hex[:8]}"
        self.store = store
        self.progress: list[Progress] = []
        self.limits: dict[str, Any] = {}
        self._settings = settings
        self._engine = engine
        self._message = message
        self._stack = AsyncExitStack()
        self._offset = 0

    def pipeline(self, prompt: str, messages: int = 2, version: str = "7") -> Pipeline:
        """With a prompt whose words differ."""
        judge = {
            "operator": "moderate",
            "categories": [{"name": "spam", "definition": f"advertising, as {prompt or 'nothing'} says"}],
            "calibration": {"content_free": []},
        }
        moderate = {
            "name": "moderate",
            "reads": self.source,
            "writes": f"{self.source}.verdicts",
            "context": {"messages": messages},
            "prompt": prompt,
            "judge": judge,
        }
        cut = {
            "name": "cut",
            "reads": self.source,
            "writes": f"{self.source}.pieces",
            "cut": {"into": "claims", "answers": ["ann"]},
        }
        named = {"name": self.name, "version": version, "source": self.source, "sla": "10s", "limits": self.limits}
        return Pipeline.model_validate(named | {"stages": [moderate, cut]})

    async def worker(self, prompt: str, messages: int = 2) -> "Worker":
        """A worker, which reads what the last one has not read."""
        pipeline = self.pipeline(prompt, messages)
        stack = await self._stack.enter_async_context(AsyncExitStack())
        shared = await share(stack, self._settings, self.store, pipeline)
        agent, _ = await shared.judge(pipeline, pipeline.stages[0], self._engine.url)
        await agent.prepare()
        cut = CutAgent(pipeline, pipeline.stages[1], _no_tokens, shared.services)
        agents = [Running(one, shared, self._message) for one in (agent, cut)]
        return Worker(self, shared, agents, stack)

    async def read(self, agents: list[Running]) -> list[Delivery]:
        """Hand what has come to the topic since to the agents. Returns when it is done."""
        given: list[Delivery] = []
        async with consumer(self._settings, self.source, from_start=True) as topic:
            ((partition, end),) = (await topic.end_offsets(topic.assignment())).items()
            while self._offset < end:
                for record in (await topic.getmany(timeout_ms=200)).get(partition, ()):
                    if record.offset >= self._offset:
                        given += [agent.hand_on(record) for agent in agents]
                        self._offset = record.offset + 1
        return given

    async def rerun(self, prompt: str, patience: float = 15, in_flight: int = 100, messages: int = 2) -> Progress:
        """Judge anew what is not of this prompt."""
        found = self.pipeline(prompt, messages)
        plan = self.plan(found)
        async with AsyncExitStack() as stack:
            session = Session(self.store, "test")
            stack.callback(session.close)
            publisher = (await share(stack, self._settings, self.store, found)).services.publisher
            return await rerun.judge_anew(plan, session, publisher, in_flight, patience, self.progress.append)

    def plan(self, pipeline: Pipeline, since: datetime = BEGIN, until: datetime | None = None) -> Plan:
        with client_of(self.store) as client:
            return rerun.plan(client, pipeline, pipeline.stages[0], since, until or datetime.now(UTC))

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """The current verdicts by the text that they are about."""
        query = "SELECT v.*, s.text FROM verdicts AS v JOIN source_rows AS s ON s.row_id = v.source_row_id"
        query += f" WHERE v.topic = '{self.source}'"
        with client_of(self.store) as client:
            return {row["text"]: dict(row) for row in client.query(query).named_results()}

    async def close(self) -> None:
        await self._stack.aclose()


class Worker:
    """Two agents of a worker: one asks a model, one cuts."""

    def __init__(self, review: Review, shared: Shared, agents: list[Running], stack: AsyncExitStack) -> None:
        self.judging, self.cutting = self.agents = agents
        self.shared = shared
        self._review = review
        self._stack = stack

    async def work(self) -> None:
        """Take what has come, and finish it."""
        given = await self._review.read(self.agents)
        async with asyncio.timeout(15):
            await asyncio.gather(*(delivery.acked.wait() for delivery in given))

    async def stop(self) -> None:
        for agent in self.agents:
            await agent.close()
        await self._stack.aclose()


async def _no_tokens(_: str) -> int:
    return 0


@contextmanager
def client_of(store: StoreSettings) -> Iterator[Client]:
    client = connect(store)
    yield client
    client.close()


@pytest.fixture
async def review(
    settings: Settings, store: StoreSettings, engine: Any, message: GetMessage, new_topic: Callable[..., Awaitable[str]]
) -> AsyncIterator[Review]:
    made = Review(settings, store, engine, message, await new_topic())
    yield made
    await made.close()


@pytest.fixture
def publish(produce: Callable[..., Awaitable[Any]], review: Review) -> Callable[..., Awaitable[Any]]:
    """`await publish("words", thread="t")`: what a producer sends."""

    async def send(text: str, key: bytes | None = b"t", **fields: Any) -> Any:
        value = json.dumps({"text": text, "thread": "t", "author": "ann"} | fields).encode()
        return await produce(review.source, value, key=key, headers=[("ce_source", b"/forum")])

    return send


async def test_rows_are_judged_anew_and_the_old_versions_stay(
    review: Review, publish: Any, engine: Any, read: Any
) -> None:
    await publish("one", id="e-1")
    await publish("two", id="e-2", time=BEGIN.isoformat())
    await publish("three has no name", key=b"\xff")
    first = await review.worker("v3")
    await first.work()
    old = review.verdicts()
    assert {verdict["prompt_version"] for verdict in old.values()} == {"v3"}
    await first.stop()

    second = await review.worker("v4")
    asked = len(engine.seen)
    running = asyncio.create_task(review.rerun("v4"))
    async with asyncio.timeout(30):
        while not running.done():
            await second.work()
            await asyncio.sleep(0.05)
    progress = running.result()
    assert (progress.chosen, progress.done, progress.open) == (3, 3, 0)
    assert len(engine.seen) == asked + 3
    assert {prompt.replace("v3", "v4") for prompt in engine.seen[:asked]} == set(engine.seen[asked:])
    assert any("Earlier: one\nEarlier: two\nMessage: three" in prompt for prompt in engine.seen[asked:])

    new = review.verdicts()
    for text, verdict in old.items():
        now = new[text]
        assert now["prompt_version"] == "v4"
        assert now["prompt_hash"] != verdict["prompt_hash"]
        assert now["judged_at"] > verdict["judged_at"]
        same = ("row_id", "source_row_id", "event_time", "broker_time", "topic", "partition", "offset", "tenant")
        assert [now[name] for name in same] == [verdict[name] for name in same]
        assert now["latency_ms"] < 30_000  # from when it was asked for
    with client_of(review.store) as client:
        found = client.query(
            "SELECT row_uuid, current, prompt_version, prompt_hash FROM verdict_versions ORDER BY row_id, current"
        ).result_rows
        mine = [row for row in found if row[0] in {verdict["row_uuid"] for verdict in old.values()}]
        assert [row[1:3] for row in mine] == [(False, "v3"), (True, "v4")] * 3
        node = ancestors(client, UUID(str(new["three has no name"]["row_uuid"])))
        assert node is not None
        assert [parent.role for parent in node.parents] == ["input", "context", "context"]
        older = versions.older(client, UUID(node.row_id), node.facts)
        assert [version["prompt_version"] for version in older] == ["v3"]
        pieces = client.query(f"SELECT count() FROM source_rows WHERE topic = '{review.source}'").first_row
        assert pieces == (3,)

    published = [(found.key, json.loads(found.value)) for found in await read(f"{review.source}.verdicts", 6)]
    same = {verdict["row_id"]: (key, verdict["source"], verdict["parents"]) for key, verdict in published[:3]}
    assert {verdict["row_id"]: (key, verdict["source"], verdict["parents"]) for key, verdict in published[3:]} == same
    assert len(await read(f"{review.source}.pieces", 3)) == 3
    assert second.cutting.count("weir_pieces_total") == 0  # the other stage passed them over
    assert second.judging.count("weir_judgements_rerun_total") == 3
    assert second.judging.count("weir_event_latency_seconds_count") == 0

    assert (await review.rerun("v4")).chosen == 0


async def test_what_the_worker_has_seen_a_moment_ago_is_judged_anew(
    review: Review, publish: Any, engine: Any, until: Until
) -> None:
    """A producer published an event twice, and the worker has passed over the second one: it knows the event."""
    body: dict[str, Any] = {"id": "e-1", "time": datetime.now(UTC).isoformat()}
    await publish("one", **body)
    first = await review.worker("v3", messages=0)
    await first.work()
    await first.stop()
    await publish("one", **body)
    second = await review.worker("v4", messages=0)
    await second.work()
    assert second.judging.count("weir_messages_repeated_total") == 1
    assert review.verdicts()["one"]["prompt_version"] == "v3"
    asked = len(engine.seen)
    for _ in range(2):  # as if the first had been interrupted: both messages are in the topic
        await review.rerun("v4", patience=0, messages=0)
    await second.work()
    assert review.verdicts()["one"]["prompt_version"] == "v4"
    assert len(engine.seen) == asked + 1
    with client_of(review.store) as client:  # a worker that is not replaced yet gets the message once more
        client.command(
            "INSERT INTO verdicts_raw SELECT * REPLACE (now64(3) AS judged_at, 'h3' AS prompt_hash) "
            f"FROM verdicts_raw FINAL WHERE topic = '{review.source}'"
        )
    await review.rerun("v4", patience=0, messages=0)
    await second.work()
    assert review.verdicts()["one"]["prompt_hash"] != "h3"


async def test_a_rerun_that_was_interrupted_goes_on(review: Review, publish: Any, engine: Any) -> None:
    for number in range(3):
        await publish(f"row {number}", id=f"e-{number}")
    first = await review.worker("v3", messages=0)
    await first.work()
    await first.stop()
    second = await review.worker("v4", messages=0)
    progress = await review.rerun("v4", patience=0, in_flight=2, messages=0)
    assert (progress.chosen, progress.published, progress.done, progress.open) == (3, 2, 0, 3)
    await second.work()
    asked = len(engine.seen)
    progress = await review.rerun("v4", patience=0, messages=0)
    assert (progress.chosen, progress.published) == (1, 1)
    await second.work()
    assert len(engine.seen) == asked + 1
    assert (await review.rerun("v4", messages=0)).chosen == 0


async def test_past_its_limits_a_row_keeps_the_verdict_that_it_has(review: Review, publish: Any) -> None:
    """A guess would take the place of what a model said."""
    await publish("one", id="e-1", tenant="acme")
    first = await review.worker("v3", messages=0)
    await first.work()
    await first.stop()
    review.limits = {"tenants": {"acme": {"tokens_per_day": 0}}}
    second = await review.worker("v4", messages=0)
    assert (await review.rerun("v4", patience=0, messages=0)).open == 1
    await second.work()
    assert (review.verdicts()["one"]["model"], review.verdicts()["one"]["prompt_version"]) == ("scripted", "v3")
    assert second.judging.count("weir_rows_judged_by_prior_total") == 0
    await second.stop()
    review.limits = {}
    third = await review.worker("v4", messages=0)
    assert (await review.rerun("v4", patience=0, messages=0)).chosen == 1
    await third.work()
    assert review.verdicts()["one"]["prompt_version"] == "v4"


async def test_words_that_are_gone_stay_as_they_are(review: Review, publish: Any) -> None:
    await publish("one", id="e-1")
    first = await review.worker("v3", messages=0)
    await first.work()
    await first.stop()
    await (await review.worker("v4", messages=0)).stop()
    with client_of(review.store) as client:
        client.command(f"DELETE FROM source_rows_raw WHERE topic = '{review.source}'")
    progress = await review.rerun("v4", messages=0)
    assert (progress.chosen, progress.without_words, progress.published, progress.open) == (1, 1, 0, 0)


async def test_only_what_was_judged_meanwhile_is_chosen(review: Review, publish: Any) -> None:
    await publish("one", id="e-1")
    first = await review.worker("v3", messages=0)
    await first.work()
    await (await review.worker("v4", messages=0)).stop()
    judged = review.verdicts()["one"]["judged_at"].replace(tzinfo=UTC)
    pipeline, moment = review.pipeline("v4"), timedelta(milliseconds=1)
    spans = ((judged, judged + moment), (judged + moment, judged + 2 * moment), (judged - moment, judged))
    found = [sum(group["verdicts"] for group in review.plan(pipeline, *span).replaced) for span in spans]
    assert found == [1, 0, 0]


async def test_the_prompt_must_be_deployed(review: Review) -> None:
    new, newer = review.pipeline("v4"), review.pipeline("v4", version="8")
    unknown = new.model_copy(update={"name": "unknown"})
    with pytest.raises(WorkerMisconfigured, match=r"no worker has worked on.*deploy the file first"):
        review.plan(unknown)
    await (await review.worker("v4")).stop()
    assert review.plan(new).prompt.prompt_version == "v4"
    with pytest.raises(WorkerMisconfigured, match=r"of version '7'.*of version '8'; deploy"):
        review.plan(newer)
    await (await review.worker("v3")).stop()
    with pytest.raises(WorkerMisconfigured, match=r"began last uses prompt 'v3'.*has prompt 'v4'"):
        review.plan(new)
    assert review.plan(review.pipeline("v3")).prompt.prompt_version == "v3"


async def test_rows_of_another_topic_cannot_come_back(
    review: Review, publish: Any, new_topic: Callable[..., Awaitable[str]]
) -> None:
    await publish("one", id="e-1")
    first = await review.worker("v3")
    await first.work()
    await first.stop()
    before, review.source = review.source, await new_topic()
    await (await review.worker("v4")).stop()
    with pytest.raises(
        WorkerMisconfigured, match=f"read from {before}, and {review.name}/moderate now reads {review.source}"
    ):
        await review.rerun("v4")


def test_the_stage_that_is_meant(review: Review) -> None:
    pipelines = [review.pipeline("v4")]
    pipeline, stage = rerun.stage_of(pipelines, f"{review.name}/moderate", "v4")
    assert (pipeline.name, stage.name) == (review.name, "moderate")
    assert rerun.stage_of(pipelines, "moderate", "v4") == (pipeline, stage)
    with pytest.raises(WorkerMisconfigured, match=f"say which: {review.name}/moderate, other/moderate"):
        rerun.stage_of([*pipelines, pipeline.model_copy(update={"name": "other"})], "moderate", "v4")
    for name in ("mod", f"{review.name}/cut", f"{review.name}/none"):
        with pytest.raises(WorkerMisconfigured, match=f"asks a model; in these pipelines there are: {review.name}/mod"):
            rerun.stage_of(pipelines, name, "v4")
    with pytest.raises(WorkerMisconfigured, match="moderate has the prompt 'v4', not 'v5'"):
        rerun.stage_of(pipelines, f"{review.name}/moderate", "v5")
    with pytest.raises(WorkerMisconfigured, match="names no version"):
        rerun.stage_of([review.pipeline("")], f"{review.name}/moderate", "v5")
