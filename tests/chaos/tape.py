"""An ordinary consumer of the three topics of a run, which remembers everything."""

import asyncio
from types import TracebackType
from typing import Any, Self

import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from history import Place, Published, Verdict
from tally import Tally

EVENT_HEADER = "chaos_event"
"""Header with the id of the event, empty for a message that cannot be judged."""
NUMBER_HEADER = "chaos_number"
"""Header with the number of the message: its producer may have written it twice."""

_END_SECONDS = 60.0


class Tape:
    """`async with` it. Reads without a group, so that it sees every partition whatever the workers do."""

    def __init__(self, bootstrap: str, topics: tuple[str, str, str], partitions: int) -> None:
        """topics: source, verdicts, dead letters."""
        self._topics = topics
        self._partitions = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100
        )
        self._next: dict[TopicPartition, int] = dict.fromkeys(self._partitions, 0)
        self.published: dict[Place, Published] = {}
        self.verdicts: dict[Place, Verdict] = {}
        self._numbers: set[bytes] = set()
        self.dead: dict[Place, Place] = {}
        self.verdicts_seen = Tally()
        self._moved = asyncio.Event()

    @property
    def unfinished(self) -> list[str]:
        """What was read of the source topic and has neither verdict nor dead letter. Raises what ended the reading."""
        if self._task.done():
            self._task.result()
        done = {verdict.event for verdict in self.verdicts.values()}
        dead = set(self.dead.values())
        waiting = [m for m in self.published.values() if m.event not in done and m.place not in dead]
        return sorted({message.event or f"poison at {message.place}" for message in waiting})

    async def __aenter__(self) -> Self:
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        for tp in self._partitions:
            self._consumer.seek(tp, 0)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.stop()

    async def has_published(self, number: int) -> None:
        """Return when so many different messages of the source topic were read."""
        async with asyncio.timeout(_END_SECONDS):
            while len(self._numbers) < number:
                await self._move()

    async def _move(self) -> None:
        """Return when more was read. Raises what ended the reading."""
        self._moved.clear()
        moved = asyncio.create_task(self._moved.wait())
        await asyncio.wait([moved, self._task], return_when=asyncio.FIRST_COMPLETED)
        moved.cancel()
        if self._task.done():
            self._task.result()

    async def to_the_end(self) -> dict[int, int]:
        """Read all that stands in the topics now. End offsets of the source topic, by partition."""
        async with asyncio.timeout(_END_SECONDS):
            ends = await self._consumer.end_offsets(self._partitions)
            while any(self._next[tp] < end for tp, end in ends.items()):
                await self._move()
        return {tp.partition: end for tp, end in ends.items() if tp.topic == self._topics[0]}

    async def _read(self) -> None:
        while True:
            try:
                batch = await self._consumer.getmany(timeout_ms=200)
            except KafkaError:
                await asyncio.sleep(0.5)
                continue
            for tp, records in batch.items():
                for record in records:
                    self._keep(record)
                self._next[tp] = records[-1].offset + 1
            if batch:
                self._moved.set()

    def _keep(self, record: ConsumerRecord[Any, Any]) -> None:
        place = (record.partition, record.offset)
        key = (record.key or b"").decode()
        headers = dict(record.headers)
        source, verdicts, _ = self._topics
        if record.topic == source:
            self._numbers.add(headers[NUMBER_HEADER])
            self.published[place] = Published(place, key, headers[EVENT_HEADER].decode() or None)
        elif record.topic == verdicts:
            body = orjson.loads(record.value)
            self.verdicts[place] = Verdict(place, key, body["source"]["id"], body["row_id"])
            self.verdicts_seen.add()
        else:
            self.dead[place] = (int(headers["weir_dlq_partition"]), int(headers["weir_dlq_offset"]))
