"""An ordinary consumer: the messages of a topic as they come."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer

from streams.kafka import MAX_DEAD_LETTER_BYTES, client_options
from streams.settings import Settings


@asynccontextmanager
async def consumer(settings: Settings, *topics: str, from_start: bool) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, which commits nothing. Raises KafkaError."""
    client = AIOKafkaConsumer(
        *topics,
        **client_options(settings),
        group_id=None,
        auto_offset_reset="earliest" if from_start else "latest",
        max_partition_fetch_bytes=MAX_DEAD_LETTER_BYTES,
    )
    try:
        await client.start()
        yield client
    finally:
        await client.stop()
