"""What the demo publishes, and what people say that it is."""

import importlib.resources
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline
from streams.produce import read_rows

# What data sets call text that is fine. Every other label means that something is wrong with it.
FINE = frozenset({"ok", "clean", "fine", "neither", "neutral", "none", "normal", "not_toxic", "safe"})


@dataclass(frozen=True, slots=True)
class Item:
    """One event to publish.

    label: what people say that it is; it stays here and is never published. learned: whether the shipped screen was
    fitted to this text.
    """

    topic: str
    id: str
    row: dict[str, Any]
    label: str | None
    learned: bool = False


def shipped(pipelines: Sequence[Pipeline]) -> list[Item]:
    """The text that Weir ships, for the pipelines that it ships, mixed as it would arrive."""
    folder = importlib.resources.files("deploy") / "traffic"
    sources = {"community.messages": "community.jsonl", "support.tickets": "tickets.jsonl"}
    streams = [
        _items((folder / sources[pipeline.source]).read_text(encoding="utf-8").splitlines(), pipeline.source)
        for pipeline in pipelines
    ]
    return [replace(item, learned=_learned(item)) for item in _mixed(streams)]


def _learned(item: Item) -> bool:
    from inference.screen.train import held_out  # the extra `embedded` has what it needs

    return item.topic == "community.messages" and not held_out(item.row["text"])


def from_file(file: Path, topic: str) -> list[Item]:
    """A user's own rows. Raises WorkerMisconfigured if the file cannot be used."""
    try:
        items = _items(file.read_text(encoding="utf-8").splitlines(), topic)
    except (OSError, ValueError) as error:
        raise WorkerMisconfigured(f"{file}: {error}") from error
    if not items:
        raise WorkerMisconfigured(f"{file}: no rows")
    return items


def _items(lines: Iterable[str], topic: str) -> list[Item]:
    return [_item(number, row, topic) for number, row in enumerate(read_rows(lines), 1)]


def _item(number: int, row: dict[str, Any], topic: str) -> Item:
    """People number their rows; an event's name is text."""
    name = str(row.get("id") or f"row-{number:06}")
    label = row.get("label")
    return Item(topic, name, row | {"id": name}, None if label is None else str(label))


def _mixed(streams: Sequence[list[Item]]) -> Iterable[Item]:
    """Items of all streams, each spread evenly over the whole."""
    longest = max(map(len, streams))
    slots: list[list[Item | None]] = [[None] * longest for _ in streams]
    for slot, stream in zip(slots, streams, strict=True):
        for number, item in enumerate(stream):
            slot[number * longest // len(stream)] = item
    for column in zip_longest(*slots):
        yield from (item for item in column if item is not None)
