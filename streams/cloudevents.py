"""CloudEvents 1.0 in the Kafka protocol binding's binary mode: attributes are headers, the value is the data."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

Headers = Sequence[tuple[str, bytes | None]]

CONTENT_TYPE = "content-type"
_JSON = b"application/json"


def attributes(headers: Iterable[tuple[str, bytes | None]] | None) -> dict[str, str]:
    """The CloudEvents attributes among Kafka headers by name without `ce_`, and `traceparent`.

    Headers that are not UTF-8 are left out: they belong to somebody else. The header `traceparent` goes before
    `ce_traceparent`: the latter says where a trace began, the former who sent this message.
    """
    found: dict[str, str] = {}
    for name, value in headers or ():
        if name == "ce_traceparent" and "traceparent" in found:
            continue
        if value is not None and (name.startswith("ce_") or name == "traceparent"):
            try:
                found[name.removeprefix("ce_")] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


def headers(
    *, id: str, source: str, type: str, time: datetime, subject: str = "", extra: Mapping[str, str] | None = None
) -> Headers:
    """Kafka headers of an event, named as the CloudEvents attributes are. extra: more headers, such as traceparent."""
    named = {
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": source,
        "ce_type": type,
        "ce_time": rfc3339(time),
        **({"ce_subject": subject} if subject else {}),
        **(extra or {}),
    }
    return [(name, value.encode()) for name, value in named.items()] + [(CONTENT_TYPE, _JSON)]


def rfc3339(time: datetime) -> str:
    """UTC time to the millisecond, as in `2026-11-22T09:30:00.000Z`."""
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
