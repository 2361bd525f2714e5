"""One identity for ever: a row id depends only on what the row is.

A row id is a 128-bit integer in the layout of UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then 74 bits of
a hash where a UUID has random ones. Ids therefore sort by event time, and the same event always gives the same id.
"""

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HASH_BITS = 74
_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def time_ms(time: datetime) -> int:
    """A time in Unix milliseconds."""
    return (time - _EPOCH) // timedelta(milliseconds=1)  # a product of floats may be one less


def digest_of(*parts: str | int) -> bytes:
    """16 bytes (BLAKE2b) that stand for these parts in this order; where one part ends and the next begins counts."""
    named = [f"{type(part).__name__}:{part}".encode() for part in parts]
    return blake2b(b"".join([len(name).to_bytes(4, "big") + name for name in named]), digest_size=16).digest()


def row_id(time_ms: int, *what: str | int) -> int:
    """The id of the row that `what` names.

    time_ms: event time, Unix milliseconds from 0 to 2**48 - 1. what: everything that tells this row from any other.
    Raises ValueError if the time is out of range.
    """
    if not 0 <= time_ms < 1 << 48:
        raise ValueError(f"time_ms must be from 0 to 2**48 - 1, not {time_ms}")
    bits = int.from_bytes(digest_of(*what), "big") & ((1 << _HASH_BITS) - 1)
    high, low = bits >> 62, bits & ((1 << 62) - 1)
    return time_ms << 80 | _VERSION_7 | high << 64 | _VARIANT | low


def event_row_id(time_ms: int, source: str, event_id: str) -> int:
    """The row of an event that its producer named."""
    return row_id(time_ms, "event", source, event_id)


def offset_row_id(time_ms: int, topic: str, partition: int, offset: int) -> int:
    """The row of an event without a name: its place in Kafka is its identity."""
    return row_id(time_ms, "offset", topic, partition, offset)


def stage_row_id(time_ms: int, pipeline: str, stage: str, index: int, parents: list[int]) -> int:
    """The row that a stage makes of its parents. index: its number among the rows made of the same parents."""
    return row_id(time_ms, "stage", pipeline, stage, index, *parents)


def row_of(text: str) -> int:
    """The row id that `uuid_text` wrote. Raises ValueError."""
    return UUID(text).int


def document_row_id(time_ms: int, tenant: str, document: str, text: str) -> int:
    """The row of a version of a document. time_ms: from when on it holds."""
    return row_id(time_ms, "document", tenant, document, text)


def uuid_text(row: int) -> str:
    """A row id as people and JSON write it."""
    text = f"{row:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
