"""Spans from the producer to the store: whose children they are, what they say, and what they must not."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiohttp import web

from bench.instant_engine import Server
from deploy.embedded.process import free_port
from inference.engine import LabelToken, Prompt
from inference.judgement import Screening
from inference.openai import EngineSettings, OpenAiEngine
from sinks.clickhouse import StoreSettings
from streams import topics
from streams.budgets import BudgetSpent
from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline
from streams.settings import Settings
from streams.worker import Worker
from tests.streams.agents import Running, acked, named, share

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from streams.otel import OtelTracing

TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SENDER}-01".encode(), f"00-{TRACE}-{SENDER}-00".encode()
SECRETS = ("sesame-words", "sesame-author", "sesame-thread", "sesame-tenant", "sesame-id", "sesame-key")

Until = Callable[..., Awaitable[Any]]


class Spans:
    """What was exported, as soon as it ends."""

    def __init__(self, settings: Settings) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = OtelTracing(settings, self._exporter)

    @property
    def all(self) -> list[ReadableSpan]:
        self.tracing._provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name.startswith(name)]

    def children(self, span: ReadableSpan) -> list[ReadableSpan]:
        return [found for found in self.all if found.parent and found.parent.span_id == span.context.span_id]

    def tree(self, span: ReadableSpan) -> Any:
        """Names of a span and of what is below it."""
        below = sorted((self.tree(child) for child in self.children(span)), key=str)
        return (span.name, *below)


@pytest.fixture(autouse=True)
def _plain_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def spans() -> AsyncIterator[Spans]:
    made = Spans(Settings(tracing_ratio=0))
    yield made
    await made.tracing.close()


def traceparent_of(span: ReadableSpan) -> str:
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def moderate(**more: Any) -> dict[str, Any]:
    judge = {
        "operator": "moderate",
        "categories": [{"name": "spam", "definition": "advertising"}],
        "calibration": {"content_free": []},
    }
    return {"name": "moderate", "judge": judge} | more


def pipeline_of(name: str, *stages: dict[str, Any]) -> Pipeline:
    given = {"name": "watch", "version": "1", "source": name, "sla": "1h", "stages": stages}
    return Pipeline.model_validate(given)


class FailingOnce(Server):
    """The instant engine, which answers `status` to the first request that has the word `flaky` in it."""

    failed = False

    async def _completions(self, request: web.Request) -> web.Response:
        if b"flaky" in await request.read() and not self.failed:
            self.failed = True
            return web.json_response({"error": {"message": "sesame-words"}}, status=500)
        return await super()._completions(request)


@pytest.fixture
async def instant() -> AsyncIterator[str]:
    """Address of an instant engine."""
    runner = web.AppRunner(FailingOnce(0, {}).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_one_trace_from_the_producer_through_two_stages_to_the_store(
    settings: Settings, store: StoreSettings, instant: str, produce: Any, read: Any, until: Until
) -> None:
    name = "two-stages"
    cut = {"name": "claims", "writes": f"{name}.claims", "cut": {"into": "claims", "answers": ["agent"]}}
    pipeline = pipeline_of(name, cut, moderate(writes=f"{name}.verdicts"))
    await topics.create(settings, topics.topics_of([pipeline]), 1, 1)
    chosen = Settings(
        kafka_url=settings.kafka_url,
        kafka_group=name,
        engine_url=instant,
        engine_api_key="sesame-key",
        clickhouse_url=store.url,
        clickhouse_database=store.database,
        web_port=free_port(),
        tracing_ratio=0,
    )
    spans = Spans(chosen)
    running = asyncio.create_task(Worker(chosen, [pipeline], tracing=spans.tracing).run())
    body = {
        "text": "The flaky sesame-words are true.",
        "id": "sesame-id",
        "author": "sesame-author",
        "thread": "sesame-thread",
        "tenant": "sesame-tenant",
    }
    await produce(name, orjson.dumps(body), key=b"sesame-key", headers=[("traceparent", SAMPLED)])
    await produce(name, orjson.dumps({"text": "Nobody follows this."}), headers=[("traceparent", UNSAMPLED)])
    await produce(name, b"sesame-words, not JSON", headers=[("traceparent", SAMPLED)])
    verdicts = await read(f"{name}.verdicts", 2)
    (dead,) = await read(topics.dead_letters(name), 1)
    await until(lambda: len(spans.named("process")) == 3)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(60):
        await running

    read_first = [span for span in spans.all if span.name == f"process {name}"]
    first, given_up = sorted(read_first, key=lambda span: span.status.status_code is StatusCode.ERROR)
    insert = f"INSERT {store.database}"
    asked = ("text_completion instant",)
    second = (f"process {name}.claims", (insert,), ("moderate", asked, asked), (f"send {name}.verdicts",))
    assert spans.tree(first) == (f"process {name}", (insert,), (f"send {name}.claims", second))
    assert {f"{span.context.trace_id:032x}" for span in spans.all} == {TRACE}
    assert f"{first.parent.span_id:016x}" == SENDER
    kinds = {span.name.split()[0]: span.kind for span in spans.all}
    assert (kinds["process"], kinds["send"]) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert kinds["INSERT"] == kinds["text_completion"] == SpanKind.CLIENT

    failed, answered = sorted(spans.named("text_completion"), key=lambda span: span.start_time)
    assert (failed.status.status_code, failed.attributes["error.type"]) == (StatusCode.ERROR, "status")
    assert answered.status.status_code is StatusCode.UNSET
    said = answered.attributes
    assert said["gen_ai.operation.name"] == "text_completion"
    assert said["gen_ai.provider.name"] == "vllm"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "instant"
    assert said["gen_ai.usage.input_tokens"] > 10
    assert said["gen_ai.usage.output_tokens"] == said["weir.prompts"]  # the row that nobody follows may be with it

    by_trace = {named(verdict.headers)["traceparent"] for verdict in verdicts}
    assert traceparent_of(spans.named(f"send {name}.verdicts")[0]) in by_trace
    (untraced,) = by_trace - {traceparent_of(spans.named(f"send {name}.verdicts")[0])}
    assert (untraced[3:35], untraced[-2:]) == (TRACE, "00")

    assert given_up.attributes["error.type"] == "not_json"
    assert named(dead.headers)["traceparent"] == traceparent_of(spans.children(given_up)[0])
    told = "".join(span.to_json() for span in spans.all)
    assert [secret for secret in SECRETS if secret in told] == []


async def test_a_redelivery_is_another_child_of_the_producer_and_a_reused_row_links_to_the_one_that_paid(
    settings: Settings, store: StoreSettings, engine: Any, message: Any, new_topic: Any, read: Any, spans: Spans
) -> None:
    stage = moderate(writes=await new_topic())
    pipeline = pipeline_of(await new_topic(), stage)
    headers = [("traceparent", SAMPLED)]
    async with AsyncExitStack() as stack:

        async def start() -> Running:
            shared = await share(stack, settings, store, pipeline, tracing=spans.tracing)
            agent, _ = await shared.judge(pipeline, pipeline.stages[0], engine.url)
            await agent.prepare()
            running = Running(agent, shared, message)
            stack.push_async_callback(running.close)
            return running

        first = await start()
        now = datetime.now(UTC).timestamp()
        first.put("hold one", headers=headers, offset=1, timestamp=now)
        while not engine.seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await first.close()
        second = await start()
        engine.go("one")
        again = second.put("hold one", headers=headers, offset=1, timestamp=now)
        await acked(again)
        await acked(second.put("hold one", headers=headers, offset=2, timestamp=now))

    lost, redelivered, reused = sorted(spans.named("process"), key=lambda span: span.start_time)
    assert {f"{span.parent.span_id:016x}" for span in (lost, redelivered, reused)} == {SENDER}
    assert (lost.attributes["messaging.kafka.offset"], redelivered.attributes["messaging.kafka.offset"]) == (1, 1)
    assert lost.attributes["error.type"] == "CancelledError"
    assert redelivered.status.status_code is StatusCode.UNSET
    model, insert, send = ("text_completion scripted",), ("INSERT weir",), f"send {stage['writes']}"
    assert spans.tree(redelivered) == (redelivered.name, insert, ("moderate", model), (send,))
    assert spans.tree(reused) == (reused.name, insert, ("moderate",), (send,))
    by_row = {span.parent.span_id: span for span in spans.named("moderate")}
    paid, linked = by_row[redelivered.context.span_id], by_row[reused.context.span_id]
    assert [link.context.span_id for link in linked.links] == [paid.context.span_id]
    assert linked.attributes["weir.decision"] == paid.attributes["weir.decision"]


async def test_a_request_that_serves_several_rows_links_to_them_and_they_to_it(instant: str, spans: Spans) -> None:
    client = OpenAiEngine(EngineSettings(instant, linger=0.2), tracing=spans.tracing.requests)
    await client.connect()
    labels = [LabelToken(" yes", 1_000_000), LabelToken(" no", 1_000_001)]

    async def ask(row: int) -> None:
        job = client.score(Prompt("shared ", f"words {row}"), labels)
        await spans.tracing.process(Place(row, SAMPLED if row else UNSAMPLED), "watch/moderate", job)

    await asyncio.gather(*map(ask, range(4)))
    assert await client._probe()  # with a prompt of one of the rows, but not for it
    await client.close()
    rows = {span.attributes["messaging.kafka.offset"]: span for span in spans.named("process")}
    (request,) = spans.named("text_completion")
    assert sorted(rows) == [1, 2, 3]
    assert request.attributes["weir.prompts"] == 4
    assert request.attributes["gen_ai.usage.output_tokens"] == 4
    assert {link.context.span_id for link in request.links} == {row.context.span_id for row in rows.values()}
    (parent,) = [row for row in rows.values() if row.context.span_id == request.parent.span_id]
    others = [row for row in rows.values() if row is not parent]
    assert [[link.context.span_id for link in row.links] for row in others] == [[request.context.span_id]] * 2


class Place:
    """A message without words."""

    topic, partition, timestamp = "messages", 0, 0.0

    def __init__(self, offset: int, traceparent: bytes | None = None) -> None:
        self.offset = offset
        self.headers = [("traceparent", traceparent)] if traceparent else []


async def nothing() -> None:
    return


@pytest.mark.parametrize(("ratio", "recorded"), [(0, 0), (1, 1)])
async def test_the_ratio_is_for_messages_without_a_traceparent_that_can_be_read(ratio: float, recorded: int) -> None:
    spans = Spans(Settings(tracing_ratio=ratio))
    await spans.tracing.process(Place(1), "a/b", nothing())
    await spans.tracing.process(Place(2, b"00-1-2-01"), "a/b", nothing())
    await spans.tracing.process(Place(3, SAMPLED), "a/b", nothing())
    await spans.tracing.process(Place(4, UNSAMPLED), "a/b", nothing())
    offsets = [span.attributes["messaging.kafka.offset"] for span in spans.all]
    assert offsets == ([1, 2, 3] if recorded else [3])
    await spans.tracing.close()


async def test_standard_variables_name_the_service_and_choose_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OtelTracing(Settings(), InMemorySpanExporter())._provider.resource.attributes["service.name"] == "weir"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "moderation")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans = Spans(Settings(tracing_ratio=1))
    assert spans.tracing._provider.resource.attributes["service.name"] == "moderation"
    await spans.tracing.process(Place(1, SAMPLED), "a/b", nothing())
    assert spans.all == []
    await spans.tracing.close()


async def test_what_is_assembled_goes_on_in_the_trace_of_the_last_row_and_links_to_the_others(spans: Spans) -> None:
    tracing = spans.tracing

    async def keep(row: int) -> None:
        tracing.keep(row)

    for row, place in enumerate((Place(1, SAMPLED), Place(2, UNSAMPLED), Place(3, SAMPLED)), 1):
        await tracing.process(place, "calls/assemble", keep(row))
    with tracing.assemble([1, 2, 3, 99]), tracing.sending("calls.transcripts", [("ce_id", b"1")]) as headers:
        pass
    one, three = spans.named("process")
    (assembled,), (sent,) = spans.named("assemble"), spans.named("send")
    assert assembled.parent.span_id == three.context.span_id
    assert [link.context.span_id for link in assembled.links] == [one.context.span_id]
    assert sent.parent.span_id == assembled.context.span_id
    assert headers == [("ce_id", b"1"), ("traceparent", traceparent_of(sent).encode())]
    with tracing.assemble([98, 99]), tracing.sending("calls.transcripts", []) as headers:
        assert headers == []


async def test_what_the_screen_said_and_a_limit_that_is_past_are_no_failures(spans: Spans) -> None:
    async def screened() -> None:
        with spans.tracing.judge("moderate", 1):
            with spans.tracing.screen() as span:
                span.screened(Screening("community-1-1", 0.25, "model", audited=True))
            raise BudgetSpent

    with pytest.raises(BudgetSpent):
        await spans.tracing.process(Place(1, SAMPLED), "a/b", screened())
    (screen,), (judged,) = spans.named("screen"), spans.named("moderate")
    assert screen.attributes == {
        "weir.screen": "community-1-1",
        "weir.risk": 0.25,
        "weir.tier": "model",
        "weir.audited": True,
    }
    assert screen.parent.span_id == judged.context.span_id
    assert judged.attributes["weir.past_limit"] == "budget"
    assert judged.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "it never answers"])
async def test_a_collector_that_is_away_holds_nothing_up(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.close()

    async with AsyncExitStack() as stack:
        port = free_port()
        if answers:
            server = await stack.enter_async_context(await asyncio.start_server(hold, "127.0.0.1", 0))
            port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        tracing = OtelTracing(Settings(), close_seconds=0.1)
        for offset in range(100):
            await tracing.process(Place(offset, SAMPLED), "a/b", nothing())
        assert len(tracing._provider._active_span_processor._span_processors[0]._batch_processor._queue) <= 16
        await tracing.close()
        held.set()


async def test_spans_go_to_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    taken: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        taken.append((request.headers["x-key"], await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=sesame-key")
    tracing = OtelTracing(Settings(), close_seconds=30)
    await tracing.process(Place(1, SAMPLED), "a/b", nothing())
    await tracing.close()
    await runner.cleanup()
    ((key, body),) = taken
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    (span,) = resource.scope_spans[0].spans
    assert (key, span.name, span.trace_id.hex(), span.parent_span_id.hex()) == (
        "sesame-key",
        "process messages",
        TRACE,
        SENDER,
    )
    assert b"sesame" not in body


async def test_without_the_extra_a_worker_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streams.otel", None)
    with pytest.raises(WorkerMisconfigured, match=r"weir\[otel\]"):
        Worker(Settings(tracing=True), [])


def test_a_worker_that_does_not_trace_does_not_import_opentelemetry() -> None:
    program = (
        "import asyncio, sys\nfrom streams.settings import Settings\nfrom streams.worker import Worker\n"
        "async def main(): Worker(Settings(kafka_url='kafka://h:1', engine_url='http://h', clickhouse_url='http://h'), "
        "[])\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
