"""Calls as their turns are published, one message each."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from streams.cloudevents import rfc3339

_TURN_SECONDS = 6


def turns_of(call: Mapping[str, Any], began: datetime) -> Iterable[dict[str, Any]]:
    """The messages of a call: `call` or `id`, `turns` of `speaker` and `text`, and what else it says of itself.

    began: when its first turn was spoken; turns are some seconds apart.
    """
    name = str(call.get("call") or call["id"])
    last = len(call["turns"]) - 1
    for number, turn in enumerate(call["turns"]):
        yield {
            "id": f"{name}/{number}",
            "text": turn["text"],
            "time": rfc3339(began + timedelta(seconds=_TURN_SECONDS * number)),
            "thread": name,
            "author": turn["speaker"],
            "lang": call.get("lang", ""),
            "tenant": call.get("tenant", ""),
            "documents": call.get("documents", []),
            "turn": number,
            "final": number == last,
        }
