"""An ordinary consumer of the topics of a run, which remembers everything."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import assembled
import http_calls
import orjson
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from assembled import Transcript
from history import Place, Published, Verdict
from tally import Tally

from streams import topics

EVENT_HEADER = "chaos_event"
"""Header with the id of the event, empty for a message that cannot be judged."""
NUMBER_HEADER = "chaos_number"
"""Header with the number of the message: its producer may have written it twice."""

_END_SECONDS = 60.0


class Tape:
    """`async with` it. Reads without a group, so that it sees every partition whatever the workers do."""

    def __init__(
        self, bootstrap: str, names: tuple[str, str, str], partitions: int, more: tuple[str, ...] = ()
    ) -> None:
        """names: of the topics source, verdicts, dead letters. more: topics that are read as well."""
        self._names = names
        self._partitions = [TopicPartition(topic, n) for topic in (*names, *more) for n in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", fetch_max_wait_ms=100
        )
        self._next: dict[TopicPartition, int] = dict.fromkeys(self._partitions, 0)
        self.published: dict[Place, Published] = {}
        self.verdicts: dict[Place, Verdict] = {}
        self._numbers: set[bytes] = set()
        self.dead: dict[Place, Place] = {}
        self.verdicts_seen = Tally()
        self.transcripts_seen = Tally()
        self.published_seen = Tally()
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

    async def to_the_end(self) -> dict[str, dict[int, int]]:
        """Read all that stands in the topics now. End offsets of each topic, by partition."""
        async with asyncio.timeout(_END_SECONDS):
            ends = await self._consumer.end_offsets(self._partitions)
            while any(self._next[tp] < end for tp, end in ends.items()):
                await self._move()
        by_topic: dict[str, dict[int, int]] = {tp.topic: {} for tp in ends}
        for tp, end in ends.items():
            # Asked for the end, Tansu takes a batch of several messages for one.
            by_topic[tp.topic][tp.partition] = max(end, self._next[tp])
        return by_topic

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
        source, verdicts, _ = self._names
        if record.topic == source:
            self._numbers.add(headers[NUMBER_HEADER])
            self.published_seen.add()
            self.published[place] = Published(place, key, headers[EVENT_HEADER].decode() or None)
        elif record.topic == verdicts:
            body = orjson.loads(record.value)
            self.verdicts[place] = Verdict(place, key, body["source"]["id"], body["row_id"])
            self.verdicts_seen.add()
        else:
            self.dead[place] = _origin(headers)


class CallTape(Tape):
    """The same for turns that become transcripts, which are judged."""

    def __init__(
        self,
        bootstrap: str,
        reads: tuple[str, ...],
        verdicts: str,
        partitions: int,
        turns: Mapping[str, Mapping[int, str]],
        events: Mapping[str, str],
    ) -> None:
        """reads: topics of turns and of transcripts. turns: number to event, of each call. events: by their token."""
        source, self._read_on = reads
        more = (self._read_on, topics.dead_letters(self._read_on))
        super().__init__(bootstrap, (source, verdicts, topics.dead_letters(source)), partitions, more)
        self._turns = turns
        self._events = events
        self.transcripts: dict[Place, Transcript] = {}
        self.dead_transcripts: dict[Place, Place] = {}

    @property
    def judged(self) -> list[Published]:
        """The transcripts as what the next stage reads."""
        return [Published(t.place, t.call, t.id) for t in self.transcripts.values()]

    @property
    def unfinished(self) -> list[str]:
        """Turns that are in no transcript, transcripts without a verdict, poison that is no dead letter."""
        if self._task.done():
            self._task.result()
        done, dead = {verdict.event for verdict in self.verdicts.values()}, set(self.dead.values())
        unjudged = {transcript.id for transcript in self.transcripts.values()} - done
        poison = {f"poison at {m.place}" for m in self.published.values() if m.event is None and m.place not in dead}
        return sorted({*assembled.missing(self._turns, self.transcripts.values()), *unjudged, *poison})

    def _keep(self, record: ConsumerRecord[Any, Any]) -> None:
        place = (record.partition, record.offset)
        if record.topic == self._read_on:
            body = orjson.loads(record.value)
            self.transcripts[place] = Transcript(
                place, body["thread"], body["id"], tuple(map(self._turn, body["turns"]))
            )
            self.transcripts_seen.add()
        elif record.topic == topics.dead_letters(self._read_on):
            self.dead_transcripts[place] = _origin(dict(record.headers))
        else:
            super()._keep(record)

    def _turn(self, turn: Mapping[str, Any]) -> tuple[int, str]:
        (token,) = http_calls.tokens(turn["text"])
        return turn["turn"], self._events.get(token, token)


def _origin(headers: Mapping[str, bytes]) -> Place:
    """Where a dead letter came from."""
    return int(headers["weir_dlq_partition"]), int(headers["weir_dlq_offset"])
