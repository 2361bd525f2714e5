"""A stage that puts turns together: a message a turn comes in, a message a call goes out.

The state is in the store, where the turns have to be in any case: a turn is acknowledged when ClickHouse has it, and
what is in memory is only what the store said and has acknowledged since. Whoever gets a partition asks for its open
calls, and goes on. So there is no second store to recover, and a turn that comes a week late still finds its call.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from faust.types import TP

from sinks.calls import CallKey, Calls, StoredTurn
from sinks.rows import CallRow, LineageEdgeRow, TurnRow
from streams import cloudevents
from streams.agent import Services, TextAgent
from streams.call import Call, Closing, digest, said, size_of
from streams.decode import Event, KafkaMessage
from streams.errors import DeadLetter, Reason
from streams.identity import event_row_id, time_ms
from streams.kafka import MAX_MESSAGE_BYTES
from streams.pipeline import Pipeline, Stage, seconds_of
from streams.records import DOCUMENTS, MESSAGE_TYPE, TextMessage
from streams.redact import redactor_of
from streams.verdicts import source_row
from streams.window import Turn

_SWEEP_SECONDS = 0.5
_REMEMBERED = timedelta(days=7)  # a call that no worker has closed for longer is left until its next turn comes
_LARGEST_CALL = MAX_MESSAGE_BYTES * 15 // 16  # its transcript must fit into a message


@dataclass(slots=True, eq=False)
class _Held:
    """A call in memory.

    touched: when its last turn was taken, or when it came to this worker; seconds. coming: bytes of turns that the
    store does not have yet. waits: when the first of its words was said that no transcript has; Unix seconds, infinite
    for none.
    """

    call: Call
    touched: float
    coming: int = 0
    closing: bool = False
    waits: float = math.inf


class AssembleAgent(TextAgent):
    """The agent of a stage that assembles.

    A call is closed when its final turn and all before it are there, or after a time without any turn. What comes later
    is a correction: the call is published again with all its turns, under another row id.

    Silence is counted by the worker that has the call, from when it took its last turn or took the call over. Thus a
    backlog or an outage closes no call whose turns are still to be read, unless that takes longer than the silence.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stage: Stage,
        calls: Calls,
        services: Services,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            pipeline.name,
            stage.name,
            pipeline.reads(stage),
            services,
            pipeline.sla_seconds,
            redactor_of(pipeline),
        )
        assert stage.assemble is not None
        self._writes = stage.writes
        self._first = stage.assemble.first
        self._silence = seconds_of(stage.assemble.silence)
        self._calls = calls
        self._clock = clock
        self._source = f"/weir/{self.name}"
        self._mine: set[TP] = set()
        self._held: OrderedDict[CallKey, _Held] = OrderedDict()  # the one that was touched first stands first
        self._coming: dict[CallKey, asyncio.Task[_Held]] = {}
        self._closed = self._metrics.calls_closed
        self._repeated = self._metrics.repeated.labels(*self._labels)
        self._metrics.calls_open.labels(*self._labels).set_function(lambda: len(self._held))
        self.sla.held = self._oldest_open

    async def run(self, stream: Any) -> None:
        sweeping = asyncio.create_task(self._sweep())
        try:
            await super().run(stream)
        finally:
            sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sweeping

    def assigned(self, partitions: set[TP]) -> None:
        """Forget every call: another worker may have gone on with it. Ask for those that are open."""
        self._mine = {tp for tp in partitions if tp.topic == self.reads}
        self._held.clear()
        self._coming.clear()
        for tp in self._mine:
            self._start(self._or_stop(self._take_over(tp)))

    def forget(self, rows: Collection[int]) -> None:
        """These turns were erased: calls that have one are asked for anew, when they are wanted."""
        for key, held in [*self._held.items()]:
            if not held.closing and any(row in rows for row in held.call.messages):
                del self._held[key]
                self._start(self._or_stop(self._go_on(key)))

    def _begin(self, message: KafkaMessage, event: Event, turn: Turn) -> Coroutine[Any, Any, None]:
        return self._settle(message, turn, self._enter(message, event))

    async def _enter(self, message: KafkaMessage, event: Event) -> None:
        """Return when the store has the turn."""
        self._check(message, event)
        key = CallKey(message.topic, message.partition, event.tenant, event.thread)
        turn = _turn(event)
        held = await self._hold(key)
        if held.call.knows(turn):
            self.sla.leave(id(message))
            self._repeated.inc()
            self._let_go(key, held)
            return
        _check_room(held, turn)
        size = size_of(turn)
        held.coming += size
        try:
            await self._writer.write([source_row(event, now := datetime.now(UTC)), _turn_row(key, turn, now)])
        finally:
            held.coming -= size
        held = await self._hold(key)  # the partition may have gone and come meanwhile
        held.call.add(turn)
        self._tracing.keep(turn.row_id)
        held.waits = min(held.waits, turn.time.timestamp())
        held.touched = self._clock()
        self._held.move_to_end(key)
        if held.call.complete(self._first):
            self._close(key, held, "final")

    def _check(self, message: KafkaMessage, event: Event) -> None:
        if not event.thread:
            raise DeadLetter(Reason.WRONG_FIELD, "thread: a turn needs the call that it belongs to")
        if event.turn is None or event.turn < self._first:
            raise DeadLetter(Reason.WRONG_FIELD, f"turn: a turn needs its number in the call, from {self._first} on")
        if event.turns:
            raise DeadLetter(Reason.WRONG_FIELD, f"turns: a whole call belongs in the topic {self._writes}")
        if message.key != event.thread.encode():
            raise DeadLetter(Reason.WRONG_FIELD, "key: it must be the thread, so that one worker sees the whole call")

    async def _hold(self, key: CallKey) -> _Held:
        """The call, from memory or from the store."""
        if (held := self._held.get(key)) is not None:
            return held
        if (coming := self._coming.get(key)) is None:
            coming = self._coming[key] = asyncio.create_task(self._load(key))
        try:
            return await asyncio.shield(coming)
        finally:
            if self._coming.get(key) is coming and coming.done():
                del self._coming[key]

    async def _load(self, key: CallKey) -> _Held:
        stored = await self._calls.find(key)
        held = _Held(Call(), self._clock())
        if stored is not None:
            held.call.transcript = stored.transcript
            for turn in stored.turns:
                held.call.add(turn)
        return self._held.setdefault(key, held)

    async def _take_over(self, tp: TP) -> None:
        """Go on with the open calls of a partition that has come to this worker."""
        found = await self._calls.open(tp.topic, tp.partition, datetime.now(UTC) - _REMEMBERED)
        await asyncio.gather(*map(self._go_on, found))

    async def _go_on(self, key: CallKey) -> None:
        held = await self._hold(key)
        held.waits = min(held.waits, _unpublished(held.call))
        if held.call.complete(self._first):
            self._close(key, held, "final")

    def _oldest_open(self) -> float | None:
        """When the first of the words was said that are in no transcript yet; Unix seconds."""
        waits = min((held.waits for held in self._held.values()), default=math.inf)
        return waits if waits < math.inf else None

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            silent_since = self._clock() - self._silence
            due = []
            for key, held in self._held.items():
                if held.touched > silent_since:
                    break
                due.append((key, held))
            for key, held in due:
                self._close(key, held, "silence")

    def _close(self, key: CallKey, held: _Held, by: Closing) -> None:
        if not held.closing and self._is_mine(key):
            held.closing = True
            self._start(self._or_stop(self._publish(key, held, by)))

    def _is_mine(self, key: CallKey) -> bool:
        return TP(key.topic, key.partition) in self._mine

    async def _publish(self, key: CallKey, held: _Held, by: Closing) -> None:
        """Publish the call unless its last transcript says all, and note that. Turns that come meanwhile count too."""
        call = held.call
        while (transcript := self._transcript(key, call)) is not None and transcript.row_id != call.transcript:
            messages = len(call.messages)
            with self._tracing.assemble([turn.row_id for turn in call.messages.values()]):
                await self._publisher.send(self._writes, key.call.encode(), transcript.value, transcript.headers)
                await self._writer.write(transcript.rows(key, messages, by, self._first, datetime.now(UTC)))
            self._closed.labels(*self._labels, "correction" if call.transcript else by).inc()
            call.transcript = transcript.row_id
            held.waits = math.inf
        held.closing = False
        self._let_go(key, held)

    def _let_go(self, key: CallKey, held: _Held) -> None:
        """Forget a call that has nothing new; its next turn finds it in the store."""
        if held.closing or held.coming or self._held.get(key) is not held:
            return
        if held.call.messages and not held.call.transcript:
            return
        transcript = self._transcript(key, held.call)
        if transcript is None or transcript.row_id == held.call.transcript:
            del self._held[key]

    def _transcript(self, key: CallKey, call: Call) -> "_Transcript | None":
        turns = call.turns()
        return _Transcript(self._source, key, turns) if turns else None

    async def _or_stop(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  whatever it is, the call stays open in the store
            self._stop_worker(error)


class _Transcript:
    """A call as it is published. Of the same turns it is always the same row."""

    def __init__(self, source: str, key: CallKey, turns: list[StoredTurn]) -> None:
        self._turns = turns
        self._source = source
        self._key = key
        self._name = digest(key.tenant, key.call, turns)
        self._ended = max(turn.time for turn in turns)
        self.row_id = event_row_id(time_ms(self._ended), source, self._name)

    @property
    def value(self) -> bytes:
        """The message's JSON."""
        langs = Counter(turn.lang for turn in self._turns if turn.lang)
        message = TextMessage(
            id=self._name,
            time=self._ended,
            thread=self._key.call,
            lang=langs.most_common(1)[0][0] if langs else "",
            tenant=self._key.tenant,
            documents=tuple(dict.fromkeys(name for turn in self._turns for name in turn.documents)),
            turns=tuple(map(said, self._turns)),
        )
        return message.encode()

    @property
    def headers(self) -> cloudevents.Headers:
        return cloudevents.headers(
            id=self._name, source=self._source, type=MESSAGE_TYPE, time=self._ended, subject=self._key.call
        )

    def rows(
        self, key: CallKey, messages: int, by: Closing, first: int, now: datetime
    ) -> list[CallRow | LineageEdgeRow]:
        """What the store is to know. messages: that the call was made of. first: number of a call's first turn."""
        last = self._turns[-1].number
        call = CallRow(
            *key,
            messages=messages,
            row_id=self.row_id,
            turns=len(self._turns),
            missing=last - first + 1 - len(self._turns),
            closed_by=by,
            started=min(turn.time for turn in self._turns),
            ended=self._ended,
            closed_at=now,
        )
        return [call, *(LineageEdgeRow(self.row_id, turn.row_id, "input", now) for turn in self._turns)]


def _check_room(held: _Held, turn: StoredTurn) -> None:
    """Raises DeadLetter if a transcript with this turn would be larger than a message may be."""
    bytes_there = held.call.size + held.coming
    if bytes_there + size_of(turn) > _LARGEST_CALL:
        raise DeadLetter(Reason.CALL_TOO_LARGE, f"its call has {bytes_there} bytes already")
    if len(held.call.documents.union(turn.documents)) > DOCUMENTS:
        raise DeadLetter(Reason.CALL_TOO_LARGE, f"documents: its call names {len(held.call.documents)} already")


def _unpublished(call: Call) -> float:
    """The time of the first turn of an open call from the store; of one to be corrected, that of its last message."""
    if not call.messages:
        return math.inf
    if call.transcript:
        return max(call.messages.values(), key=lambda turn: turn.offset).time.timestamp()
    return min(turn.time for turn in call.messages.values()).timestamp()


def _turn(event: Event) -> StoredTurn:
    assert event.turn is not None
    return StoredTurn(
        number=event.turn,
        row_id=event.row_id,
        offset=event.offset,
        final=event.final,
        documents=event.documents,
        time=event.event_time,
        speaker=event.author,
        lang=event.lang,
        text=event.text,
    )


def _turn_row(key: CallKey, turn: StoredTurn, now: datetime) -> TurnRow:
    return TurnRow(
        *key,
        number=turn.number,
        row_id=turn.row_id,
        offset=turn.offset,
        final=turn.final,
        documents=list(turn.documents),
        event_time=turn.time,
        written_at=now,
    )
