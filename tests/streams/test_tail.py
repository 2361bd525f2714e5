"""An ordinary consumer that leaves no trace."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.kafka import MAX_MESSAGE_BYTES, client_options
from streams.settings import Settings
from streams.tail import consumer

NewTopic = Callable[..., Awaitable[str]]
Produce = Callable[..., Awaitable[Any]]


async def test_all_that_a_topic_holds_and_then_what_comes(
    settings: Settings, new_topic: NewTopic, produce: Produce
) -> None:
    topic = await new_topic(2)
    await produce(topic, b"0", partition=0)
    await produce(topic, b"1", partition=1)
    async with consumer(settings, topic, from_start=True) as messages, asyncio.timeout(20):
        assert {(await anext(messages)).value for _ in range(2)} == {b"0", b"1"}
        await produce(topic, b"2")
        assert (await anext(messages)).value == b"2"


async def test_only_what_comes(settings: Settings, new_topic: NewTopic, produce: Produce) -> None:
    topic = await new_topic()
    await produce(topic, b"before")
    async with consumer(settings, topic, from_start=False) as messages, asyncio.timeout(20):
        for partition in messages.assignment():
            await messages.position(partition)  # the end is found when it is asked for
        await produce(topic, b"after")
        assert (await anext(messages)).value == b"after"


async def test_several_topics(settings: Settings, new_topic: NewTopic, produce: Produce) -> None:
    one, other = await new_topic(), await new_topic()
    await produce(one, b"1")
    await produce(other, b"2")
    async with consumer(settings, one, other, from_start=True) as messages, asyncio.timeout(20):
        assert {(await anext(messages)).topic for _ in range(2)} == {one, other}


async def test_the_longest_message_comes_whole(settings: Settings, new_topic: NewTopic, produce: Produce) -> None:
    topic = await new_topic()
    await produce(topic, b"x" * MAX_MESSAGE_BYTES)
    async with consumer(settings, topic, from_start=True) as messages, asyncio.timeout(20):
        assert len((await anext(messages)).value) == MAX_MESSAGE_BYTES


async def test_no_group_is_left_behind(settings: Settings, new_topic: NewTopic, produce: Produce) -> None:
    topic = await new_topic()
    await produce(topic, b"0")
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    before = await admin.list_consumer_groups()
    async with consumer(settings, topic, from_start=True) as messages, asyncio.timeout(20):
        await anext(messages)
        assert await admin.list_consumer_groups() == before
    await admin.close()


@pytest.mark.usefixtures("nothing_is_left_open")
async def test_no_broker(unused_kafka: Settings) -> None:
    with pytest.raises(KafkaError):
        async with consumer(unused_kafka, "t", from_start=True):
            pass
