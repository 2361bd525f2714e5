"""Rows that wait for another day, read when their moment has come."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams import deferral
from streams.decode import KafkaMessage
from streams.kafka import client_options
from streams.patience import persist
from streams.progress import PartitionProgress
from streams.settings import Settings

log = logging.getLogger(__name__)

_POLL_MS = 500
_POLL_RECORDS = 500
_COMMIT_SECONDS = 1.0
_HEARTBEAT_MS = 1000
# A full window stops the reading for as long as the engine needs.
_POLL_INTERVAL_MS = timedelta(days=20).total_seconds() * 1000
# Nobody defers a row for longer, however the clocks differ; a header that says so is not ours.
_LONGEST = timedelta(days=1, hours=1)


class Delivery(Protocol):
    """A message, to be acknowledged when nothing is left to do for it."""

    @property
    def message(self) -> KafkaMessage: ...

    def ack(self) -> None: ...


class DeferringStage(Protocol):
    """What this module needs of a stage."""

    @property
    def name(self) -> str: ...

    async def take_deferred(self, delivery: Delivery) -> None:
        """Begin to work on a row whose moment has come; waits while there is no room for it."""
        ...

    async def deferred_done(self) -> None:
        """Return when no such row is in flight."""
        ...


@dataclass(slots=True)
class _Message:
    """A consumed record as the stages see it: its timestamp is in seconds."""

    topic: str
    partition: int
    offset: int
    timestamp: float | None
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes | None]] | None


@dataclass(frozen=True, slots=True)
class _Delivery:
    message: KafkaMessage
    progress: PartitionProgress

    def ack(self) -> None:
        self.progress.done(self.message.offset, self)


class DeferredReader:
    """Reads the topics of deferred rows, in a consumer group of its own.

    A partition whose next row has to wait is paused and set back to it, so that a day's rows wait in Kafka and not
    here, and hold no other partition back. It is not Faust's consumer, because that has one queue for all topics: rows
    that wait would stop those that need not. Rows of a stage that this worker does not have are passed over.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Mapping[str, Iterable[DeferringStage]],
        on_assign: Callable[[set[TP]], None],
        revoke_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """stages: of each topic. on_assign: told the partitions of this reader. revoke_seconds: how long rows in flight
        have to finish when partitions go.
        """
        self._settings = settings
        self._stages = {topic: {stage.name: stage for stage in those} for topic, those in stages.items()}
        self._on_assign = on_assign
        self._revoke_seconds = revoke_seconds
        self._now = now
        self._progress: dict[TopicPartition, PartitionProgress] = {}
        self._due: dict[TopicPartition, datetime] = {}
        self._assignments = 0  # how often partitions went

    async def run(self) -> None:
        """Read until cancelled. Raises KafkaError, also such as no later attempt would mend."""
        if not self._stages:
            return
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            group_id=f"{self._settings.kafka_group}.deferred",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(self._settings.kafka_session_seconds * 1000),
            heartbeat_interval_ms=_HEARTBEAT_MS,
            max_poll_interval_ms=int(_POLL_INTERVAL_MS),
        )
        consumer.subscribe(list(self._stages), listener=_Rebalance(self, consumer))
        try:
            await persist(consumer.start)
            committed = 0.0
            loop = asyncio.get_running_loop()
            while True:
                self._resume(consumer)
                batch = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
                current = self._assignments
                for partition, records in batch.items():
                    if current == self._assignments:
                        await self._hand_out(consumer, partition, records)
                if loop.time() - committed >= _COMMIT_SECONDS:
                    await self._commit(consumer)
                    committed = loop.time()
        finally:
            await self.revoked(consumer)
            await consumer.stop()

    async def revoked(self, consumer: AIOKafkaConsumer) -> None:
        """Give rows in flight some time, commit what is done, and forget the partitions."""
        self._assignments += 1
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._revoke_seconds):
                for stages in self._stages.values():
                    for stage in stages.values():
                        await stage.deferred_done()
        await self._commit(consumer)
        self._progress.clear()
        self._due.clear()

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are ours now, and no others."""
        self._on_assign({TP(p.topic, p.partition) for p in partitions})

    async def _hand_out(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, records: list[ConsumerRecord[Any, Any]]
    ) -> None:
        """Give records to their stages, up to one that has to wait, or until the partition goes: then the rest comes
        again, here or elsewhere.
        """
        stages, current = self._stages[partition.topic], self._assignments
        for record in records:
            if current != self._assignments:
                return
            told = deferral.read(record.headers)
            now = self._now()
            if told is not None and now < told.until <= now + _LONGEST:
                self._due[partition] = told.until
                consumer.pause(partition)
                consumer.seek(partition, record.offset)
                return
            progress = self._progress.setdefault(partition, PartitionProgress())
            delivery = _Delivery(_message(record), progress)
            progress.deliver(record.offset, delivery)
            stage = stages.get(told.stage if told else "")
            if stage is None:
                log.warning("%s[%d]@%d: waits for a stage that is not here", *partition, record.offset)
                delivery.ack()
            else:
                await stage.take_deferred(delivery)

    def _resume(self, consumer: AIOKafkaConsumer) -> None:
        now = self._now()
        for partition in [p for p, due in self._due.items() if due <= now]:
            del self._due[partition]
            if partition in consumer.assignment():
                consumer.resume(partition)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        ours = consumer.assignment()
        offsets = {p: progress.committable() for p, progress in self._progress.items() if p in ours}
        known = {p: offset for p, offset in offsets.items() if offset is not None}
        if not known:
            return
        try:
            await consumer.commit(known)
        except KafkaError as error:
            log.warning("offsets of deferred rows were not committed and will be with the next attempt: %s", error)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: DeferredReader, consumer: AIOKafkaConsumer) -> None:
        self._reader = reader
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            await self._reader.revoked(self._consumer)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assigned(assigned)


def _message(record: ConsumerRecord[Any, Any]) -> _Message:
    return _Message(
        record.topic,
        record.partition,
        record.offset,
        None if record.timestamp is None else record.timestamp / 1000,
        record.key,
        record.value,
        record.headers,
    )
