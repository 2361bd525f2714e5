"""A stage that asks a model: judge a message, publish the verdict, store the rows, and only then acknowledge."""

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from faust.types import TP
from msgspec import structs
from prometheus_client import Histogram

from inference.engine import Caller
from inference.judgement import Judgement, Passage
from inference.operators import Operator
from inference.prior import prior_judgement
from sinks.documents import Document
from sinks.judged import StoredVerdict
from sinks.rows import AnyRow, PromptRow
from streams import cloudevents, deferral, records
from streams.admission import PAST_LIMIT, Admission
from streams.agent import Services, TextAgent
from streams.budgets import BudgetSpent
from streams.cloudevents import Headers
from streams.decode import Event, KafkaMessage, size_of
from streams.deferral import Deferral
from streams.errors import Fate, WorkerMisconfigured, dead_letter_of, fate_of
from streams.escalation import escalation_of
from streams.history import Earlier, ThreadHistory
from streams.kafka import MAX_MESSAGE_BYTES
from streams.origin import origin_of
from streams.pipeline import Escalate, Pipeline, Stage, seconds_of
from streams.recall import Recall
from streams.redact import redactor_of
from streams.reuse import Reuse, Reused, key_of
from streams.topics import deferred
from streams.verdicts import rows_of, verdict_from_store, verdict_of, verdict_row_id
from streams.window import Repeats, Turn, Window

if TYPE_CHECKING:
    from streams.cascade import Cascade, Screened

log = logging.getLogger(__name__)

# The store may drop a row of older events for its age at once; whether it did must be known before anybody reads a
# verdict.
_RECENT = timedelta(days=1)
# From this part of the SLA on a row goes before those that have more time.
_URGENT = 0.75
_LOOK_AGAIN_SECONDS = 1.0
_RERUN = "rerun"


class _KeepsVerdict(Exception):
    """The row is to be judged anew and may not be now: a verdict without the model is no better than the one it has."""


class JudgeAgent(TextAgent):
    """The agent of a stage that asks a model.

    A slow row delays only later ones of its own key, and those only when they are published. A verdict goes to Kafka
    and to ClickHouse at the same time, and its row is done when both have it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stage: Stage,
        operator: Operator,
        admission: Admission,
        services: Services,
        cascade: "Cascade | None" = None,
    ) -> None:
        super().__init__(
            pipeline.name,
            stage.name,
            pipeline.reads(stage),
            services,
            pipeline.sla_seconds,
            redactor_of(pipeline),
        )
        self.defers = pipeline.limits.defers
        self.deferred_window = Window(services.rows_in_flight)
        self._rows_in_flight = services.rows_in_flight
        self._admission = admission
        self._usage = services.usage
        self._pipeline = pipeline
        self._stage = stage
        self._operator = operator
        assert stage.judge is not None
        self._settings = stage.judge
        if unknown := set(stage.escalate.decisions if stage.escalate else ()) - set(operator.decisions):
            raise WorkerMisconfigured(
                f"{self.name}: escalate names the decisions {', '.join(sorted(unknown))}; "
                f"{stage.task} decides {', '.join(operator.decisions)}"
            )
        self.cascade = cascade
        self._judged = services.judged
        self._documents = services.documents
        self._wait = seconds_of(pipeline.documents.wait) if pipeline.documents else None
        self._history = ThreadHistory(stage.context.messages, stage.context.characters)
        self._reuse = Reuse(seconds_of(stage.reuse.window))
        self._recall = Recall(
            lambda tp, offset: self._judged.known(pipeline.name, stage.name, tp.topic, tp.partition, offset)
        )
        self._repeats = Repeats()
        # Looked up once: a row is counted in each of them.
        self._rerun = self._metrics.rerun.labels(*self._labels)
        self._event_latency = self._metrics.event_latency.labels(*self._labels)
        self._broker_latency = self._metrics.broker_latency.labels(*self._labels)
        self._cached_tokens = self._metrics.cached_tokens.labels(*self._labels)
        self._parts = self._metrics.parts.labels(*self._labels)
        self._of_model = cache(self._metrics_of_model)
        self._verdicts = cache(partial(self._metrics.verdicts.labels, *self._labels))
        self._cost = cache(partial(self._metrics.cost.labels, *self._labels))

    @property
    def windows(self) -> Sequence[Window]:
        return [self.window, self.deferred_window]

    async def prepare(self) -> None:
        """Prepare the operator, and keep its prompt so that verdicts can be traced to its words.

        Raises EngineMisconfigured.
        """
        await self._operator.prepare()
        identity = self._operator.identity
        if self.cascade is not None:
            self.cascade.prepare(identity)
        await self._writer.write(
            [
                PromptRow(
                    prompt_hash=identity.prompt_hash,
                    model=identity.model,
                    pipeline=self._pipeline.name,
                    pipeline_version=self._pipeline.version,
                    stage=self._stage.name,
                    operator=self._stage.task,
                    labels=list(identity.labels),
                    text=identity.prompt_text,
                    used_at=datetime.now(UTC),
                    prompt_version=self._stage.prompt,
                )
            ]
        )
        log.info("%s: prompt %s", self.name, identity.prompt_hash)

    async def take_deferred(self, delivery: Any) -> None:
        """Begin to work on a row that waited for this day; waits while there is no room for it."""
        await self._take(delivery, self.deferred_window)

    async def deferred_done(self) -> None:
        """Return when no row that waited is in flight."""
        await self.deferred_window.empty()

    def forget(self, rows: Collection[int]) -> None:
        """These rows were erased: their words are no context any more, and what was said of them is not reused."""
        self._history.forget(rows)
        self._reuse.forget(rows)

    def assigned(self, partitions: set[TP]) -> None:
        """These partitions come to this worker."""
        self._recall.assigned(tp for tp in partitions if tp.topic == self.reads)

    def _begin(self, message: KafkaMessage, event: Event, turn: Turn) -> Coroutine[Any, Any, None]:
        return self._once(message, event, self._earlier(event), turn)

    def _earlier(self, event: Event) -> Sequence[Earlier]:
        """What was said before an event: what was read with it when it was judged first, if it is judged anew."""
        if event.rerun is None:
            return self._history.enter(event)
        return [Earlier(row, 0, text) for row, text in event.rerun.read_with]

    async def _once(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        identity = event.identity if event.rerun is None else (_RERUN, event.row_id)
        if await self._repeats.first(identity):
            try:
                await self._finish(message, event, earlier, turn)
            except BudgetSpent:
                self._repeats.give_up(identity)  # before it can come back
                await self._defer(message, turn)
            except _KeepsVerdict:
                self._repeats.give_up(identity)
                self.sla.leave(id(message))
            except Exception as error:
                if fate_of(error) is not Fate.DEAD_LETTER:
                    raise
                await self._dead_letter(message, dead_letter_of(error))
                self._repeats.give_up(identity)
            else:
                if event.rerun is None:
                    self._repeats.finish(identity)
                else:
                    self._repeats.give_up(identity)  # only the store knows whether it is to be judged once more
                self._dead_letters.passed()
        else:
            self.sla.leave(id(message))
            self._metrics.repeated.labels(*self._labels).inc()
        turn.end()

    async def _finish(self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], turn: Turn) -> None:
        """Whatever is left to do for an event: all of it, only the verdict, or nothing."""
        row_id = verdict_row_id(self._pipeline, self._stage, event)
        stored = await self._find(message, event, row_id)
        if stored is not None and not self._is_place_of(stored, event):
            # The same event, published twice: its verdict is for the message that was judged.
            self.sla.leave(id(message))
            self._metrics.repeated.labels(*self._labels).inc()
        elif stored is not None and self._is_current(stored):
            self._metrics.recalled.labels(*self._labels).inc()
            await self._publish(event, verdict_from_store(stored, event), turn)
        else:
            with self._tracing.judge(self._stage.task, row_id) as span:
                judgement, verdict, rows = await self._judge(message, event, earlier, row_id)
                span.judged(verdict)
            if self._erased.holds(event):  # while the model judged it
                self._metrics.erased.labels(*self._labels).inc()
                self.sla.leave(id(message))
                return
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
        if (row.pipeline_version, row.prompt_hash) != (self._pipeline.version, identity.prompt_hash):
            return False
        return (row.model == identity.model or row.tier == "screen") and bool(stored.labels)

    async def _judge(
        self, message: KafkaMessage, event: Event, earlier: Sequence[Earlier], row_id: int
    ) -> tuple[Judgement, records.Verdict, list[AnyRow]]:
        """The judgement, the verdict, and the rows that the store is to have. Raises BudgetSpent if the row waits."""
        caller = self._caller(message, event)
        documents = await self._read_documents(event)
        passage = Passage(
            event.text,
            [*event.context, *(entry.text for entry in earlier)],
            self._stage.context.tokens,
            "\n\n".join(document.text for document in documents),
            caller,
        )
        screened = await self._screen(self.cascade, row_id, event) if self.cascade else None
        shared = event.tenant not in self._stage.reuse.except_tenants
        key = key_of(event.tenant, passage.text, [passage.document, *passage.context]) if shared else None
        try:
            found = self._reuse.known(key, row_id)
            if found is None and screened is not None and screened.judgement is not None:
                found = Reused(screened.judgement, None)
            found = found or await self._judge_anew(key, row_id, passage)
        except PAST_LIMIT as past:
            if isinstance(past, BudgetSpent) and self._may_wait(message, event.tenant):
                raise
            if event.rerun is not None:
                raise _KeepsVerdict from past
            self._metrics.by_prior.labels(*self._labels, past.reason).inc()
            found = Reused(prior_judgement(self._settings, self._operator.identity), None)
        judgement = found.judgement
        if screened is not None and judgement.screening is None:
            # Known of the same text, or by the prior: not what the screen would have said.
            judgement = structs.replace(judgement, screening=structs.replace(screened.screening, tier="model"))
        own = len(event.context)
        context = [earlier[index - own] for index in judgement.context_read if index >= own]
        verdict = verdict_of(
            self._pipeline,
            self._stage,
            event,
            row_id,
            context,
            documents,
            judgement,
            datetime.now(UTC),
            reused_from=found.row_id,
            began=event.event_time if event.rerun is None else event.rerun.asked,
        )
        self._count(judgement, event.tenant)
        if found.row_id is not None:
            self._metrics.reused.labels(*self._labels).inc()
        return judgement, verdict, rows_of(event, context, documents, judgement, verdict, row_id)

    async def _screen(self, cascade: "Cascade", row_id: int, event: Event) -> "Screened":
        with self._tracing.screen() as span:
            screened = await cascade.screen(row_id, event.text)
            span.screened(screened.screening)
            return screened

    async def _read_documents(self, event: Event) -> list[Document]:
        """The documents that the event names, as they were when it happened; those that are not there are left out."""
        if not event.documents or self._wait is None:
            return []
        patience = event.broker_time + timedelta(seconds=self._wait)
        found = await asyncio.gather(*(self._read_document(event, name, patience) for name in event.documents))
        return [document for document in found if document is not None and not document.withdrawn]

    async def _read_document(self, event: Event, name: str, patience: datetime) -> Document | None:
        while (found := await self._documents.find(event.tenant, name, event.event_time)) is None:
            if datetime.now(UTC) >= patience:
                return None
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return found

    async def _judge_anew(self, key: bytes | None, row_id: int, passage: Passage) -> Reused:
        """Ask the model, or wait for another row that asks it the same. Raises BudgetSpent, RateExceeded."""
        tenant, judge = passage.caller.tenant, partial(self._operator.judge, passage)
        with self._admission.row(tenant, self._rows_in_flight):
            return await self._reuse.judge(key, row_id, partial(self._admission.ask, tenant, judge))

    def _caller(self, message: KafkaMessage, event: Event) -> Caller:
        """Who asks, and from when on in a hurry."""
        passed = (datetime.now(UTC) - self._began(message, event)).total_seconds()
        return Caller(event.tenant, time.monotonic() + _URGENT * self._pipeline.sla_seconds - passed)

    def _began(self, message: KafkaMessage, event: Event) -> datetime:
        """A row that waited for this day, or that is judged anew, has all the time again."""
        began = event.event_time if event.rerun is None else max(event.event_time, event.rerun.asked)
        if message.topic == self.reads or message.topic != deferred(event.topic):
            return began
        waited = deferral.read(message.headers)
        return began if waited is None else max(began, waited.until)

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
        self.sla.leave(id(message))
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
        headers = self._headers(event, verdict, records.VERDICT_TYPE, event.event_id)
        await turn.come()
        await self._publisher.send(self._stage.writes, event.key, verdict.encode(), headers)
        if self._stage.escalate is not None and verdict.decision in self._stage.escalate.decisions:
            await self._escalate(self._stage.escalate, event, verdict)
        turn.end()  # the next verdict of the key need not wait until the store has this one
        now = datetime.now(UTC)
        self._verdicts(verdict.decision).inc()
        if event.rerun is not None:
            self._rerun.inc()
        else:
            self._event_latency.observe((now - event.event_time).total_seconds())
            self._broker_latency.observe((now - event.broker_time).total_seconds())

    async def _escalate(self, escalate: Escalate, event: Event, verdict: records.Verdict) -> None:
        headers = self._headers(event, verdict, records.ESCALATION_TYPE, event.thread)
        await self._publisher.send(escalate.writes, event.key, escalation_of(verdict, event).encode(), headers)
        self._metrics.escalated.labels(*self._labels, verdict.decision).inc()

    def _headers(self, event: Event, verdict: records.Verdict, type: str, subject: str) -> Headers:
        return cloudevents.headers(
            id=verdict.row_id,
            source=f"/weir/{self.name}",
            type=type,
            time=verdict.judged_at,
            subject=subject,
            extra={"traceparent": event.traceparent} if event.traceparent else {},
        )

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
