"""One stage: take a message, judge it, publish the verdict, store the rows, and only then acknowledge."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from inference.errors import EngineMisconfigured, PromptRejected
from inference.judgement import Judgement, Passage
from inference.operators import Operator
from sinks.errors import RowRejected
from sinks.rows import PromptRow
from sinks.writer import Writer
from streams import cloudevents, records
from streams.decode import Event, KafkaMessage, decode
from streams.errors import DeadLetter, Reason, WorkerMisconfigured
from streams.history import Earlier, ThreadHistory
from streams.metrics import Metrics
from streams.pipeline import Pipeline, Stage
from streams.publisher import Publisher
from streams.topics import dead_letters
from streams.verdicts import rows_of, verdict_of
from streams.window import Repeats, Turn, Turns, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What all stages of a worker share.

    rows_in_flight: bound for each stage. stop_worker: called with an error after which no row can succeed until a
    person changes something.
    """

    publisher: Publisher
    writer: Writer
    metrics: Metrics
    rows_in_flight: int
    stop_worker: Callable[[Exception], None]


class StageAgent:
    """The agent of one stage.

    Rows are worked on independently of each other: a slow one delays only later ones of its own key, and those only
    when they are published. A row is acknowledged when Kafka has its verdict and ClickHouse its rows, or when the
    dead-letter topic has the message; otherwise it stays unacknowledged and comes again after a restart.
    """

    def __init__(self, pipeline: Pipeline, stage: Stage, operator: Operator, services: Services) -> None:
        self.name = f"{pipeline.name}/{stage.name}"
        self.reads = pipeline.reads(stage)
        self.window = Window(services.rows_in_flight)
        self._pipeline = pipeline
        self._stage = stage
        self._operator = operator
        self._publisher = services.publisher
        self._writer = services.writer
        self._metrics = services.metrics
        self._stop_worker = services.stop_worker
        self._labels = (pipeline.name, stage.name)
        self._history = ThreadHistory(stage.context.messages, stage.context.characters)
        self._repeats = Repeats()
        self._turns = Turns()
        self._tasks: set[asyncio.Task[None]] = set()
        self._metrics.sla.labels(*self._labels).set(pipeline.sla_seconds)
        self._metrics.in_flight.labels(*self._labels).set_function(lambda: self.window.rows)

    async def prepare(self) -> None:
        """Prepare the operator, and keep its prompt so that verdicts can be traced to its words.

        Raises EngineMisconfigured.
        """
        scorer = self._operator.scorer
        await scorer.prepare()
        await self._writer.write(
            [
                PromptRow(
                    prompt_hash=scorer.prompt_hash,
                    model=scorer.model,
                    pipeline=self._pipeline.name,
                    pipeline_version=self._pipeline.version,
                    stage=self._stage.name,
                    operator=self._stage.judge.operator,
                    labels=scorer.labels,
                    text=scorer.prompt_text,
                    used_at=datetime.now(UTC),
                )
            ]
        )
        log.info("%s: prompt %s", self.name, scorer.prompt_hash)

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent."""
        async for delivery in stream.noack().events():
            await self.window.enter()
            self._metrics.received.labels(*self._labels).inc()
            task = asyncio.create_task(self._work(delivery, self._job(delivery.message)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """Give up the rows in flight. They stay unacknowledged."""
        for task in self._tasks:
            task.cancel()

    def _job(self, message: KafkaMessage) -> Coroutine[Any, Any, None]:
        """What is to be done with a message. Called in the order of the topic, so that history and turns are right."""
        try:
            event = decode(message)
        except DeadLetter as error:
            return self._dead_letter(message, error)
        return self._process(message, event, self._history.enter(event), self._turns.take(message.key))

    async def _work(self, delivery: Any, job: Coroutine[Any, Any, None]) -> None:
        started = time.perf_counter()
        try:
            await job
            delivery.ack()
            self._metrics.stage_duration.labels(*self._labels).observe(time.perf_counter() - started)
        except (EngineMisconfigured, WorkerMisconfigured) as error:
            self._stop_worker(error)
        finally:
            await self.window.leave()

    async def _process(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        try:
            if not await self._repeats.first(event.identity):
                self._metrics.repeated.labels(*self._labels).inc()
                return
            try:
                await self._judge(event, earlier, turn)
                self._repeats.finish(event.identity)
            finally:
                self._repeats.give_up(event.identity)
        except (EngineMisconfigured, WorkerMisconfigured):
            raise
        except Exception as error:  # noqa: BLE001  a row that cannot be processed must not stop the others
            await self._dead_letter(message, _as_dead_letter(error))
        finally:
            turn.end()

    async def _judge(self, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        judgement = await self._operator.judge(Passage(event.text, [message.text for message in earlier]))
        judged_at = datetime.now(UTC)
        context = earlier if judgement.context_read else ()
        verdict = verdict_of(self._pipeline, self._stage, event, context, judgement, judged_at)
        self._count(judgement)
        await asyncio.gather(
            self._publish(event, verdict, turn),
            self._writer.write(rows_of(event, context, judgement, verdict)),
        )

    async def _publish(self, event: Event, verdict: records.Verdict, turn: Turn) -> None:
        headers = cloudevents.headers(
            id=verdict.row_id,
            source=f"/weir/{self.name}",
            type=records.VERDICT_TYPE,
            time=verdict.judged_at,
            subject=event.event_id,
            extra={"traceparent": event.traceparent} if event.traceparent else {},
        )
        async with turn:
            await self._publisher.send(self._stage.writes, event.key, verdict.encode(), headers)
        now = datetime.now(UTC)
        self._metrics.verdicts.labels(*self._labels, verdict.decision).inc()
        self._metrics.event_latency.labels(*self._labels).observe((now - event.event_time).total_seconds())
        self._metrics.broker_latency.labels(*self._labels).observe((now - event.broker_time).total_seconds())

    async def _dead_letter(self, message: KafkaMessage, error: DeadLetter) -> None:
        """Send the message as it came, with the reason beside it."""
        reason = {
            "weir_dlq_reason": error.reason,
            "weir_dlq_detail": error.detail,
            "weir_dlq_topic": message.topic,
            "weir_dlq_partition": str(message.partition),
            "weir_dlq_offset": str(message.offset),
            "weir_dlq_pipeline": self.name,
            "weir_dlq_time": cloudevents.rfc3339(datetime.now(UTC)),
        }
        headers = [*(message.headers or ()), *((name, value.encode()) for name, value in reason.items())]
        await self._publisher.send(dead_letters(message.topic), message.key, message.value, headers)
        self._metrics.dead_letters.labels(*self._labels, error.reason).inc()
        log.warning("%s[%d]@%d: dead letter: %s", message.topic, message.partition, message.offset, error)

    def _count(self, judgement: Judgement) -> None:
        model = (*self._labels, judgement.model)
        for call in judgement.calls:
            self._metrics.operation_duration.labels(*model).observe(call.seconds)
            self._metrics.token_usage.labels(*model, "input").observe(call.usage.input_tokens)
            self._metrics.token_usage.labels(*model, "output").observe(call.usage.output_tokens)
        self._metrics.cached_tokens.labels(*self._labels).inc(judgement.usage.cached_tokens)
        self._metrics.cost.labels(*self._labels).inc(judgement.cost_usd)
        self._metrics.parts.labels(*self._labels).inc(judgement.parts)


def _as_dead_letter(error: Exception) -> DeadLetter:
    if isinstance(error, PromptRejected):
        return DeadLetter(Reason.PROMPT_REJECTED, str(error))
    if isinstance(error, RowRejected):
        return DeadLetter(Reason.ROW_REJECTED, str(error))
    log.error("a row failed in a way that nobody foresaw", exc_info=error)
    return DeadLetter(Reason.INTERNAL_ERROR, f"{type(error).__name__} in the worker; its log has the traceback")
