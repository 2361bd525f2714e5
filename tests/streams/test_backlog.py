"""What the broker says of where topics begin and end, and how much a reader has before it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from faust.types import TP

from streams.backlog import Backlog
from streams.settings import Settings

Until = Callable[..., Awaitable[Any]]
NewTopic = Callable[..., Awaitable[str]]

NOTHING: dict[tuple[str, int], int] = {}


@pytest.fixture
def committed() -> dict[TP, int]:
    """What the group has committed."""
    return {}


@pytest.fixture
async def backlog(settings: Settings, committed: dict[TP, int]) -> AsyncIterator[Backlog]:
    looking = Backlog(settings, lambda tp: committed.get(tp, 0), look_seconds=0.02)
    task = asyncio.create_task(looking.run())
    yield looking
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_not_taken_is_what_stands_behind_each_position(
    backlog: Backlog, committed: dict[TP, int], new_topic: NewTopic, produce: Any, until: Until
) -> None:
    topic, other = await new_topic(3), await new_topic()
    for partition in (0, 0, 0, 1, 2):
        await produce(topic, b"x", partition=partition)
    await produce(other, b"x")

    def messages(**position: int) -> int | None:
        waiting = backlog.of(topic, {(topic, int(name[1:])): offset for name, offset in position.items()})
        return None if waiting is None else waiting.messages

    assert messages() is None
    mine = {TP(topic, 0), TP(topic, 1), TP(other, 0)}
    backlog.assigned(mine)
    assert messages() is None
    await until(lambda: messages() == 4)
    assert messages(p0=2) == 2
    assert messages(p0=3, p1=1) == 0
    committed[TP(topic, 0)] = 1
    assert messages() == 3
    assert messages(p0=2) == 2
    await produce(topic, b"x", partition=1)
    await until(lambda: messages(p0=3) == 2)
    backlog.assigned({TP(topic, 1), TP(topic, 2)})
    await until(lambda: messages(p1=2) == 1)
    backlog.assigned({TP(other, 0)})
    assert messages() == 0
    assert backlog.of(other, {(other, 0): 7}) is None or await until(lambda: backlog.of(other, NOTHING))


async def test_a_topic_that_does_not_grow_is_still(
    backlog: Backlog, new_topic: NewTopic, produce: Any, until: Until
) -> None:
    topic = await new_topic()
    await produce(topic, b"x")
    backlog.assigned({TP(topic, 0)})
    still = (await until(lambda: backlog.of(topic, NOTHING))).still
    await until(lambda: backlog.of(topic, NOTHING).still > max(still, 0.1))
    before = backlog.of(topic, NOTHING).still
    await produce(topic, b"x")
    await until(lambda: backlog.of(topic, NOTHING).still < before)
    assert backlog.of(topic, NOTHING).messages == 2


async def test_nothing_is_known_without_a_broker(unused_kafka: Settings) -> None:
    looking = Backlog(unused_kafka, lambda _: 0, look_seconds=0.02)
    task = asyncio.create_task(looking.run())
    looking.assigned({TP("t", 0)})
    assert looking.of("t", NOTHING) is None
    looking.assigned(set())
    assert looking.of("t", NOTHING).messages == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
