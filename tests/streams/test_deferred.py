"""Rows that wait are read when their moment has come, in order, and none is passed over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from faust.types import TP

from streams import deferral
from streams.deferral import Deferral
from streams.deferred import DeferredReader, Delivery
from streams.settings import Settings

NewTopic = Callable[..., Awaitable[str]]
Produce = Callable[..., Awaitable[Any]]
Until = Callable[..., Awaitable[Any]]
GetMessage = Callable[..., Any]

MORNING = datetime(2026, 3, 4, 6, tzinfo=UTC)
NOON = MORNING + timedelta(hours=6)


class Stage:
    """Takes rows; they are done when told to be."""

    name = "watch/judge"

    def __init__(self) -> None:
        self.taken: list[Delivery] = []
        self.open: set[str] = set()

    @property
    def texts(self) -> list[str]:
        return [_text(delivery) for delivery in self.taken]

    async def take_deferred(self, delivery: Delivery) -> None:
        self.taken.append(delivery)
        if not _text(delivery).startswith("slow"):
            delivery.ack()

    async def deferred_done(self) -> None:
        """Nobody waits for the slow ones here."""


def _text(delivery: Delivery) -> str:
    return (delivery.message.value or b"").decode()


class Time:
    def __init__(self) -> None:
        self.now = MORNING

    def __call__(self) -> datetime:
        return self.now


class Reading:
    """A reader at work, and one after it as after a restart."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic = topic
        self.time = Time()
        self.assigned: set[TP] = set()
        self.settings = settings
        self._task: asyncio.Task[None] | None = None
        self.stage = Stage()

    def start(self) -> Stage:
        self.stage = Stage()
        reader = DeferredReader(self.settings, {self.topic: [self.stage]}, self._assign, 1.0, self.time)
        self._task = asyncio.create_task(reader.run())
        return self.stage

    def _assign(self, partitions: set[TP]) -> None:
        self.assigned = partitions

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def reading(settings: Settings, new_topic: NewTopic) -> AsyncIterator[Reading]:
    own = settings.model_copy(update={"kafka_group": f"group-{uuid4().hex}", "kafka_session_seconds": 6})
    made = Reading(own, await new_topic(2))
    yield made
    await made.stop()


@pytest.fixture
def wait(reading: Reading, produce: Produce, message: GetMessage) -> Callable[..., Awaitable[None]]:
    """`await wait("words", until, partition)`: a row that waits, in the topic."""

    async def put(text: str, until: datetime, partition: int = 0, stage: str = "watch/judge") -> None:
        headers = deferral.headers(message(b"", headers=[("own", b"x")]), Deferral(stage, until))
        await produce(reading.topic, text.encode(), partition=partition, headers=headers)

    return put


Wait = Callable[..., Awaitable[None]]


async def test_rows_come_when_their_moment_has_come(reading: Reading, wait: Wait, until: Until) -> None:
    for text, moment in [("a", MORNING), ("b", NOON), ("c", NOON)]:
        await wait(text, moment)
    stage = reading.start()
    await wait("sentinel", MORNING, partition=1)
    await until(lambda: len(stage.taken) == 2)
    assert sorted(stage.texts) == ["a", "sentinel"]
    assert reading.assigned == {TP(reading.topic, 0), TP(reading.topic, 1)}
    reading.time.now = NOON
    await until(lambda: len(stage.taken) == 4)
    assert stage.texts[2:] == ["b", "c"]
    assert ("own", b"x") in (stage.taken[2].message.headers or ())


async def test_a_partition_that_waits_holds_no_other_back(reading: Reading, wait: Wait, until: Until) -> None:
    await wait("tomorrow", NOON, partition=0)
    for number in range(700):  # more than one fetch hands out
        await wait(f"{number}", MORNING, partition=1)
    stage = reading.start()
    await until(lambda: len(stage.taken) == 700)
    assert stage.texts == [f"{number}" for number in range(700)]


async def test_after_a_restart_what_waited_waits_and_what_was_not_done_comes_again(
    reading: Reading, wait: Wait, until: Until
) -> None:
    for text, moment in [("done", MORNING), ("slow", MORNING), ("done too", MORNING), ("later", NOON)]:
        await wait(text, moment)
    stage = reading.start()
    await until(lambda: len(stage.taken) == 3)
    await reading.stop()
    stage = reading.start()
    await until(lambda: len(stage.taken) == 2)
    assert stage.texts == ["slow", "done too"]
    reading.time.now = NOON
    await until(lambda: len(stage.taken) == 3)
    assert stage.texts[2] == "later"


async def test_readers_share_the_partitions_and_lose_nothing(reading: Reading, wait: Wait, until: Until) -> None:
    for partition in (0, 1):
        await wait(f"now {partition}", MORNING, partition)
        await wait(f"later {partition}", NOON, partition)
    first = reading.start()
    await until(lambda: len(first.taken) == 2)
    other = Reading(reading.settings, reading.topic)
    second = other.start()
    try:
        await until(lambda: reading.assigned and other.assigned and not reading.assigned & other.assigned, 30)
        assert reading.assigned | other.assigned == {TP(reading.topic, 0), TP(reading.topic, 1)}
        reading.time.now = other.time.now = NOON
        await until(lambda: len(first.taken) + len(second.taken) == 4)
    finally:
        await other.stop()
    assert sorted(first.texts + second.texts) == ["later 0", "later 1", "now 0", "now 1"]


async def test_rows_of_stages_that_are_elsewhere_are_passed_over(reading: Reading, wait: Wait, until: Until) -> None:
    await wait("not ours", MORNING, stage="watch/other")
    await wait("ours", MORNING)
    stage = reading.start()
    await until(lambda: stage.taken)
    assert stage.texts == ["ours"]


async def test_nobody_can_make_rows_wait_for_ever(reading: Reading, wait: Wait, until: Until) -> None:
    await wait("for ever", datetime(9999, 1, 1, tzinfo=UTC))
    await wait("after that", MORNING)
    stage = reading.start()
    await until(lambda: stage.texts == ["for ever", "after that"])


async def test_without_topics_there_is_nothing_to_read(unused_kafka: Settings) -> None:
    await DeferredReader(unused_kafka, {}, lambda partitions: None, 1.0).run()
