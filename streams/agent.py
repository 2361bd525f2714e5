"""What all agents of a worker have in common: rows in flight, each acknowledged when nothing is left to do for it."""

import asyncio
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from faust.types import TP

from sinks.documents import Documents
from sinks.judged import Judged
from sinks.writer import Writer
from streams import dlq
from streams.decode import Event, KafkaMessage, decode, size_of
from streams.erased import Erased
from streams.errors import DeadLetter, Fate, WorkerMisconfigured, dead_letter_of, fate_of
from streams.limit import DeadLetterLimit
from streams.metrics import Metrics
from streams.origin import origin_of
from streams.publisher import Publisher
from streams.redact import Redactor
from streams.sla import StageSla, watched
from streams.topics import dead_letters
from streams.tracing import UNTRACED, Tracing
from streams.usage import UsageLedger
from streams.window import Turn, Turns, Window

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What all agents of a worker share.

    rows_in_flight: bound for each agent. dead_letters: bound for all agents together. stop_worker: called with an error
    after which no row can succeed until a person changes something.
    """

    publisher: Publisher
    writer: Writer
    judged: Judged
    documents: Documents
    metrics: Metrics
    usage: UsageLedger
    erased: Erased
    dead_letters: DeadLetterLimit
    rows_in_flight: int
    stop_worker: Callable[[Exception], None]
    tracing: Tracing = UNTRACED


class Agent(ABC):
    """The agent of one topic.

    Rows are worked on independently of each other. A message is acknowledged when its row is done, or when the
    dead-letter topic has the message; otherwise it stays unacknowledged and comes again after a restart.
    """

    def __init__(
        self, pipeline: str, stage: str, reads: str, services: Services, sla_seconds: float | None = None
    ) -> None:
        """pipeline, stage: names. reads: the topic. sla_seconds: from event to finished row; None for no SLA."""
        self.name = f"{pipeline}/{stage}"
        self.reads = reads
        # Of each topic and partition: the offset after the last message that was taken.
        self.position: dict[tuple[str, int], int] = {}
        if sla_seconds is None:
            self.sla = StageSla(math.inf)
        else:
            self.sla = watched(pipeline, stage, sla_seconds, services.metrics)
        self.window = Window(services.rows_in_flight)
        self._labels = (pipeline, stage)
        self._turns = Turns()
        self._publisher = services.publisher
        self._writer = services.writer
        self._metrics = services.metrics
        self._erased = services.erased
        self._dead_letters = services.dead_letters
        self._stop_worker = services.stop_worker
        self._tracing = services.tracing
        self._tasks: set[asyncio.Task[None]] = set()
        # Looked up once: a row is counted in each of them.
        self._received = self._metrics.received.labels(*self._labels)
        self._stage_duration = self._metrics.stage_duration.labels(*self._labels)
        self._metrics.in_flight.labels(*self._labels).set_function(lambda: sum(window.rows for window in self.windows))

    @property
    def windows(self) -> Sequence[Window]:
        """What rows in flight are in."""
        return [self.window]

    async def prepare(self) -> None:  # noqa: B027  most agents need nothing
        """What must be done before the first message. Raises what stops the worker or may succeed later."""

    @abstractmethod
    def _job(self, message: KafkaMessage) -> Coroutine[Any, Any, None]:
        """What is to be done with a message. Called in the order of the topic, so that turns are right.

        What the coroutine raises stops the worker; see `_settle`.
        """

    async def run(self, stream: Any) -> None:
        """The body of the Faust agent.

        Events are taken from the stream's channel: they are acknowledged when a row is done, not when the next one is
        asked for, and what the stream itself would count is counted here.
        """
        async for delivery in stream.channel:
            await self._take(delivery, self.window)
            message = delivery.message
            self.position[message.topic, message.partition] = message.offset + 1

    def assigned(self, partitions: set[TP]) -> None:  # noqa: B027  most agents remember nothing of a partition
        """These partitions are this worker's, of all topics that it reads; others are not, or not any more."""

    def forget(self, rows: Collection[int]) -> None:  # noqa: B027  most agents remember no words
        """These rows were erased: keep nothing of their words in memory."""

    def cancel(self) -> None:
        """Give up the rows in flight. They stay unacknowledged."""
        for task in self._tasks:
            task.cancel()

    async def _take(self, delivery: Any, window: Window) -> None:
        size = size_of(delivery.message)
        await window.enter(size)
        self._received.inc()
        job = self._tracing.process(delivery.message, self.name, self._job(delivery.message))
        self._start(self._work(delivery, size, job, window))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, message: KafkaMessage, turn: Turn, work: Awaitable[None]) -> None:
        """Do the work for a row; what fails for this row alone makes it a dead letter."""
        try:
            await work
        except Exception as error:
            if fate_of(error) is not Fate.DEAD_LETTER:
                raise
            await self._dead_letter(message, dead_letter_of(error))
        else:
            self._dead_letters.passed()
        turn.end()

    async def _work(self, delivery: Any, size: int, job: Coroutine[Any, Any, None], window: Window) -> None:
        started = time.perf_counter()
        try:
            await job
            delivery.ack()
            self.sla.finish(id(delivery.message))
            self._stage_duration.observe(time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001  whatever it is, the row stays unacknowledged
            self.sla.leave(id(delivery.message))
            self._stop_worker(error)
        finally:
            window.leave(size)

    async def _dead_letter(self, message: KafkaMessage, error: DeadLetter) -> None:
        """Send the message as it came, with the reason beside it. Raises WorkerMisconfigured if that were too many."""
        if not self._dead_letters.admits():
            raise WorkerMisconfigured(
                "too large a share of the last rows would be dead letters (WEIR_DEAD_LETTER_SHARE); the last reason: "
                f"{error}. Is it the right pipeline file, model and topic? Nothing was lost: rows in flight come again"
            )
        letter = dlq.letter(message, error, self.name, datetime.now(UTC))
        await self._publisher.send(dead_letters(origin_of(message).topic), letter.key, letter.value, letter.headers)
        self.sla.leave(id(message))
        self._tracing.dead_letter(error.reason)
        self._metrics.dead_letters.labels(*self._labels, error.reason).inc()
        log.warning("%s[%d]@%d: dead letter: %s", message.topic, message.partition, message.offset, error)


class TextAgent(Agent):
    """The agent of a topic of texts."""

    def __init__(
        self,
        pipeline: str,
        stage: str,
        reads: str,
        services: Services,
        sla_seconds: float | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """redactor: takes from words what neither model nor store may have."""
        super().__init__(pipeline, stage, reads, services, sla_seconds)
        self._redactor = redactor

    @abstractmethod
    def _begin(self, message: KafkaMessage, event: Event, turn: Turn) -> Coroutine[Any, Any, None]:
        """What is to be done with a valid message. turn: to be ended when it is done.

        Called in the order of the topic. What it raises stops the worker; see `_settle`.
        """

    def _job(self, message: KafkaMessage) -> Coroutine[Any, Any, None]:
        try:
            event = self._redacted(decode(message))
        except Exception as error:  # noqa: BLE001  no message may end the agent
            return self._dead_letter(message, dead_letter_of(error))
        if event.rerun is not None and event.rerun.stage != self.name:
            return _pass_over()
        if self._erased.holds(event):
            self._metrics.erased.labels(*self._labels).inc()
            return _pass_over()
        self.sla.take(id(message), self._began(message, event).timestamp(), message.timestamp)
        return self._begin(message, event, self._turns.take(message.key))

    def _redacted(self, event: Event) -> Event:
        if self._redactor is None:
            return event
        counts: Counter[str] = Counter()
        event = self._redactor.event(event, counts)
        for kind, count in counts.items():
            self._metrics.redacted.labels(*self._labels, kind).inc(count)
        return event

    def _began(self, message: KafkaMessage, event: Event) -> datetime:
        """From when on the SLA counts for a message."""
        return event.event_time


async def _pass_over() -> None:
    """Another stage is to judge the message anew, and this one has done so; or the message was erased."""
