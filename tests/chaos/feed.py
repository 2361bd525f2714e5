"""The messages of a schedule as bytes, and their publication."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import http_calls
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from schedule import Planned, Poison
from tape import EVENT_HEADER, NUMBER_HEADER


class Feed:
    """Publishes each message until the broker has it."""

    def __init__(self, bootstrap: str, seed: int) -> None:
        self._bootstrap = bootstrap
        self._seed = seed
        self._number = 0
        self._start = datetime.now(UTC)

    def event_id(self, event: int) -> str:
        """The id that an event carries."""
        return f"c{self._seed}-{http_calls.token(event)}"

    async def publish(self, topic: str, messages: Sequence[Planned], *, pauses: bool) -> None:
        """In order. pauses: keep the pauses that the messages ask for."""
        async with AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", request_timeout_ms=10_000) as client:
            for message in messages:
                if pauses:
                    await asyncio.sleep(message.pause)
                event = "" if message.event is None else self.event_id(message.event)
                headers = [(EVENT_HEADER, event.encode()), (NUMBER_HEADER, str(self._number).encode())]
                self._number += 1
                while True:
                    try:
                        await client.send_and_wait(topic, self._value(message), message.key.encode(), headers=headers)
                        break
                    except KafkaError:
                        await asyncio.sleep(0.5)

    def _value(self, message: Planned) -> bytes | None:
        if message.event is None:
            return _POISON[message.poison or Poison.EMPTY_TEXT]
        body: dict[str, object] = {
            "id": self.event_id(message.event),
            "text": f"{http_calls.token(message.event)} {message.words}",
            "time": (self._start + timedelta(milliseconds=message.event)).isoformat(),
            "thread": message.key,
        }
        if message.turn is not None:
            speaker = "agent" if message.turn % 2 else "customer"
            body |= {"turn": message.turn, "final": message.final, "author": speaker}
        return orjson.dumps(body)


_POISON: dict[Poison, bytes | None] = {
    Poison.BROKEN_JSON: b'{"text": "unfinished',
    Poison.NO_VALUE: None,
    Poison.EMPTY_TEXT: b'{"text": " \\n "}',
    Poison.WRONG_TYPE: b'{"text": 5, "id": ["no", "name"]}',
    Poison.NOT_UTF8: b'{"text": "\xff\xfe"}',
}
