"""OpenTelemetry spans of a row's way, from the producer's `traceparent` to the store.

Needs the extra `otel`; imported only where `WEIR_TRACING` is set. No span has words, keys, authors or tenants of a
message, nor the text of an error, which may quote them. Names and attributes follow OpenTelemetry's conventions for
messaging, databases and generative AI where they have one; ours begin with `weir.`.
"""

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from inference.engine import Usage
from inference.errors import AttemptsExhausted, EngineUnavailable
from inference.judgement import Screening
from inference.tracing import Answered, Request
from streams import cloudevents
from streams.admission import PAST_LIMIT
from streams.cloudevents import Headers
from streams.errors import DeadLetter
from streams.identity import row_of, uuid_text
from streams.origin import Placed
from streams.records import Verdict
from streams.settings import Settings
from streams.tracing import UNRECORDED, Span, Tracing

log = logging.getLogger(__name__)

_ROWS = 10_000
_CLOSE_SECONDS = 3.0
_TRACEPARENT = "traceparent"
_PROVIDERS = ("vllm", "llamacpp")  # others only show that they speak OpenAI's API
_W3C = TraceContextTextMapPropagator()


class OtelTracing(Tracing):
    """The spans of one worker.

    They wait in a bounded queue and leave in a thread of their own: when no collector takes them they are lost, and no
    row waits.
    """

    def __init__(
        self, settings: Settings, exporter: SpanExporter | None = None, close_seconds: float = _CLOSE_SECONDS
    ) -> None:
        """exporter: where spans go; None for what the OTEL_EXPORTER_OTLP_* variables say. close_seconds: how long they
        have to get away when the worker stops.
        """
        by_ratio = ParentBased(TraceIdRatioBased(settings.tracing_ratio))
        self._provider = TracerProvider(
            sampler=None if "OTEL_TRACES_SAMPLER" in os.environ else by_ratio,
            resource=_resource(),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("weir", version("weir"))
        self._close_seconds = close_seconds
        self._group = settings.kafka_group
        self._database = settings.clickhouse_database
        self._rows = _Rows()
        self.requests = _Requests(self._tracer)

    def process(self, message: Placed, stage: str, job: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """Its parent is whoever sent the message."""
        return self._process(message, stage, job)

    async def _process(self, message: Placed, stage: str, job: Coroutine[Any, Any, None]) -> None:
        attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": message.topic,
            "messaging.destination.partition.id": str(message.partition),
            "messaging.kafka.offset": message.offset,
            "messaging.consumer.group.name": self._group,
            "weir.stage": stage,
        }
        span = self._tracer.start_span(f"process {message.topic}", _sender_of(message), SpanKind.CONSUMER, attributes)
        with _Recorded(span):
            await job

    def judge(self, operator: str, row_id: int) -> Span:
        """A later row that reuses the judgement finds this span by the row id."""
        if not _current().trace_flags.sampled:
            return UNRECORDED
        span = self._tracer.start_span(operator, attributes={"weir.row_id": uuid_text(row_id)})
        self._rows.put(row_id, span.get_span_context())
        return _Judge(span, self._rows)

    def screen(self) -> Span:
        """A child of the span of the judgement."""
        return _Screen(self._tracer.start_span("screen")) if _current().trace_flags.sampled else UNRECORDED

    def keep(self, row_id: int) -> None:
        """For `assemble`, which may come when the row's own span has ended."""
        if (current := _current()).trace_flags.sampled:
            self._rows.put(row_id, current)

    def assemble(self, row_ids: Sequence[int]) -> Span:
        """In the trace of the row that was the last, with links to the others as far as they are known here."""
        known = {span.span_id: span for span in map(self._rows.get, row_ids) if span is not None}
        if (current := _current()).trace_flags.sampled:
            known.pop(current.span_id, None)
            known[current.span_id] = current
        if not known:
            return UNRECORDED
        *others, last = known.values()
        parent = trace.set_span_in_context(trace.NonRecordingSpan(last))
        return _Recorded(self._tracer.start_span("assemble", parent, links=[Link(row) for row in others]))

    @contextmanager
    def sending(self, topic: str, headers: Headers) -> Iterator[Headers]:
        """With a `traceparent` that makes the reader's span a child of this one."""
        current = _current()
        if not current.is_valid:
            yield headers
        elif not current.trace_flags.sampled:
            yield _with_traceparent(headers, current)
        else:
            attributes = {
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": topic,
            }
            span = self._tracer.start_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes)
            with _Recorded(span):
                yield _with_traceparent(headers, span.get_span_context())

    def storing(self, stored: "asyncio.Future[None]", rows: int) -> None:
        """A span from now until the store has the rows, which go there with those of others."""
        if not _current().trace_flags.sampled:
            return
        attributes: dict[str, str | int] = {
            "db.system.name": "clickhouse",
            "db.namespace": self._database,
            "db.operation.name": "INSERT",
            "db.operation.batch.size": rows,
        }
        span = self._tracer.start_span(f"INSERT {self._database}", kind=SpanKind.CLIENT, attributes=attributes)
        stored.add_done_callback(partial(_stored, span))

    def dead_letter(self, reason: str) -> None:
        """Marks the message's span."""
        _failed(trace.get_current_span(), reason)

    async def close(self) -> None:
        """In a thread that ends with the process: the exporter would wait for half a minute."""
        ending = threading.Thread(target=self._provider.shutdown, name="otel-shutdown", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, self._close_seconds)
        if ending.is_alive():
            log.warning("spans were not sent in time")


class _Recorded(Span):
    """A span that is the current one in its block."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context.detach(self._token)
        if isinstance(error, PAST_LIMIT):
            self._span.set_attribute("weir.past_limit", error.reason)
        elif error is not None:
            _failed(self._span, _kind_of(error))
        self._span.end()


class _Screen(_Recorded):
    def screened(self, said: Screening) -> None:
        """What it said, and who decides."""
        self._span.set_attributes(
            {
                "weir.screen": said.screen,
                "weir.risk": said.risk,
                "weir.tier": said.tier,
                "weir.audited": said.audited,
            }
        )


class _Judge(_Recorded):
    def __init__(self, span: trace.Span, rows: "_Rows") -> None:
        super().__init__(span)
        self._rows = rows

    def judged(self, verdict: Verdict) -> None:
        """The decision, and a link to the row that paid for it, if that was another one."""
        self._span.set_attributes(
            {
                "weir.decision": verdict.decision,
                "weir.confidence_source": verdict.confidence_source,
                "weir.model": verdict.model,
                "weir.prompt_hash": verdict.prompt_hash,
                "weir.parts": verdict.parts,
                "weir.cost_usd": verdict.cost_usd,
            }
        )
        if verdict.reused_from is not None:
            self._span.set_attribute("weir.reused_from", verdict.reused_from)
            if (paid := self._rows.get(row_of(verdict.reused_from))) is not None:
                self._span.add_link(paid)


class _Requests:
    """Implements `inference.tracing.RequestTracing`; an asker is a span."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def asker(self) -> object | None:
        span = trace.get_current_span()
        return span if span.get_span_context().trace_flags.sampled else None

    @contextmanager
    def request(self, request: Request) -> Iterator[Answered]:
        """In the trace of the first asker. If there are others, it links to all of them, and they to it."""
        rows = [asker for asker in dict.fromkeys(request.askers) if isinstance(asker, trace.Span)]
        url = urlsplit(request.url)
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": request.provider if request.provider in _PROVIDERS else "openai",
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
            "weir.prompts": request.prompts,
        }
        span = self._tracer.start_span(
            f"text_completion {request.model}",
            trace.set_span_in_context(rows[0]),
            SpanKind.CLIENT,
            attributes,
            links=[Link(row.get_span_context()) for row in rows] if len(rows) > 1 else (),
        )
        for row in rows[1:]:
            if row.is_recording():
                row.add_link(span.get_span_context())
        with _Recorded(span):
            yield partial(_answered, span)


class _Rows:
    """The spans of the last rows, by row id."""

    def __init__(self) -> None:
        self._spans: OrderedDict[int, SpanContext] = OrderedDict()

    def put(self, row_id: int, span: SpanContext) -> None:
        self._spans[row_id] = span
        if len(self._spans) > _ROWS:
            self._spans.popitem(last=False)

    def get(self, row_id: int) -> SpanContext | None:
        return self._spans.get(row_id)


def _resource() -> Resource:
    """What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say; the service is called weir if they do not name it."""
    found = Resource.create({SERVICE_VERSION: version("weir")})
    if str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return found.merge(Resource({SERVICE_NAME: "weir"}))
    return found


def _current() -> SpanContext:
    return trace.get_current_span().get_span_context()


def _sender_of(message: Placed) -> context.Context:
    """The span that sent a message; the root of a trace if it names none that can be read."""
    said = cloudevents.attributes(message.headers).get(_TRACEPARENT, "")
    return _W3C.extract({_TRACEPARENT: said}, context.Context())


def _with_traceparent(headers: Iterable[tuple[str, bytes | None]], span: SpanContext) -> Headers:
    text = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return [*(header for header in headers if header[0] != _TRACEPARENT), (_TRACEPARENT, text.encode())]


def _stored(span: trace.Span, stored: "asyncio.Future[None]") -> None:
    if stored.cancelled():
        _failed(span, "cancelled")
    elif (error := stored.exception()) is not None:
        _failed(span, _kind_of(error))
    span.end()


def _answered(span: trace.Span, model: str, usage: Usage) -> None:
    span.set_attributes(
        {
            "gen_ai.response.model": model,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        }
    )


def _failed(span: trace.Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _kind_of(error: BaseException) -> str:
    """What an error is called; never its text."""
    if isinstance(error, DeadLetter | EngineUnavailable | AttemptsExhausted):
        return str(error.reason)
    return type(error).__name__
