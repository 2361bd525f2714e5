"""A producer as any other: text messages to a topic, with CloudEvents headers and the thread as key."""

from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer

from streams import cloudevents
from streams.kafka import MAX_MESSAGE_BYTES, client_options
from streams.records import MESSAGE_TYPE, TextMessage
from streams.settings import Settings

_FIELDS = tuple(TextMessage.model_fields)


class Producer:
    """Publishes rows as they are: what is wrong in them is for the worker to find."""

    def __init__(self, settings: Settings, source: str) -> None:
        """source: CloudEvents source of the events."""
        self._source = source
        self._stack = AsyncExitStack()
        self._producer = AIOKafkaProducer(
            **client_options(settings), acks="all", linger_ms=5, max_request_size=MAX_MESSAGE_BYTES
        )

    async def __aenter__(self) -> "Producer":
        try:
            await self._producer.start()
        except BaseException:
            await self._producer.stop()
            raise
        self._stack.push_async_callback(self._producer.stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def publish(self, topic: str, row: dict[str, Any], key: str = "") -> None:
        """Return when Kafka has acknowledged the row. Fields that a text message does not have are left out, and
        `time` is now if the row has none. key: instead of the thread. Raises KafkaError.
        """
        now = datetime.now(UTC)
        name = row.get("id") or uuid4()  # CloudEvents want a name for every event
        body = {"time": cloudevents.rfc3339(now)} | {name: row[name] for name in _FIELDS if name in row}
        thread = body.get("thread")
        headers = cloudevents.headers(
            id=str(name), source=self._source, type=MESSAGE_TYPE, time=now, subject=str(thread or "")
        )
        named = key or str(thread or "")
        await self._producer.send_and_wait(
            topic, orjson.dumps(body), named.encode() if named else None, headers=list(headers)
        )


def read_rows(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Rows of a JSON-lines text. Raises ValueError with the number of a line that is no JSON object."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is JSON, but no object")
            yield row
