"""What a dead letter, its replay and its resolution look like in Kafka.

A dead letter is the message as it came, with headers beside it. It is settled by a resolution: a record without a value
in the same partition that names it. So the topic is all the state there is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from msgspec import structs
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from streams import origin, topics
from streams.cloudevents import Headers, rfc3339
from streams.decode import KafkaMessage, size_of
from streams.errors import DeadLetter
from streams.kafka import MAX_MESSAGE_BYTES
from streams.origin import Origin
from streams.secrets import hide

PREFIX = "weir_dlq_"

_SUFFIX = topics.dead_letters("")
_TIME = TypeAdapter(AwareDatetime)
_INT32, _INT64 = 2**31, 2**63


class Action(StrEnum):
    """How a dead letter was settled."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a record stands in the dead-letter topic."""

    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Of `<partition>:<offset>`. Raises ValueError."""
        partition, _, offset = text.partition(":")
        found = origin.number(partition.encode(), _INT32), origin.number(offset.encode(), _INT64)
        if found[0] is None or found[1] is None:
            raise ValueError(f"{text!r} is no position; a position is <partition>:<offset>, for example 3:1041")
        return cls(found[0], found[1])

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """What the headers of a dead letter say.

    origin: where the message stood first, and how often it was replayed before it was dead-lettered here. stage:
    pipeline and stage that gave it up. attempts: how often it was tried, 0 if that was not counted.
    """

    origin: Origin
    reason: str
    detail: str
    stage: str
    time: datetime | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Resolution:
    """The entry that a resolution settles, and how."""

    entry: Position
    action: Action


@dataclass(frozen=True, slots=True)
class Record:
    """What is published."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def letter(message: KafkaMessage, error: DeadLetter, stage: str, now: datetime) -> Record:
    """The dead letter of a message; see `headers`. It always fits into its topic.

    A message may be larger than its dead letter can be: the limit of its topic is another one, and counts what is
    compressed. Of such a one only the reason is kept, and how many bytes it has; the rest stands where it was.
    """
    if (size := size_of(message)) <= MAX_MESSAGE_BYTES:
        return Record(message.key, message.value, headers(message, error, stage, now))
    place = origin.origin_of(message)
    told = DeadLetter(
        error.reason,
        f"{error.detail}; its {size} bytes are too many for this topic and were left out: they stand in "
        f"{place.topic}[{place.partition}]@{place.offset}",
        error.attempts,
    )
    ours = [header for header in headers(message, told, stage, now) if header[0].startswith(PREFIX)]
    return Record(None, None, ours)


def headers(message: KafkaMessage, error: DeadLetter, stage: str, now: datetime) -> Headers:
    """Headers of the dead letter of a message: its own, and why, when and where it died.

    The place named is where the message stood first, so that a replay of it that dies keeps its identity. stage:
    pipeline and stage, as in `moderation/judge`.
    """
    place = origin.origin_of(message)
    said = {
        "reason": error.reason,
        "detail": hide(error.detail),
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(place.offset),
        "timestamp": "" if place.timestamp_ms is None else str(place.timestamp_ms),
        "pipeline": stage,
        "time": rfc3339(now),
        "attempts": str(error.attempts) if error.attempts > 0 else "",
        "replays": str(place.replays) if place.replays else "",
    }
    ours = [(PREFIX + name, text.encode(errors="backslashreplace")) for name, text in said.items() if text]
    return [*_foreign(message.headers or ()), *ours]


def read(source: str, headers: Iterable[tuple[str, bytes | None]]) -> Letter | Resolution | None:
    """What a record in the dead-letter topic of `source` is, by its headers; None if it is neither."""
    found = {name.removeprefix(PREFIX): value for name, value in headers if name.startswith(PREFIX)}
    if "action" in found:
        return _resolution(found)
    partition, offset = origin.number(found.get("partition"), _INT32), origin.number(found.get("offset"), _INT64)
    if found.get("topic") != source.encode() or partition is None or offset is None:
        return None
    timestamp_ms = origin.number(found.get("timestamp"), _INT64)
    replays = origin.number(found.get("replays"), _INT32) or 0
    return Letter(
        origin=Origin(source, partition, offset, timestamp_ms, replays),
        reason=_text(found, "reason"),
        detail=_text(found, "detail"),
        stage=_text(found, "pipeline"),
        time=_time(_text(found, "time")),
        attempts=origin.number(found.get("attempts"), _INT32) or 0,
    )


def replay_headers(letter: Letter, headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """Headers with which the message of a dead letter is published again.

    headers: those of the dead letter.
    """
    place = structs.replace(letter.origin, replays=letter.origin.replays + 1)
    return [*_foreign(headers), *origin.origin_headers(place)]


def resolution_headers(resolution: Resolution, now: datetime) -> Headers:
    """Headers of the record that settles a dead letter. It has the key of the dead letter and no value."""
    said = {"action": resolution.action, "entry": str(resolution.entry), "time": rfc3339(now)}
    return [(PREFIX + name, text.encode()) for name, text in said.items()]


def source_of(topic: str) -> str:
    """The topic whose dead letters are meant, by its own name or that of its dead-letter topic."""
    return topic.removesuffix(_SUFFIX)


def _foreign(headers: Iterable[tuple[str, bytes | None]]) -> Headers:
    """The headers that are not ours to write."""
    return [(name, value) for name, value in headers if not name.startswith((PREFIX, origin.PREFIX))]


def _resolution(found: dict[str, bytes | None]) -> Resolution | None:
    try:
        return Resolution(Position.parse(_text(found, "entry")), Action(_text(found, "action")))
    except ValueError:
        return None


def _text(found: dict[str, bytes | None], name: str) -> str:
    return (found.get(name) or b"").decode(errors="backslashreplace")


def _time(text: str) -> datetime | None:
    try:
        return _TIME.validate_python(text)
    except ValidationError:
        return None
