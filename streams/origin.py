"""Where a message stood first: a replay of a dead letter, a row that waited and one that is judged anew name that place
in their headers, and so keep their identity.
"""

import math
import re
from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from streams.cloudevents import Headers
from streams.topics import deferred

PREFIX = "weir_origin_"
REPLAYS = "weir_dlq_replays"
RERUN = "weir_rerun"

_TOPIC, _PARTITION, _OFFSET, _TIMESTAMP = (f"{PREFIX}{name}" for name in ("topic", "partition", "offset", "timestamp"))
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")
_INT32, _INT64 = 2**31, 2**63


class Placed(Protocol):
    """What this module needs of a consumed message. timestamp: Unix seconds, any number."""

    topic: str
    partition: int
    offset: int
    timestamp: float | None
    headers: Iterable[tuple[str, bytes | None]] | None


class Origin(Struct, frozen=True):
    """A place in Kafka. timestamp_ms: Unix milliseconds, None if the message had none. replays: how often the message
    was published again. rerun: `pipeline/stage` that is to judge it anew, and nobody else; empty for none.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    replays: int = 0
    rerun: str = ""


def origin_of(message: Placed) -> Origin:
    """The place that the message's headers name if it is a replay or waited, else its own.

    Headers that are not well-formed, or name another topic, say nothing: a replay goes back to its own topic, a row
    that waits stands in that topic's own for such rows, and nobody who may write to one topic shall speak for another.
    """
    found = dict(message.headers or ())
    if _TOPIC not in found:
        return _own_place(message)
    partition = number(found.get(_PARTITION), _INT32)
    offset = number(found.get(_OFFSET), _INT64)
    timestamp_ms = number(found.get(_TIMESTAMP), _INT64)
    topic = (found.get(_TOPIC) or b"").decode(errors="replace")
    if (
        message.topic not in (topic, deferred(topic))
        or partition is None
        or offset is None
        or (timestamp_ms is None and _TIMESTAMP in found)
    ):
        return _own_place(message)
    rerun = (found.get(RERUN) or b"").decode(errors="replace")
    return Origin(topic, partition, offset, timestamp_ms, number(found.get(REPLAYS), _INT32) or 0, rerun)


def _own_place(message: Placed) -> Origin:
    return Origin(message.topic, message.partition, message.offset, _milliseconds(message.timestamp))


def origin_headers(origin: Origin) -> Headers:
    """Headers from which `origin_of` reads the same place and number of replays."""
    named = {
        _TOPIC: origin.topic,
        _PARTITION: str(origin.partition),
        _OFFSET: str(origin.offset),
        **({} if origin.timestamp_ms is None else {_TIMESTAMP: str(origin.timestamp_ms)}),
        **({REPLAYS: str(origin.replays)} if origin.replays else {}),
    }
    return [(name, value.encode()) for name, value in named.items()]


def number(value: bytes | None, below: int) -> int | None:
    """A header's whole number from 0 to less than `below`; None if it is no such number."""
    if value is None or not _NUMBER.fullmatch(value) or int(value) >= below:
        return None
    return int(value)


def _milliseconds(seconds: float | None) -> int | None:
    if seconds is None or not math.isfinite(seconds) or seconds < 0:  # Kafka writes -1 for none
        return None
    milliseconds = round(seconds * 1000)
    return milliseconds if milliseconds < _INT64 else None
