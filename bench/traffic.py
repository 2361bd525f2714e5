"""The shipped community messages as traffic of any length, and its way into Kafka."""

import asyncio
import importlib.resources
import random
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

from streams.produce import Producer, read_rows
from streams.settings import Settings

Row = dict[str, Any]

_TOGETHER = 1000  # rows that wait for Kafka at once


def shipped() -> list[Row]:
    """The messages as they are shipped."""
    file = importlib.resources.files("deploy") / "traffic" / "community.jsonl"
    return list(read_rows(file.read_text(encoding="utf-8").splitlines()))


def distinct(rows: int, salt: str = "") -> list[Row]:
    """The shipped messages again and again, each time as other threads with other words at the end of the text.

    No text comes twice, so no judgement can be reused. salt: makes the texts differ from those of another salt.
    """
    return list(islice(_distinct(salt), rows))


def _distinct(salt: str) -> Iterator[Row]:
    messages = shipped()
    for copy in count():
        for row in messages:
            yield row | {
                "id": f"{row['id']}-{salt}{copy}",
                "thread": f"{row['thread']}-{copy}",
                "text": f"{row['text']} ({salt}{copy})",
            }


def repeating(rows: int, share: float, seed: int = 1, *, threads: bool) -> tuple[list[Row], int]:
    """Traffic in which a row repeats an earlier text with probability `share`, and the number of those that do.

    Which one is drawn by Zipf's law with exponent 1 over the texts in the order of their first appearance. threads:
    keep the threads, so that what was said before differs; otherwise each message stands alone.
    """
    chance = random.Random(seed)
    fresh = _distinct("")
    texts: list[str] = []
    weights: list[float] = []  # cumulative
    found: list[Row] = []
    for number in range(rows):
        row = next(fresh) | {"id": f"r-{number}"}
        if texts and chance.random() < share:
            row["text"] = chance.choices(texts, cum_weights=weights)[0]
        else:
            texts.append(row["text"])
            weights.append((weights[-1] if weights else 0.0) + 1 / len(texts))
        found.append(row if threads else {name: value for name, value in row.items() if name != "thread"})
    return found, rows - len(texts)


async def publish(settings: Settings, topic: str, rows: Iterable[Row]) -> None:
    """Publish rows as any producer does, in order, as fast as Kafka takes them."""
    async with Producer(settings, "/bench") as producer:
        rest = iter(rows)
        while some := list(islice(rest, _TOGETHER)):
            await asyncio.gather(*(producer.publish(topic, row) for row in some))


def size(rows: Iterable[Row]) -> float:
    """Mean bytes of a text."""
    sizes = [len(row["text"].encode()) for row in rows]
    return sum(sizes) / len(sizes)
