"""The dead-letter topic of a topic: what it holds, and how its entries are settled."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from streams import dlq
from streams.dlq import Action, Position, Resolution
from streams.dlq_entries import Entry, Fold
from streams.errors import WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, client_options
from streams.settings import Settings
from streams.tail import consumer
from streams.topics import dead_letters

Record: TypeAlias = "ConsumerRecord[Any, Any]"

_POLL_MS = 500
_SILENCE_SECONDS = 30.0
_BATCH_RECORDS = 200
_BATCH_BYTES = 8 * 1024 * 1024
_OVERHEAD_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What the topic held. strangers: records that are neither dead letters nor resolutions."""

    entries: list[Entry]
    strangers: int


class DeadLetterTopic:
    """The dead letters of a topic. All methods raise KafkaError, and WorkerMisconfigured if a topic is missing."""

    def __init__(self, settings: Settings, topic: str) -> None:
        """topic: the one that was read, or its dead-letter topic."""
        self.source = dlq.source_of(topic)
        self.name = dead_letters(self.source)
        self._settings = settings

    async def entries(self) -> Found:
        """Everything that the topic holds now, settled or not, without values."""
        await self._require(self.name)
        fold = Fold(self.source)
        async with consumer(self._settings, self.name, from_start=True) as client:
            starts = await client.beginning_offsets(client.assignment())
            ends = await client.end_offsets(client.assignment())
            spans = {partition: (starts[partition], end) for partition, end in ends.items()}
            async with aclosing(scan(client, spans)) as records:
                async for record in records:
                    fold.add(Position(record.partition, record.offset), record.headers, record.value)
        return Found(fold.entries(), fold.strangers)

    async def records(self, positions: Collection[Position]) -> AsyncGenerator[Record, None]:
        """The records at these positions, in the order of each partition; those that Kafka has deleted are left out."""
        wanted = frozenset(positions)
        spans: dict[TopicPartition, tuple[int, int]] = {}
        for position in wanted:
            partition = TopicPartition(self.name, position.partition)
            first, end = spans.get(partition, (position.offset, 0))
            spans[partition] = (min(first, position.offset), max(end, position.offset + 1))
        async with (
            consumer(self._settings, self.name, from_start=True) as client,
            aclosing(scan(client, spans)) as records,
        ):
            async for record in records:
                if Position(record.partition, record.offset) in wanted:
                    yield record

    async def replay(self, entries: Collection[Entry], value: bytes | None = None) -> AsyncGenerator[Entry, None]:
        """Publish the messages again where they came from, and settle the entries. Yields each that is settled.

        value: takes the place of the messages' own. An entry is settled after its message was acknowledged: if this is
        interrupted, it may be replayed once more, which makes the same rows.

        Raises WorkerMisconfigured if the topic refuses a message's size or an entry has gone. What could be settled is.
        """
        await self._require(self.source)
        async with aclosing(self._settle(entries, Action.REPLAYED, value)) as settled:
            async for entry in settled:
                yield entry

    async def drop(self, entries: Collection[Entry]) -> AsyncGenerator[Entry, None]:
        """Settle the entries without another try. Yields each. Raises WorkerMisconfigured if one has gone."""
        async with aclosing(self._settle(entries, Action.DROPPED, None)) as settled:
            async for entry in settled:
                yield entry

    async def _settle(
        self, entries: Collection[Entry], action: Action, value: bytes | None
    ) -> AsyncGenerator[Entry, None]:
        open_ = {entry.position: entry for entry in entries}
        producer = AIOKafkaProducer(
            **client_options(self._settings),
            acks="all",
            linger_ms=5,
            max_request_size=MAX_DEAD_LETTER_BYTES + _OVERHEAD_BYTES,
        )
        try:
            await producer.start()
            async with aclosing(self.records(open_)) as records, aclosing(_batches(records)) as batches:
                async for batch in batches:
                    if action == Action.REPLAYED:
                        letters = [open_[Position(record.partition, record.offset)] for record in batch]
                        messages = [
                            await self._replay_of(producer, entry, record, value)
                            for entry, record in zip(letters, batch, strict=True)
                        ]
                        done, error = await _publish(producer, batch, messages)
                    else:
                        done, error = batch, None
                    settled, failed = await _publish(producer, done, [self._resolution_of(r, action) for r in done])
                    for record in settled:
                        yield open_.pop(Position(record.partition, record.offset))
                    _raise(error or failed)
        finally:
            await producer.stop()
        if open_:
            raise WorkerMisconfigured(
                f"Kafka has deleted {len(open_)} of these dead letters in the meantime, the first at {min(open_)}; "
                f"raise retention.ms of {self.name} to keep them longer"
            )

    async def _replay_of(
        self, producer: AIOKafkaProducer, entry: Entry, record: Record, value: bytes | None
    ) -> dict[str, Any]:
        """The message that an entry is about, for the partition where it stood: there its thread is.

        Its first timestamp goes along in the headers: as the message's own, it could be older than the topic's
        retention, and Kafka would delete the message before anybody read it.
        """
        place = entry.letter.origin
        there = place.partition in await producer.partitions_for(self.source)
        key, value = record.key, record.value if value is None else value
        return {
            "topic": self.source,
            "key": b"" if key is None and value is None else key,  # aiokafka sends no message without both
            "value": value,
            "partition": place.partition if there else None,
            "headers": dlq.replay_headers(entry.letter, record.headers),
        }

    def _resolution_of(self, record: Record, action: Action) -> dict[str, Any]:
        entry = Position(record.partition, record.offset)
        return {
            "topic": self.name,
            "key": record.key or b"",
            "value": None,
            "partition": record.partition,
            "headers": dlq.resolution_headers(Resolution(entry, action), datetime.now(UTC)),
        }

    async def _require(self, topic: str) -> None:
        async with consumer(self._settings, from_start=True) as client:  # asking for one topic might create it
            known = await client.topics()
        if topic not in known:
            have = ", ".join(sorted(name for name in known if name != dlq.source_of(name)))
            hint = (
                f"there are dead letters in: {have}" if have else "create those of your pipelines: weir topics create"
            )
            raise WorkerMisconfigured(f"there is no topic {topic}; {hint}")


async def scan(
    client: AIOKafkaConsumer, spans: Mapping[TopicPartition, tuple[int, int]]
) -> AsyncGenerator[Record, None]:
    """The records of these partitions from a first offset at least to one that is not included.

    What was fetched with the last of them comes too: to Tansu, a partition ends after the first record of its last
    batch.
    """
    left = {partition: end for partition, (start, end) in spans.items() if start < end}
    client.pause(*(client.assignment() - left.keys()))
    for partition in left:
        client.seek(partition, spans[partition][0])
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while left:
        for records in (await client.getmany(*left, timeout_ms=_POLL_MS)).values():
            heard = loop.time()
            for record in records:
                yield record
        for partition in [*left]:
            if await client.position(partition) >= left[partition]:
                del left[partition]
                client.pause(partition)
        if loop.time() - heard > _SILENCE_SECONDS:
            raise KafkaTimeoutError(f"nothing came from {', '.join(map(str, left))} for {_SILENCE_SECONDS:.0f} s")


async def _batches(records: AsyncIterator[Record]) -> AsyncGenerator[list[Record], None]:
    """The records in lists that fit into memory."""
    batch: list[Record] = []
    size = 0
    async for record in records:
        batch.append(record)
        size += len(record.value or b"")
        if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


async def _publish(
    producer: AIOKafkaProducer, records: list[Record], messages: list[dict[str, Any]]
) -> tuple[list[Record], BaseException | None]:
    """Publish the message of each record, in this order. The records whose message is acknowledged, and an error of
    the others.
    """
    waiting = []
    error: BaseException | None = None
    for record, message in zip(records, messages, strict=True):
        try:
            waiting.append((record, message, await producer.send(**message)))
        except KafkaError as failed:
            error = error or _told(failed, message)
    answers = await asyncio.gather(*(future for _, _, future in waiting), return_exceptions=True)
    done = []
    for (record, message, _), answer in zip(waiting, answers, strict=True):
        if isinstance(answer, BaseException):
            error = error or _told(answer, message)
        else:
            done.append(record)
    return done, error


def _told(error: BaseException, message: Mapping[str, Any]) -> BaseException:
    if not isinstance(error, MessageSizeTooLargeError):
        return error
    return WorkerMisconfigured(
        f"topic {message['topic']} refuses a message of {len(message['value'] or b'')} bytes; raise its "
        "max.message.bytes"
    )


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
