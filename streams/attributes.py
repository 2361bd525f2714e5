"""What a message says beside its words, as the store keeps it: JSON with what is not empty."""

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from msgspec import Struct

from streams.decode import Event


class Attributes(Struct, frozen=True):
    """As in `streams.decode.Event`."""

    key: bytes | None
    documents: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    turn: int | None = None


def write(event: Event) -> str:
    """The attributes of an event; empty for none. Its key is among them where it is not the thread."""
    said: dict[str, Any] = {}
    if event.turn is not None:
        said["turn"] = event.turn
    if event.documents:
        said["documents"] = event.documents
    if event.context:
        said["context"] = event.context
    if event.key != _usual_key(event.thread):
        said |= _write_key(event.key)
    return orjson.dumps(said).decode() if said else ""


def read(text: str, thread: str) -> Attributes:
    """What `write` wrote of an event of this thread."""
    said: dict[str, Any] = orjson.loads(text) if text else {}
    return Attributes(
        key=_read_key(said, thread),
        documents=tuple(said.get("documents", ())),
        context=tuple(said.get("context", ())),
        turn=said.get("turn"),
    )


def _usual_key(thread: str) -> bytes | None:
    return thread.encode() or None


def _write_key(key: bytes | None) -> Mapping[str, str | None]:
    try:
        return {"key": None if key is None else key.decode()}
    except UnicodeDecodeError:
        return {"key_base64": base64.b64encode(key or b"").decode()}


def _read_key(said: Mapping[str, Any], thread: str) -> bytes | None:
    if "key_base64" in said:
        return base64.b64decode(said["key_base64"])
    if "key" not in said:
        return _usual_key(thread)
    return None if said["key"] is None else str(said["key"]).encode()
