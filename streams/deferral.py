"""A row that waits for another day, in Kafka: as it came, with headers that say where it waits and until when."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from streams import origin
from streams.cloudevents import Headers, rfc3339

PREFIX = "weir_deferred_"
_STAGE, _UNTIL = f"{PREFIX}stage", f"{PREFIX}until"

_TIME = TypeAdapter(AwareDatetime)


@dataclass(frozen=True, slots=True)
class Deferral:
    """stage: pipeline and stage, as in `moderation/judge`. until: when the row's time has come."""

    stage: str
    until: datetime


def headers(message: origin.Placed, deferral: Deferral) -> Headers:
    """Headers of a row that waits: its own, where it stood first, and the deferral. One that waited before says so no
    more.
    """
    own = [header for header in message.headers or () if not header[0].startswith((PREFIX, origin.PREFIX))]
    said = {_STAGE: deferral.stage, _UNTIL: rfc3339(deferral.until)}
    ours = [(name, value.encode()) for name, value in said.items()]
    return [*own, *origin.origin_headers(origin.origin_of(message)), *ours]


def read(headers: Iterable[tuple[str, bytes | None]] | None) -> Deferral | None:
    """What the headers of a row say of its deferral; None if they do not."""
    found = dict(headers or ())
    try:
        until = _TIME.validate_python((found.get(_UNTIL) or b"").decode())
        return Deferral((found.get(_STAGE) or b"").decode(), until)
    except (ValidationError, UnicodeDecodeError):
        return None
