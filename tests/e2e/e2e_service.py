"""What the end-to-end tests share: addresses, a worker, a producer and a reader."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from deploy.embedded.process import ChildProcess, free_port, http_ok
from streams.settings import Settings

PIPELINES = Path(__file__).with_name("pipelines")
SECONDS = 180.0  # far more than anything here takes: a test that waits longer hangs


@dataclass(frozen=True)
class Service:
    """Addresses of the servers, as settings of a worker and of our own clients."""

    settings: Settings
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        values = self.settings.model_dump(exclude_defaults=True, mode="json")
        return {f"WEIR_{name.upper()}": str(value) for name, value in values.items()}

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.settings.web_port}"

    @property
    def bootstrap(self) -> str:
        return self.settings.kafka_url.removeprefix("kafka://")

    def weir(self, *arguments: str, stdin: str | None = None, status: int = 0) -> str:
        """Run the command line; its standard output. Fails the test on another exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "streams", *arguments],
            env={**os.environ, **self.environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    @contextmanager
    def worker(self, pipelines: Path = PIPELINES, **settings: str) -> Iterator[ChildProcess]:
        """`weir worker`, ready. settings: other than those of the service, such as WEIR_DRAIN_SECONDS."""
        argv = [sys.executable, "-m", "streams", "worker", "--pipelines", str(pipelines)]
        with ChildProcess("worker", argv, self.folder / "worker.log", self.environment | settings) as child:
            port = settings.get("WEIR_WEB_PORT", self.settings.web_port)
            child.wait_ready(lambda: http_ok(f"http://127.0.0.1:{port}/health/ready"), SECONDS)
            yield child

    def one_more(self, group: str) -> AbstractContextManager[ChildProcess]:
        """A worker beside others of the same consumer group."""
        return self.worker(WEIR_WEB_PORT=str(free_port()), WEIR_KAFKA_GROUP=group)

    async def publish(self, topic: str, *messages: "Message") -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", max_request_size=8 * 1024 * 1024
        ) as producer:
            for message in messages:
                await producer.send_and_wait(topic, message.value, message.key, headers=list(message.headers))

    @asynccontextmanager
    async def reading(self, *topics: str) -> AsyncIterator["Reader"]:
        client = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=8 * 1024 * 1024,
        )
        await client.start()
        try:
            yield Reader(client)
        finally:
            await client.stop()


@dataclass(frozen=True)
class Message:
    """What a producer sends."""

    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Reader:
    """An ordinary consumer, which remembers everything that it has read."""

    def __init__(self, client: AIOKafkaConsumer) -> None:
        self._client = client
        self.records: list[ConsumerRecord[Any, Any]] = []

    async def until(self, enough: Callable[[list[ConsumerRecord[Any, Any]]], bool]) -> list[ConsumerRecord[Any, Any]]:
        """Read until what was read is enough; everything read so far."""
        async with asyncio.timeout(SECONDS):
            while not enough(self.records):
                self.records.append(await self._client.getone())
        return self.records

    async def count(self, number: int) -> list[ConsumerRecord[Any, Any]]:
        return await self.until(lambda records: len(records) >= number)

    async def quiet(self) -> list[ConsumerRecord[Any, Any]]:
        """Read what there is until nothing more comes."""
        while batch := await self._client.getmany(timeout_ms=1500):
            self.records += [record for records in batch.values() for record in records]
        return self.records


def text(words: str, key: str | None = None, **fields: Any) -> Message:
    """A well-formed message."""
    return Message(orjson.dumps({"text": words, **fields}), key.encode() if key else None)


def verdicts(records: Sequence[ConsumerRecord[Any, Any]]) -> dict[str, dict[str, Any]]:
    """Verdicts by the id of their event, as a reader that keys by row id would see them."""
    decoded = [orjson.loads(record.value) for record in records]
    return {verdict["source"]["id"]: verdict for verdict in decoded}


async def wait_for(condition: Callable[[], Any]) -> None:
    """Ask again and again, for things that no event tells of."""
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
