"""What tracing costs a row: its calls without anything else of the work, in microseconds.

    python -m bench.tracing [--rows N]

A row is read, judged with one request to the engine, published and stored. `without`: the same with no call at all;
`off`: the calls of a worker that does not trace; `unsampled` and `traced`: with WEIR_TRACING, for a row whose producer
says no or yes. Spans are encoded as for a collector, in the thread that would send them. The best of several rounds.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from inference.engine import Usage
from inference.tracing import Request
from streams.otel import OtelTracing
from streams.records import Source, TokenUsage, Verdict
from streams.settings import Settings
from streams.tracing import UNTRACED, Tracing

_ROUNDS = 5
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Encoding(SpanExporter):
    """Encodes spans and sends them nowhere."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class Message:
    """A message as far as tracing reads it."""

    topic, partition, offset, timestamp = "messages", 3, 41, 0.0

    def __init__(self, flags: str) -> None:
        named = {
            "ce_id": "e-1",
            "ce_source": "/forum",
            "ce_time": "2026-03-04T05:06:07Z",
            "traceparent": _PARENT + flags,
        }
        self.headers = [(name, value.encode()) for name, value in named.items()]


def verdict() -> Verdict:
    """A verdict as a stage makes it."""
    row = "019cb73d-3271-7597-86b6-da06e2c252b7"
    return Verdict.model_construct(
        row_id=row,
        source=Source(row_id=row, source="/forum", id="e-1", topic="messages", partition=3, offset=41),
        decision="allow",
        confidence_source="logprobs",
        model="m-1",
        prompt_hash="a1",
        parts=1,
        reused_from=None,
        usage=TokenUsage(input_tokens=30, cached_tokens=20, output_tokens=1),
        cost_usd=0.001,
    )


async def row(tracing: Tracing, message: Message, said: Verdict, number: int) -> None:
    """All calls for one row."""

    async def job() -> None:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with tracing.judge("moderate", number) as span:
            requests = tracing.requests
            if requests is not None and (asker := requests.asker()) is not None:
                with requests.request(Request("vllm", "m-1", "http://engine:8000", 1, 1, 0.0, [asker])) as answered:
                    answered("m-1", Usage(30, 1, 20))
            span.judged(said)
        tracing.storing(stored, 4)
        with tracing.sending("verdicts", message.headers):
            pass
        stored.set_result(None)
        await stored

    await tracing.process(message, "moderation/judge", job())


async def bare(number: int) -> None:
    """A row without any call."""
    stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    stored.set_result(None)
    await stored


async def cost(rows: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Microseconds of CPU time a row, of all threads."""
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.process_time()
        for number in range(rows):
            await work(number)
            if number % 256 == 0:
                await asyncio.sleep(0)
        best = min(best, time.process_time() - started)
    return 1e6 * best / rows


async def main(rows: int) -> None:
    """Print a line a case."""
    on, said = OtelTracing(Settings(), Encoding()), verdict()
    sampled, unsampled = Message("01"), Message("00")
    cases: dict[str, Callable[[int], Awaitable[None]]] = {
        "without": bare,
        "off": lambda number: row(UNTRACED, sampled, said, number),
        "unsampled": lambda number: row(on, unsampled, said, number),
        "traced": lambda number: row(on, sampled, said, number),
    }
    for name, work in cases.items():
        print(f"{name:10} {await cost(rows, work):8.2f} us a row")
    await on.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="tracing")
    options.add_argument("--rows", type=int, default=10_000)
    asyncio.run(main(options.parse_args().rows))
