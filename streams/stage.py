"""One stage: take a message, judge it, publish the verdict, store the rows, and only then acknowledge."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from inference.judgement import Judgement, Passage
from inference.operators import Operator
from sinks.judged import Judged, StoredVerdict
from sinks.rows import PromptRow
from sinks.writer import Writer
from streams import cloudevents, dlq, records
from streams.decode import Event, KafkaMessage, decode, size_of
from streams.errors import DeadLetter, Fate, WorkerMisconfigured, dead_letter_of, fate_of
from streams.history import Earlier, ThreadHistory
from streams.limit import DeadLetterLimit
from streams.metrics import Metrics
from streams.pipeline import Pipeline, Stage, seconds_of
from streams.publisher import Publisher
from streams.reuse import Reuse, key_of
from streams.topics import dead_letters
from streams.verdicts import rows_of, verdict_from_store, verdict_of, verdict_row_id
from streams.window import Repeats, Turn, Turns, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What all stages of a worker share.

    rows_in_flight: bound for each stage. dead_letters: bound for all stages together. stop_worker: called with an
    error after which no row can succeed until a person changes something.
    """

    publisher: Publisher
    writer: Writer
    judged: Judged
    metrics: Metrics
    dead_letters: DeadLetterLimit
    rows_in_flight: int
    stop_worker: Callable[[Exception], None]


class StageAgent:
    """The agent of one stage.

    Rows are worked on independently of each other: a slow one delays only later ones of its own key, and those only
    when they are published. A row goes to ClickHouse first and to Kafka then, so that a verdict that anybody can read
    can be traced, and so that the store knows every judgement that was made. A row is acknowledged when both have it,
    or when the dead-letter topic has the message; otherwise it stays unacknowledged and comes again after a restart.
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
        self._judged = services.judged
        self._dead_letters = services.dead_letters
        self._metrics = services.metrics
        self._stop_worker = services.stop_worker
        self._labels = (pipeline.name, stage.name)
        self._history = ThreadHistory(stage.context.messages, stage.context.characters)
        self._reuse = Reuse(seconds_of(stage.reuse.window))
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
            size = size_of(delivery.message)
            await self.window.enter(size)
            self._metrics.received.labels(*self._labels).inc()
            task = asyncio.create_task(self._work(delivery, size, self._job(delivery.message)))
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
        except Exception as error:  # noqa: BLE001  no message may end the agent
            return self._dead_letter(message, dead_letter_of(error))
        return self._process(message, event, self._history.enter(event), self._turns.take(message.key))

    async def _work(self, delivery: Any, size: int, job: Coroutine[Any, Any, None]) -> None:
        started = time.perf_counter()
        try:
            await job
            delivery.ack()
            self._metrics.stage_duration.labels(*self._labels).observe(time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001  whatever it is, the row stays unacknowledged
            self._stop_worker(error)
        finally:
            await self.window.leave(size)

    async def _process(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        if await self._repeats.first(event.identity):
            try:
                await self._finish(event, earlier, turn)
            except Exception as error:
                if fate_of(error) is not Fate.DEAD_LETTER:
                    raise
                await self._dead_letter(message, dead_letter_of(error))
                self._repeats.give_up(event.identity)
            else:
                self._repeats.finish(event.identity)
                self._dead_letters.passed()
        else:
            self._metrics.repeated.labels(*self._labels).inc()
        turn.end()

    async def _finish(self, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        """Whatever is left to do for an event: all of it, only the verdict, or nothing."""
        row_id = verdict_row_id(self._pipeline, self._stage, event)
        stored = await self._judged.find(self._pipeline.name, self._stage.name, row_id)
        if stored is not None and not self._is_place_of(stored, event):
            # The same event, published twice: its verdict is for the message that was judged.
            self._metrics.repeated.labels(*self._labels).inc()
        elif stored is not None and self._is_current(stored):
            self._metrics.recalled.labels(*self._labels).inc()
            await self._publish(event, verdict_from_store(stored, event), turn)
        else:
            await self._publish(event, await self._judge(event, earlier, row_id), turn)

    def _is_place_of(self, stored: StoredVerdict, event: Event) -> bool:
        row = stored.row
        return (row.topic, row.partition, row.offset) == (event.topic, event.partition, event.offset)

    def _is_current(self, stored: StoredVerdict) -> bool:
        """Whether the verdict is what this stage would say, and not what an earlier version of it said."""
        row, scorer = stored.row, self._operator.scorer
        then = (row.pipeline_version, row.prompt_hash, row.model)
        return then == (self._pipeline.version, scorer.prompt_hash, scorer.model) and bool(stored.labels)

    async def _judge(self, event: Event, earlier: Sequence[Earlier], row_id: int) -> records.Verdict:
        """The verdict, with its rows in the store."""
        passage = Passage(event.text, [message.text for message in earlier])
        shared = event.tenant not in self._stage.reuse.except_tenants
        key = key_of(event.tenant, passage.text, passage.context) if shared else None
        found = await self._reuse.judge(key, row_id, lambda: self._operator.judge(passage))
        judgement = found.judgement
        context = earlier if judgement.context_read else ()
        verdict = verdict_of(
            self._pipeline, self._stage, event, context, judgement, datetime.now(UTC), reused_from=found.row_id
        )
        self._count(judgement)
        if found.row_id is not None:
            self._metrics.reused.labels(*self._labels).inc()
        await self._writer.write(rows_of(event, context, judgement, verdict))
        return verdict

    async def _publish(self, event: Event, verdict: records.Verdict, turn: Turn) -> None:
        headers = cloudevents.headers(
            id=verdict.row_id,
            source=f"/weir/{self.name}",
            type=records.VERDICT_TYPE,
            time=verdict.judged_at,
            subject=event.event_id,
            extra={"traceparent": event.traceparent} if event.traceparent else {},
        )
        await turn.come()
        await self._publisher.send(self._stage.writes, event.key, verdict.encode(), headers)
        now = datetime.now(UTC)
        self._metrics.verdicts.labels(*self._labels, verdict.decision).inc()
        self._metrics.event_latency.labels(*self._labels).observe((now - event.event_time).total_seconds())
        self._metrics.broker_latency.labels(*self._labels).observe((now - event.broker_time).total_seconds())

    async def _dead_letter(self, message: KafkaMessage, error: DeadLetter) -> None:
        """Send the message as it came, with the reason beside it. Raises WorkerMisconfigured if that were too many."""
        if not self._dead_letters.admits():
            raise WorkerMisconfigured(
                "too large a share of the last rows would be dead letters (WEIR_DEAD_LETTER_SHARE); the last reason: "
                f"{error}. Is it the right pipeline file, model and topic? Nothing was lost: rows in flight come again"
            )
        letter = dlq.letter(message, error, self.name, datetime.now(UTC))
        await self._publisher.send(dead_letters(message.topic), letter.key, letter.value, letter.headers)
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
