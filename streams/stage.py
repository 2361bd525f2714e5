"""One stage: take a message, judge it, publish the verdict, store the rows, and only then acknowledge."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

from faust.types import TP
from prometheus_client import Histogram

from inference.engine import Caller
from inference.judgement import Judgement, Passage
from inference.operators import Operator
from inference.prior import prior_judgement
from sinks.judged import Judged, StoredVerdict
from sinks.rows import AnyRow, PromptRow
from sinks.writer import Writer
from streams import cloudevents, deferral, dlq, records
from streams.admission import PAST_LIMIT, Admission
from streams.budgets import BudgetSpent
from streams.decode import Event, KafkaMessage, decode, size_of
from streams.deferral import Deferral
from streams.errors import DeadLetter, Fate, WorkerMisconfigured, dead_letter_of, fate_of
from streams.history import Earlier, ThreadHistory
from streams.kafka import MAX_MESSAGE_BYTES
from streams.limit import DeadLetterLimit
from streams.metrics import Metrics
from streams.origin import origin_of
from streams.pipeline import Pipeline, Stage, seconds_of
from streams.publisher import Publisher
from streams.recall import Recall
from streams.reuse import Reuse, Reused, key_of
from streams.topics import dead_letters, deferred
from streams.usage import UsageLedger
from streams.verdicts import rows_of, verdict_from_store, verdict_of, verdict_row_id
from streams.window import Repeats, Turn, Turns, Window

log = logging.getLogger(__name__)

# The store may drop a row of older events for its age at once; whether it did must be known before anybody reads a
# verdict.
_RECENT = timedelta(days=1)
# From this part of the SLA on a row goes before those that have more time.
_URGENT = 0.75


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
    usage: UsageLedger
    dead_letters: DeadLetterLimit
    rows_in_flight: int
    stop_worker: Callable[[Exception], None]


class StageAgent:
    """The agent of one stage.

    Rows are worked on independently of each other: a slow one delays only later ones of its own key, and those only
    when they are published. A verdict goes to Kafka and to ClickHouse at the same time. Its message is acknowledged
    when both have it, or when the dead-letter topic has the message; otherwise it stays unacknowledged and comes again
    after a restart.
    """

    def __init__(
        self, pipeline: Pipeline, stage: Stage, operator: Operator, admission: Admission, services: Services
    ) -> None:
        self.name = f"{pipeline.name}/{stage.name}"
        self.reads = pipeline.reads(stage)
        self.defers = pipeline.limits.defers
        self.window = Window(services.rows_in_flight)
        self.deferred_window = Window(services.rows_in_flight)
        self._rows_in_flight = services.rows_in_flight
        self._admission = admission
        self._usage = services.usage
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
        self._recall = Recall(
            lambda tp, offset: self._judged.known(pipeline.name, stage.name, tp.topic, tp.partition, offset)
        )
        self._repeats = Repeats()
        self._turns = Turns()
        self._tasks: set[asyncio.Task[None]] = set()
        # Looked up once: a row is counted in each of them.
        self._received = self._metrics.received.labels(*self._labels)
        self._stage_duration = self._metrics.stage_duration.labels(*self._labels)
        self._event_latency = self._metrics.event_latency.labels(*self._labels)
        self._broker_latency = self._metrics.broker_latency.labels(*self._labels)
        self._cached_tokens = self._metrics.cached_tokens.labels(*self._labels)
        self._parts = self._metrics.parts.labels(*self._labels)
        self._of_model = cache(self._metrics_of_model)
        self._verdicts = cache(partial(self._metrics.verdicts.labels, *self._labels))
        self._cost = cache(partial(self._metrics.cost.labels, *self._labels))
        self._metrics.sla.labels(*self._labels).set(pipeline.sla_seconds)
        self._metrics.in_flight.labels(*self._labels).set_function(lambda: self.window.rows + self.deferred_window.rows)

    async def prepare(self) -> None:
        """Prepare the operator, and keep its prompt so that verdicts can be traced to its words.

        Raises EngineMisconfigured.
        """
        await self._operator.prepare()
        identity = self._operator.identity
        await self._writer.write(
            [
                PromptRow(
                    prompt_hash=identity.prompt_hash,
                    model=identity.model,
                    pipeline=self._pipeline.name,
                    pipeline_version=self._pipeline.version,
                    stage=self._stage.name,
                    operator=self._stage.judge.operator,
                    labels=list(identity.labels),
                    text=identity.prompt_text,
                    used_at=datetime.now(UTC),
                )
            ]
        )
        log.info("%s: prompt %s", self.name, identity.prompt_hash)

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent.

        Events are taken from the stream's channel: they are acknowledged when a row is done, not when the next one is
        asked for, and what the stream itself would count is counted here.
        """
        async for delivery in stream.channel:
            await self._take(delivery, self.window)

    async def take_deferred(self, delivery: Any) -> None:
        """Begin to work on a row that waited for this day; waits while there is no room for it."""
        await self._take(delivery, self.deferred_window)

    async def deferred_done(self) -> None:
        """Return when no row that waited is in flight."""
        await self.deferred_window.empty()

    async def _take(self, delivery: Any, window: Window) -> None:
        size = size_of(delivery.message)
        await window.enter(size)
        self._received.inc()
        task = asyncio.create_task(self._work(delivery, size, self._job(delivery.message), window))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def assigned(self, partitions: set[TP]) -> None:
        """These partitions come to this worker."""
        self._recall.assigned(tp for tp in partitions if tp.topic == self.reads)

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

    async def _work(self, delivery: Any, size: int, job: Coroutine[Any, Any, None], window: Window) -> None:
        started = time.perf_counter()
        try:
            await job
            delivery.ack()
            self._stage_duration.observe(time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001  whatever it is, the row stays unacknowledged
            self._stop_worker(error)
        finally:
            window.leave(size)

    async def _process(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        if await self._repeats.first(event.identity):
            try:
                await self._finish(message, event, earlier, turn)
            except BudgetSpent:
                self._repeats.give_up(event.identity)  # before it can come back
                await self._defer(message, turn)
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

    async def _finish(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        """Whatever is left to do for an event: all of it, only the verdict, or nothing."""
        row_id = verdict_row_id(self._pipeline, self._stage, event)
        stored = await self._find(message, event, row_id)
        if stored is not None and not self._is_place_of(stored, event):
            # The same event, published twice: its verdict is for the message that was judged.
            self._metrics.repeated.labels(*self._labels).inc()
        elif stored is not None and self._is_current(stored):
            self._metrics.recalled.labels(*self._labels).inc()
            await self._publish(event, verdict_from_store(stored, event), turn)
        else:
            judgement, verdict, rows = await self._judge(message, event, earlier, row_id)
            await self._deliver(event, verdict, rows, turn)
            self._usage.judged(*self._labels, event.tenant, judgement)

    async def _find(self, message: KafkaMessage, event: Event, row_id: int) -> StoredVerdict | None:
        delivered = TP(message.topic, message.partition)
        if not await self._recall.may_know(event, delivered, message.offset):
            return None
        return await self._judged.find(self._pipeline.name, self._stage.name, row_id)

    def _is_place_of(self, stored: StoredVerdict, event: Event) -> bool:
        row = stored.row
        return (row.topic, row.partition, row.offset) == (event.topic, event.partition, event.offset)

    def _is_current(self, stored: StoredVerdict) -> bool:
        """Whether the verdict is what this stage would say, and not what an earlier version of it said."""
        row, identity = stored.row, self._operator.identity
        then = (row.pipeline_version, row.prompt_hash, row.model)
        return then == (self._pipeline.version, identity.prompt_hash, identity.model) and bool(stored.labels)

    async def _judge(
        self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], row_id: int
    ) -> tuple[Judgement, records.Verdict, list[AnyRow]]:
        """The judgement, the verdict, and the rows that the store is to have. Raises BudgetSpent if the row waits."""
        caller = self._caller(message, event)
        passage = Passage(event.text, [entry.text for entry in earlier], self._stage.context.tokens, caller=caller)
        shared = event.tenant not in self._stage.reuse.except_tenants
        key = key_of(event.tenant, passage.text, passage.context) if shared else None
        try:
            found = self._reuse.known(key, row_id) or await self._judge_anew(key, row_id, passage)
        except PAST_LIMIT as past:
            if isinstance(past, BudgetSpent) and self._may_wait(message, event.tenant):
                raise
            self._metrics.by_prior.labels(*self._labels, past.reason).inc()
            found = Reused(prior_judgement(self._stage.judge, self._operator.identity), None)
        judgement = found.judgement
        context = [earlier[index] for index in judgement.context_read]
        verdict = verdict_of(
            self._pipeline, self._stage, event, row_id, context, judgement, datetime.now(UTC), reused_from=found.row_id
        )
        self._count(judgement, event.tenant)
        if found.row_id is not None:
            self._metrics.reused.labels(*self._labels).inc()
        return judgement, verdict, rows_of(event, context, judgement, verdict, row_id)

    async def _judge_anew(self, key: bytes | None, row_id: int, passage: Passage) -> Reused:
        """Ask the model, or wait for another row that asks it the same. Raises BudgetSpent, RateExceeded."""
        tenant, judge = passage.caller.tenant, partial(self._operator.judge, passage)
        with self._admission.row(tenant, self._rows_in_flight):
            return await self._reuse.judge(key, row_id, partial(self._admission.ask, tenant, judge))

    def _caller(self, message: KafkaMessage, event: Event) -> Caller:
        """Who asks, and from when on in a hurry. A row that waited for this day has all the time again."""
        began = event.event_time
        if message.topic == deferred(event.topic) and (waited := deferral.read(message.headers)) is not None:
            began = max(began, waited.until)
        passed = (datetime.now(UTC) - began).total_seconds()
        return Caller(event.tenant, time.monotonic() + _URGENT * self._pipeline.sla_seconds - passed)

    def _may_wait(self, message: KafkaMessage, tenant: str) -> bool:
        """Whether a row past its budget waits, unless it is larger than what its topic takes."""
        waits = self._admission.limits.of(tenant).past_budget == "wait"
        return waits and size_of(message) <= MAX_MESSAGE_BYTES

    async def _defer(self, message: KafkaMessage, turn: Turn) -> None:
        """Send the message as it came to where it waits for the next day, behind those of its key."""
        place = origin_of(message)
        headers = deferral.headers(message, Deferral(self.name, self._admission.budgets.day_ends))
        await turn.come()
        await self._publisher.send(deferred(place.topic), message.key, message.value, headers)
        self._metrics.deferred.labels(*self._labels).inc()

    async def _deliver(self, event: Event, verdict: records.Verdict, rows: list[AnyRow], turn: Turn) -> None:
        """Return when Kafka has the verdict and ClickHouse the rows."""
        stored = self._writer.submit(rows)
        try:
            if verdict.judged_at - event.event_time > _RECENT:
                await stored
            await self._publish(event, verdict, turn)
        except BaseException:
            stored.cancel()
            raise
        await stored

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
        turn.end()  # the next verdict of the key need not wait until the store has this one
        now = datetime.now(UTC)
        self._verdicts(verdict.decision).inc()
        self._event_latency.observe((now - event.event_time).total_seconds())
        self._broker_latency.observe((now - event.broker_time).total_seconds())

    async def _dead_letter(self, message: KafkaMessage, error: DeadLetter) -> None:
        """Send the message as it came, with the reason beside it. Raises WorkerMisconfigured if that were too many."""
        if not self._dead_letters.admits():
            raise WorkerMisconfigured(
                "too large a share of the last rows would be dead letters (WEIR_DEAD_LETTER_SHARE); the last reason: "
                f"{error}. Is it the right pipeline file, model and topic? Nothing was lost: rows in flight come again"
            )
        letter = dlq.letter(message, error, self.name, datetime.now(UTC))
        await self._publisher.send(dead_letters(origin_of(message).topic), letter.key, letter.value, letter.headers)
        self._metrics.dead_letters.labels(*self._labels, error.reason).inc()
        log.warning("%s[%d]@%d: dead letter: %s", message.topic, message.partition, message.offset, error)

    def _metrics_of_model(self, model: str) -> tuple[Histogram, Histogram, Histogram]:
        named = (*self._labels, model)
        usage = self._metrics.token_usage
        duration = self._metrics.operation_duration.labels(*named)
        return duration, usage.labels(*named, "input"), usage.labels(*named, "output")

    def _count(self, judgement: Judgement, tenant: str) -> None:
        duration, tokens_in, tokens_out = self._of_model(judgement.model)
        for call in judgement.calls:
            duration.observe(call.seconds)
            tokens_in.observe(call.usage.input_tokens)
            tokens_out.observe(call.usage.output_tokens)
        self._cached_tokens.inc(judgement.usage.cached_tokens)
        shown = self._admission.limits.shown_as(tenant)
        self._cost(shown).inc(judgement.cost_usd)
        self._parts.inc(judgement.parts)
