"""A stage that cuts each message into several: a call into its exchanges, an exchange into the claims in it."""

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from inference.dialogue import Exchange, SmallTalk, Turn, exchanges
from sinks.rows import LineageEdgeRow
from streams import cloudevents
from streams.agent import Services, TextAgent
from streams.decode import Event, KafkaMessage, said
from streams.errors import DeadLetter, Reason
from streams.identity import digest_of, event_row_id, row_of, time_ms
from streams.pipeline import Cut, Pipeline, Stage
from streams.records import MESSAGE_TYPE, TextMessage, TurnText
from streams.redact import redactor_of
from streams.verdicts import source_row
from streams.window import Turn as Place

_CONTEXT = 10_000  # characters before a claim; every claim of a call has them with it

CountTokens = Callable[[str], Awaitable[int]]


class Piece(Struct, frozen=True):
    """A message that is to be published. parents: row id and kind of what it was cut from."""

    message: TextMessage
    parents: Sequence[tuple[int, str]]


class Pieces(Struct, frozen=True):
    """What a message was cut into, and the words of what was dropped."""

    kept: Sequence[Piece]
    dropped: Sequence[str]


class CutAgent(TextAgent):
    """The agent of a stage that cuts.

    The same message always gives the same pieces with the same ids, so what is cut again after a restart, or because a
    call was corrected, is known to the stages after it where it has not changed.
    """

    def __init__(self, pipeline: Pipeline, stage: Stage, count: CountTokens, services: Services) -> None:
        """count: tokens of a text."""
        super().__init__(
            pipeline.name,
            stage.name,
            pipeline.reads(stage),
            services,
            pipeline.sla_seconds,
            redactor_of(pipeline),
        )
        assert stage.cut is not None
        self._writes = stage.writes
        self._cut = stage.cut
        self._small_talk = SmallTalk(stage.cut.small_talk)
        self._count = count
        self._sample = " ".join(stage.cut.small_talk) or pipeline.description or pipeline.name
        self._tokens_a_byte = 0.0
        self._source = f"/weir/{self.name}"
        self._pieces = self._metrics.pieces.labels(*self._labels)
        self._dropped = self._metrics.pieces_dropped.labels(*self._labels)
        self._tokens_saved = self._metrics.tokens_saved.labels(*self._labels)

    async def prepare(self) -> None:
        """Find out how many tokens small talk has. Raises like `Engine.tokenize`."""
        self._tokens_a_byte = await self._count(self._sample) / len(self._sample.encode())

    def _begin(self, message: KafkaMessage, event: Event, turn: Place) -> Coroutine[Any, Any, None]:
        return self._settle(message, turn, self._publish(event, turn))

    async def _publish(self, event: Event, turn: Place) -> None:
        """Return when Kafka has the pieces, and ClickHouse what they were cut from."""
        pieces = cut(self._cut, self._small_talk, event)
        now = datetime.now(UTC)
        named = [(piece, event_row_id(_ms(piece), self._source, str(piece.message.id))) for piece in pieces.kept]
        edges = [LineageEdgeRow(row, parent, kind, now) for piece, row in named for parent, kind in piece.parents]
        stored = self._writer.submit([source_row(event, now), *edges])
        try:
            await turn.come()
            for piece, _ in named:
                await self._send(event, piece.message)
        except BaseException:
            stored.cancel()
            raise
        await stored
        self._pieces.inc(len(pieces.kept))
        self._dropped.inc(len(pieces.dropped))
        self._tokens_saved.inc(self._tokens_a_byte * sum(len(text.encode()) for text in pieces.dropped))

    async def _send(self, event: Event, message: TextMessage) -> None:
        assert message.time is not None
        headers = cloudevents.headers(
            id=str(message.id),
            source=self._source,
            type=MESSAGE_TYPE,
            time=message.time,
            subject=message.thread,
            extra={"traceparent": event.traceparent} if event.traceparent else {},
        )
        await self._publisher.send(self._writes, event.key, message.encode(), headers)


def cut(settings: Cut, small_talk: SmallTalk, event: Event) -> Pieces:
    """The pieces of a message. For claims, one without turns is one turn of its author. Raises DeadLetter."""
    if settings.into == "exchanges" and not event.turns:
        raise DeadLetter(Reason.WRONG_FIELD, "turns: exchanges are cut from turns, and there are none")
    turns = event.turns or (TurnText(text=event.text, speaker=event.author, turn=0),)
    numbered: list[TurnText] = []
    for turn in turns:
        number = turn.turn if turn.turn is not None else numbered[-1].turn + 1 if numbered else 0  # type: ignore[operator]
        numbered.append(turn.model_copy(update={"turn": number}))
    if settings.into == "exchanges":
        return _exchanges(settings, small_talk, event, numbered)
    return _claims(settings, small_talk, event, numbered)


def _exchanges(settings: Cut, small_talk: SmallTalk, event: Event, turns: Sequence[TurnText]) -> Pieces:
    by_place = dict(enumerate(turns))
    talk = [Turn(place, turn.speaker, turn.text) for place, turn in by_place.items()]
    kept, dropped = [], []
    for exchange in exchanges(talk, settings.answers, settings.before):
        if any(small_talk.divide(turn.text)[0] for turn in exchange.turns if turn.speaker in settings.answers):
            kept.append(_exchange(event, exchange, by_place))
        else:
            dropped += [turn.text for turn in exchange.turns]
    return Pieces(kept, dropped)


def _exchange(event: Event, exchange: Exchange, by_place: dict[int, TurnText]) -> Piece:
    turns = [by_place[turn.number] for turn in exchange.turns]
    before = [by_place[turn.number] for turn in exchange.before]
    words = [part for turn in (*before, *turns) for part in (turn.turn or 0, turn.speaker, turn.text)]
    digest = digest_of(event.tenant, event.thread, *event.documents, len(before), *words).hex()
    times = [turn.time for turn in turns if turn.time is not None]
    message = TextMessage(
        id=f"{turns[0].turn}-{turns[-1].turn}.{digest}",
        time=max(times, default=event.event_time),
        thread=event.thread,
        author=event.author,
        lang=event.lang,
        tenant=event.tenant,
        documents=event.documents,
        context=tuple(said(turn.speaker, turn.text) for turn in before),
        turns=tuple(turns),
    )
    return Piece(message, [*_rows(turns, "input", event), *_rows(before, "context", event)])


def _rows(turns: Iterable[TurnText], kind: str, event: Event) -> list[tuple[int, str]]:
    """Rows of the turns; of the whole call where it came as one message."""
    rows = [row_of(turn.row_id) if turn.row_id else event.row_id for turn in turns]
    return [(row, kind) for row in dict.fromkeys(rows) if kind == "input" or row != event.row_id]


def _claims(settings: Cut, small_talk: SmallTalk, event: Event, turns: Sequence[TurnText]) -> Pieces:
    kept: list[Piece] = []
    dropped: list[str] = []
    before = list(event.context)
    for turn in turns:
        if not event.turns or turn.speaker in settings.answers:
            claims, others = small_talk.divide(turn.text)
            kept += [_claim(event, turn, number, claim, before) for number, claim in enumerate(claims)]
            dropped += others
        before.append(said(turn.speaker, turn.text))
    return Pieces(kept, dropped)


def _claim(event: Event, turn: TurnText, number: int, claim: str, before: Sequence[str]) -> Piece:
    name = event.event_id or str(event.offset)
    message = TextMessage(
        id=f"{name}/{turn.turn}.{number}",
        text=claim,
        time=turn.time or event.event_time,
        thread=event.thread,
        author=turn.speaker,
        lang=event.lang,
        tenant=event.tenant,
        documents=event.documents,
        context=_last(before),
        turn=turn.turn,
    )
    return Piece(message, [(event.row_id, "input")])


def _last(said_before: Sequence[str]) -> tuple[str, ...]:
    """The last of what was said, as much as may stand beside a claim."""
    kept: list[str] = []
    room = _CONTEXT
    for line in reversed(said_before):
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return tuple(reversed(kept))


def _ms(piece: Piece) -> int:
    assert piece.message.time is not None
    return time_ms(piece.message.time)
