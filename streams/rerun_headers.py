"""The headers of a message that one stage is to judge anew, while the others that read its topic pass it over.

The earlier messages that were read with the event come along as the last texts of its context; a header has their row
ids.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from streams.cloudevents import Headers
from streams.identity import row_of, uuid_text
from streams.origin import RERUN, Placed

_READ_WITH = "weir_rerun_context"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rerun(Struct, frozen=True):
    """What the headers say.

    stage: `pipeline/stage` that is meant. asked: when it was asked for. context: what the event came with. read_with:
    row id and text of the earlier messages.
    """

    stage: str
    asked: datetime
    context: tuple[str, ...]
    read_with: tuple[tuple[int, str], ...]


def write(stage: str, read_with: Sequence[int]) -> Headers:
    """Headers beside those of the message's origin. read_with: row ids of the earlier messages."""
    rows = ",".join(map(uuid_text, read_with))
    return [(RERUN, stage.encode()), *([(_READ_WITH, rows.encode())] if rows else [])]


def read(stage: str, message: Placed, context: tuple[str, ...]) -> Rerun:
    """What the headers of such a message say. Row ids that are not well-formed, or too many, say nothing.

    context: of the message.
    """
    rows = _rows(dict(message.headers or ()).get(_READ_WITH) or b"")
    own = len(context) - len(rows)
    if own < 0:
        own, rows = len(context), []
    return Rerun(stage, _published(message), context[:own], tuple(zip(rows, context[own:], strict=True)))


def _rows(listed: bytes) -> list[int]:
    try:
        return [row_of(text) for text in listed.decode().split(",")] if listed else []
    except ValueError:
        return []


def _published(message: Placed) -> datetime:
    """Kafka's time of the message itself; now if that is none."""
    try:
        return _EPOCH + timedelta(seconds=message.timestamp or 0)
    except (OverflowError, ValueError):
        return datetime.now(UTC)
