"""Nothing is committed past an unfinished event, on a real broker; stock Faust does commit past it."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.group import LeaveGroupRequest
from faust.types import TP

from deploy.embedded.process import ChildProcess
from streams import topics
from streams.consumer import App, SafeConsumer, SafeTransport
from streams.kafka import client_options
from streams.settings import Settings

Until = Callable[..., Awaitable[Any]]
NewTopic = Callable[..., Awaitable[str]]
Produce = Callable[..., Awaitable[Any]]
GetMessage = Callable[..., Any]
Reading = Callable[..., Awaitable[tuple[App, list[Any]]]]

SLOW, LAST = 25, 31
TP0 = TP("messages", 0)


@asynccontextmanager
async def watching(settings: Settings, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A client that can ask what the group has committed."""
    client = AIOKafkaConsumer(**client_options(settings), group_id=group, enable_auto_commit=False)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


@dataclass(frozen=True)
class Outcome:
    """What a kill did. committed: of partition 0 when it came. seen_again: offsets of partition 0 after the restart."""

    committed: int
    seen_again: Sequence[int]


Outcomes = Awaitable[dict[str, Outcome]]


class Scenario:
    """An application that never finishes one event is killed, and started again without that event being slow."""

    def __init__(self, kind: str, settings: Settings, topic: str, folder: Path, until: Until) -> None:
        self._kind = kind
        self._settings = settings
        self._topic = topic
        self._folder = folder
        self._until = until

    async def play(self, produce: Produce) -> Outcome:
        for _ in range(LAST):
            await produce(self._topic, b"x", partition=0)
        with self._start("first", SLOW) as first:
            async with watching(self._settings, self._topic) as client:
                await self._until(lambda: self._seen("first", 0)[LAST - 1 :])
                # Everything but the slow event is done. A commit takes all partitions, so when that of a later event
                # of the other partition is there, this one had its chance; twice, because Faust needs two.
                for number in (1, 2):
                    await produce(self._topic, b"x", partition=1)
                    await self._until(lambda number=number: self._is_committed(client, number))
                committed = await client.committed(TopicPartition(self._topic, 0))
            first.signal(signal.SIGKILL)
            first.wait()
        await produce(self._topic, b"x", partition=0)
        with self._start("second", -1):
            await self._until(lambda: LAST in self._seen("second", 0))
        return Outcome(committed, self._seen("second", 0))

    def _start(self, name: str, slow: int) -> ChildProcess:
        program = Path(__file__).with_name("slow_event_app.py")
        argv = [self._kind, self._settings.kafka_url, self._topic, self._topic, str(slow), str(self._folder / name)]
        log = self._folder / f"{self._kind}-{name}.log"
        return ChildProcess(self._kind, [sys.executable, str(program), *argv], log)

    def _seen(self, name: str, partition: int) -> list[int]:
        log = self._folder / name
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [int(offset) for found, offset in lines if int(found) == partition]

    async def _is_committed(self, client: AIOKafkaConsumer, offset: int) -> bool:
        return bool(await client.committed(TopicPartition(self._topic, 1)) == offset)


@pytest.fixture(scope="module", autouse=True)
async def outcomes(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory, until: Until
) -> AsyncIterator[Outcomes]:
    """Both kinds of application at once, while the other tests run: each spends most of its time waiting."""
    kinds = ("safe", "stock")
    await topics.create(settings, [topics.Topic(kind, "test") for kind in kinds], 2, 1)
    scenarios = [Scenario(kind, settings, kind, tmp_path_factory.mktemp(kind), until) for kind in kinds]

    async def play() -> dict[str, Outcome]:
        producer = AIOKafkaProducer(**client_options(settings))
        await producer.start()
        try:
            found = await asyncio.gather(*(scenario.play(producer.send_and_wait) for scenario in scenarios))
        finally:
            await producer.stop()
        return dict(zip(kinds, found, strict=True))

    playing = asyncio.create_task(play())
    yield playing
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


class Offline(SafeConsumer):
    """A consumer without a broker: what is assigned to it, and whether a commit succeeds, is said by the test."""

    assigned: ClassVar[set[TP]] = {TP0}
    commits = True

    def assignment(self) -> set[TP]:
        return self.assigned

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return self.commits


@pytest.fixture
def consumer() -> Offline:

    async def nothing(*_: Any) -> None: ...

    app = App("test", broker="kafka://127.0.0.1:9", store="memory://")
    return Offline(app.transport, nothing, nothing, nothing)


async def deliver(consumer: Offline, get: GetMessage, *offsets: int) -> list[Any]:
    messages = [get(b"x", topic=TP0.topic, partition=TP0.partition, offset=offset) for offset in offsets]
    for message in messages:
        await consumer.callback(message)
    return messages


async def test_an_application_has_this_consumer() -> None:
    app = App("test", broker="kafka://127.0.0.1:9", store="memory://")
    assert type(app.transport) is SafeTransport
    assert type(app.consumer) is SafeConsumer


async def test_a_partition_is_committed_to_its_first_unfinished_event(consumer: Offline, message: GetMessage) -> None:
    assert consumer._filter_committable_offsets([]) == {}
    first, second, third = await deliver(consumer, message, 0, 1, 5)
    assert consumer._new_offset(TP0) == 0
    assert consumer.ack(third)
    assert consumer.ack(first)
    assert consumer._new_offset(TP0) == 1
    assert not consumer.ack(first)
    assert consumer.ack(second)
    assert consumer._new_offset(TP0) == 6
    assert all(each.acked for each in (first, second, third))


async def test_gaps_hold_nothing_back(consumer: Offline, message: GetMessage) -> None:
    await consumer._add_gap(TP0, 1, 4)
    (found,) = await deliver(consumer, message, 5)
    consumer.ack(found)
    assert consumer._new_offset(TP0) == 6


async def test_partitions_are_committed_by_topic_or_by_name(consumer: Offline, message: GetMessage) -> None:
    await deliver(consumer, message, 0)
    other = TP("other", 1)
    await consumer.callback(message(b"x", topic=other.topic, partition=other.partition))
    assert set(consumer._filter_tps_with_pending_acks()) == {TP0, other}
    assert set(consumer._filter_tps_with_pending_acks({"other"})) == {other}
    assert set(consumer._filter_tps_with_pending_acks({TP0})) == {TP0}


async def test_work_on_a_partition_that_was_revoked_is_not_committed(consumer: Offline, message: GetMessage) -> None:
    early, late = await deliver(consumer, message, 0, 1)
    consumer.ack(early)
    await consumer.on_partitions_revoked({TP0})
    assert not consumer.ack(late)
    assert list(consumer._filter_tps_with_pending_acks()) == []
    (again,) = await deliver(consumer, message, 1)
    assert not consumer.ack(late)
    assert consumer._new_offset(TP0) == 1
    assert consumer.ack(again)
    assert consumer._new_offset(TP0) == 2


async def test_other_partitions_are_kept_when_one_is_revoked(consumer: Offline, message: GetMessage) -> None:
    (kept,) = await deliver(consumer, message, 0)
    await consumer.on_partitions_revoked({TP("other", 1)})
    assert consumer.ack(kept)
    assert consumer._new_offset(TP0) == 1


async def test_a_commit_that_failed_is_not_remembered(consumer: Offline, message: GetMessage) -> None:
    told: list[Mapping[TP, int]] = []
    consumer.app.on_commit = told.append
    (found,) = await deliver(consumer, message, 0)
    consumer.ack(found)
    consumer.commits = False
    assert not await consumer.force_commit()
    assert not await consumer.force_commit()
    consumer.commits = True
    assert await consumer.force_commit()
    assert not await consumer.force_commit()  # there is nothing new
    assert told == [{TP0: 1}]


async def test_what_is_not_assigned_is_not_committed(consumer: Offline, message: GetMessage) -> None:
    told: list[Mapping[TP, int]] = []
    consumer.app.on_commit = told.append
    other = TP("other", 1)
    (found,) = await deliver(consumer, message, 0)
    also = message(b"x", topic=other.topic, partition=other.partition)
    await consumer.callback(also)
    consumer.ack(found)
    consumer.ack(also)
    assert await consumer.force_commit()
    assert told == [{TP0: 1}]
    consumer.assigned = {other}  # type: ignore[misc]
    assert await consumer.force_commit()
    assert told[1:] == [{other: 42}]


@pytest.fixture
async def reading(settings: Settings) -> AsyncIterator[Reading]:
    """`app, events = await reading(topic)`: an application that reads the topic and acknowledges nothing."""
    apps: list[App] = []

    async def start(topic: str, commit_seconds: float = 1) -> tuple[App, list[Any]]:
        app = App(
            topic,
            broker=settings.kafka_url,
            broker_session_timeout=3,
            broker_heartbeat_interval=1,
            broker_commit_interval=commit_seconds,
            consumer_auto_offset_reset="earliest",
            topic_allow_declare=False,
            stream_wait_empty=False,
            topic_disable_leader=True,
            web_enabled=False,
            store="memory://",
            value_serializer="raw",
            autodiscover=False,
        )
        events: list[Any] = []

        async def read(stream: Any) -> None:
            async for event in stream.noack().events():
                events.append(event)  # noqa: PERF401  it grows while the test looks at it

        app.agent(app.topic(topic, value_serializer="raw"))(read)
        app.finalize()
        apps.append(app)
        await app.start()
        return app, events

    yield start
    for app in apps:
        await app.stop()


async def test_a_commit_that_is_refused_is_tried_again(
    settings: Settings,
    reading: Reading,
    new_topic: NewTopic,
    produce: Produce,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker forgets the member, as after a long silence: its next commit is refused."""
    topic = await new_topic()
    for _ in range(3):
        await produce(topic, b"x")
    app, events = await reading(topic, commit_seconds=3600)  # only the test commits
    committed: list[int] = []
    app.on_commit = lambda offsets: committed.append(offsets[TP(topic, 0)])
    await until(lambda: len(events) == 3)
    for event in events[:2]:
        event.ack()
    assert await app.consumer.commit()
    assert committed == [2]

    events[2].ack()
    await leave(settings, topic, app.consumer._thread._consumer._coordinator.member_id)
    with caplog.at_level(logging.WARNING, "streams.consumer"):
        assert not await app.consumer.commit()
    assert "offsets were not committed" in caplog.text
    assert committed == [2]
    assert app.crash_reason is None

    await until(lambda: committed == [2, 3])  # before it joins again, it gives its partition back and tries again
    async with watching(settings, topic) as client:
        assert await client.committed(TopicPartition(topic, 0)) == 3


async def test_a_fetch_that_nobody_waits_for_any_more_is_undone(
    reading: Reading, new_topic: NewTopic, produce: Produce, until: Until
) -> None:
    """As when a rebalance ends the reader while its fetch goes on in the thread, and what it finds goes to nobody."""
    topic = await new_topic()
    await produce(topic, b"first")
    app, events = await reading(topic)
    await until(lambda: len(events) == 1)
    await app._fetcher.stop()
    thread = app.consumer._thread
    orphan = asyncio.create_task(thread.getmany({TP(topic, 0)}, timeout=15))
    await asyncio.sleep(0)  # it has been asked for
    app.consumer.assignments += 1
    await produce(topic, b"second")
    assert await orphan == {}
    app._fetcher.service_reset()
    await app._fetcher.maybe_start()
    await until(lambda: [event.value for event in events] == [b"first", b"second"])


async def test_a_slow_event_survives_a_kill(outcomes: Outcomes) -> None:
    found = await outcomes
    assert found["safe"] == Outcome(SLOW, list(range(SLOW, LAST + 1)))


async def test_stock_faust_loses_it(outcomes: Outcomes) -> None:
    """If this fails, Faust has mended its commit rule, and `streams.consumer` may go."""
    found = await outcomes
    assert found["stock"] == Outcome(LAST, [LAST])


async def leave(settings: Settings, group: str, member: str) -> None:
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    coordinator = await admin.find_coordinator(group)
    await admin._send_request(LeaveGroupRequest(group, member), coordinator)
    await admin.close()
