"""Messages reach a real broker in order, with their headers, and are tried until they do."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.broker import TansuBroker
from deploy.embedded.process import free_port
from streams import topics
from streams.errors import TopicsMissing, WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES
from streams.publisher import Publisher
from streams.settings import Settings

NewTopic = Callable[..., Awaitable[str]]
Read = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    started = Publisher(settings)
    await started.start()
    yield started
    await started.close()


async def test_an_answer_means_that_kafka_has_the_message(
    publisher: Publisher, new_topic: NewTopic, read: Read
) -> None:
    topic = await new_topic()
    headers = [
        ("ce_id", b"e-1"),
        ("other", b"\xff\xfe"),
        ("empty", b""),
        ("none", None),
        ("twice", b"1"),
        ("twice", b"2"),
    ]
    await publisher.send(topic, b"key", b"value", headers)
    await publisher.send(topic, b"", None, [])
    first, second = await read(topic, 2)
    assert (first.key, first.value, list(first.headers)) == (b"key", b"value", headers)
    assert (second.key, second.value, list(second.headers)) == (b"", None, [])


async def test_a_message_of_headers_only_can_be_sent(publisher: Publisher, new_topic: NewTopic, read: Read) -> None:
    """Such messages exist, and must get to their dead-letter topic."""
    topic = await new_topic()
    await publisher.send(topic, None, None, [("h", b"1")])
    (found,) = await read(topic, 1)
    assert (found.key or None, found.value, list(found.headers)) == (None, None, [("h", b"1")])


async def test_messages_of_a_key_stay_in_order(publisher: Publisher, new_topic: NewTopic, read: Read) -> None:
    topic = await new_topic(3)
    keys = [b"a", b"b", b"c", b"d"]

    async def publish(key: bytes) -> None:
        for number in range(25):
            await publisher.send(topic, key, b"%d" % number, [])

    await asyncio.gather(*map(publish, keys))
    found = await read(topic, 100)
    for key in keys:
        mine = [message for message in found if message.key == key]
        assert [int(message.value) for message in sorted(mine, key=lambda message: message.offset)] == list(range(25))
        assert len({message.partition for message in mine}) == 1


async def test_the_longest_message_and_its_dead_letter_fit(
    publisher: Publisher, new_topic: NewTopic, read: Read
) -> None:
    topic = await new_topic()
    await publisher.send(topic, b"k", b"x" * MAX_MESSAGE_BYTES, [("h", b"y" * 32 * 1024)])
    (found,) = await read(topic, 1)
    assert len(found.value) == MAX_MESSAGE_BYTES


async def test_a_message_that_is_too_long_stops_the_worker(publisher: Publisher, new_topic: NewTopic) -> None:
    topic = await new_topic()
    size = MAX_DEAD_LETTER_BYTES + 64 * 1024
    with pytest.raises(WorkerMisconfigured, match=rf"topic {topic} refuses a message of {size} bytes; .*topics create"):
        await publisher.send(topic, None, b"x" * size, [])


async def test_missing_topics_are_named(publisher: Publisher, new_topic: NewTopic) -> None:
    topic = await new_topic()
    await publisher.require([topic])
    await publisher.require([])
    with pytest.raises(TopicsMissing, match=r"topics are missing: not-a, not-b; run: weir topics create"):
        await publisher.require(["not-b", topic, "not-a"])


async def test_a_cluster_that_answers_is_ready(publisher: Publisher) -> None:
    assert await publisher.ready() is None


async def test_a_publisher_that_is_not_started_is_not_ready(unused_kafka: Settings) -> None:
    publisher = Publisher(unused_kafka)
    assert await publisher.ready()
    await publisher.close()


async def test_messages_wait_for_a_broker_that_is_down(tmp_path: Path, until: Callable[..., Awaitable[Any]]) -> None:
    port = free_port()
    settings = Settings(kafka_url=f"kafka://127.0.0.1:{port}")
    with TansuBroker(tmp_path, port) as broker:
        await topics.create(settings, [topics.Topic("t", "test")], 1, 1)
        publisher = Publisher(settings)
        await publisher.start()
        await publisher.send("t", None, b"before", [])
        broker.signal(signal.SIGKILL)
        broker.wait()
        waiting = asyncio.create_task(publisher.send("t", None, b"after", []))
        assert await until(publisher.ready)
        assert not waiting.done()
    with TansuBroker(tmp_path, port):
        await until(lambda: topics.create(settings, [topics.Topic("t", "test")], 1, 1))
        async with asyncio.timeout(15):
            await waiting
        assert await publisher.ready() is None
        await publisher.close()
