"""From a Kafka message to an event with an identity, or to a dead letter with a reason."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from msgspec import Struct
from pydantic import AwareDatetime, BaseModel, TypeAdapter, ValidationError

from streams import cloudevents, rerun_headers
from streams.errors import DeadLetter, Reason
from streams.identity import event_row_id, offset_row_id, time_ms
from streams.origin import Placed, origin_of
from streams.records import NAME_CHARACTERS, TextMessage, TurnText
from streams.rerun_headers import Rerun

OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
FUTURE = timedelta(days=1)

Body = TypeVar("Body", bound=BaseModel)

_TRACEPARENT = 256  # characters; the W3C's version 00 has 55
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = TypeAdapter(AwareDatetime)


class KafkaMessage(Placed, Protocol):
    """What this module needs of a consumed message.

    timestamp: Unix seconds, of the broker or of the producer, who may write any number.
    """

    key: bytes | None
    value: bytes | None


class Event(Struct, frozen=True):
    """A valid message.

    topic, partition, offset, broker_time: its place and Kafka's timestamp; a replay has those of the message that it
    replays. broker_time is the event's own time where Kafka has none. event_id: empty if the producer gave none.
    identity: what makes two messages the same event: the row id, or the producer's name for it where the time in the
    row id is Kafka's, which is another one for each message. documents, context, turn, final, turns: as in
    `streams.records.TextMessage`; the text is that of the turns where the message has no other. rerun: what is said if
    a stage is to judge it anew.
    """

    row_id: int
    identity: int | tuple[str, str]
    text: str
    source: str
    event_id: str
    event_time: datetime
    broker_time: datetime
    topic: str
    partition: int
    offset: int
    key: bytes | None
    thread: str
    author: str
    lang: str
    tenant: str
    traceparent: str
    documents: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    turn: int | None = None
    final: bool = False
    turns: tuple[TurnText, ...] = ()
    rerun: Rerun | None = None


def size_of(message: KafkaMessage) -> int:
    """Bytes of a message: key, value and headers."""
    headers = sum(len(name) + len(value or b"") for name, value in message.headers or ())
    return len(message.key or b"") + len(message.value or b"") + headers


def decode(message: KafkaMessage, now: datetime | None = None) -> Event:
    """The event that a message carries; a replay is the event that it replays. Raises DeadLetter.

    now: for tests; times more than a day after it are refused.
    """
    body = parse(message.value, TextMessage)
    text = body.text or spoken(body.turns)
    if not text.strip():
        raise DeadLetter(Reason.EMPTY_TEXT, "the field text is empty or only white space, and there are no turns")
    context = attributes_of(message)
    place = origin_of(message)
    broker_time = broker_time_of(place.timestamp_ms)
    own_time = body.time or header_time(context.get("time"))
    event_time = time_of(own_time, broker_time, now or datetime.now(UTC))
    source = context.get("source") or place.topic
    event_id = body.id or context.get("id") or ""
    at = time_ms(event_time)
    row_id = (
        event_row_id(at, source, event_id)
        if event_id
        else offset_row_id(at, place.topic, place.partition, place.offset)
    )
    rerun = rerun_headers.read(place.rerun, message, body.context) if place.rerun else None
    return Event(
        row_id=row_id,
        identity=(source, event_id) if event_id and own_time is None else row_id,
        text=text,
        source=source,
        event_id=event_id,
        event_time=event_time,
        broker_time=broker_time or event_time,
        topic=place.topic,
        partition=place.partition,
        offset=place.offset,
        key=message.key,
        thread=body.thread,
        author=body.author,
        lang=body.lang,
        tenant=body.tenant,
        traceparent=context.get("traceparent", ""),
        documents=body.documents,
        context=rerun.context if rerun else body.context,
        turn=body.turn,
        final=body.final,
        turns=body.turns,
        rerun=rerun,
    )


def spoken(turns: Iterable[TurnText]) -> str:
    """Turns as text: a line each, with the speaker in front."""
    return "\n".join(said(turn.speaker, turn.text) for turn in turns if turn.text.strip())


def said(speaker: str, text: str) -> str:
    """What a speaker said, as one line."""
    words = " ".join(text.split())
    return f"{speaker}: {words}" if speaker else words


def parse(value: bytes | None, shape: type[Body]) -> Body:
    """The value of a message as this record. Raises DeadLetter, which says what is wrong without quoting it."""
    if value is None:
        raise DeadLetter(Reason.NO_VALUE, "the message has a key only")
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DeadLetter(Reason.NOT_UTF8, f"invalid UTF-8 at byte {error.start}") from error
    try:
        return shape.model_validate_json(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        if problems[0]["type"] == "json_invalid":
            raise DeadLetter(Reason.NOT_JSON, problems[0]["msg"]) from error
        # include_input=False and the names of fields only: the message's words stay out of headers and logs.
        detail = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'message'}: {p['msg']}" for p in problems)
        raise DeadLetter(Reason.WRONG_FIELD, detail) from error


def attributes_of(message: Placed) -> Mapping[str, str]:
    """The CloudEvents attributes of a message; a `traceparent` that is too long to be one is left out.

    Raises DeadLetter: headers have no schema, and what is carried into every verdict must have an end.
    """
    context = cloudevents.attributes(message.headers)
    for name in ("id", "source"):
        if len(context.get(name, "")) > NAME_CHARACTERS:
            raise DeadLetter(Reason.WRONG_FIELD, f"header ce_{name} has more than {NAME_CHARACTERS} characters")
    if len(context.get("traceparent", "")) > _TRACEPARENT:
        del context["traceparent"]
    return context


def time_of(own: datetime | None, broker_time: datetime | None, now: datetime) -> datetime:
    """When it happened, in UTC: what the message says, else Kafka's timestamp. Raises DeadLetter."""
    said = own or broker_time
    if said is None:
        raise DeadLetter(Reason.TIME_OUT_OF_RANGE, "the message has no time, and its Kafka timestamp is none either")
    check_range(said, now)  # times at the ends of the calendar exist in some zones only
    return said.astimezone(UTC)


def header_time(value: str | None) -> datetime | None:
    """The time in the header `ce_time`. Raises DeadLetter."""
    if value is None:
        return None
    try:
        return _TIME.validate_python(value)
    except ValidationError as error:
        raise DeadLetter(Reason.WRONG_FIELD, "header ce_time is not an RFC 3339 time with offset") from error


def broker_time_of(timestamp_ms: int | None) -> datetime | None:
    """Kafka's timestamp as a time; None if it is none."""
    if timestamp_ms is None:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return None


def check_range(time: datetime, now: datetime) -> None:
    """Raises DeadLetter for the time of an event that cannot be."""
    if not OLDEST <= time <= now + FUTURE:
        raise DeadLetter(
            Reason.TIME_OUT_OF_RANGE,
            f"event time {cloudevents.rfc3339(time)} is not between {OLDEST.date()} and a day from now",
        )
