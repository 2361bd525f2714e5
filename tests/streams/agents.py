"""Agents at work: what Faust gives them, and what they share in a worker."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from inference import operators
from inference.cost import Prices
from inference.openai import EngineSettings, OpenAiEngine
from sinks.clickhouse import StoreSettings
from sinks.documents import Documents
from sinks.erasures import ErasureLog
from sinks.judged import Judged
from sinks.spend import Spend
from sinks.writer import Writer
from streams import topics
from streams.admission import Admission
from streams.agent import Agent, Services
from streams.budgets import Budgets
from streams.cascade import Cascade
from streams.erased import Erased
from streams.judge import JudgeAgent
from streams.limit import DeadLetterLimit
from streams.metrics import Metrics
from streams.pipeline import Pipeline, Stage
from streams.publisher import Publisher
from streams.rates import Rates
from streams.settings import Settings
from streams.tracing import UNTRACED, Tracing
from streams.usage import UsageLedger

GetMessage = Callable[..., Any]
Now = Callable[[], datetime]

PRICES = Prices(1, 0.1, 2)


class Delivery:
    """What Faust gives an agent: a message to be acknowledged."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.acked = asyncio.Event()

    def ack(self) -> None:
        self.acked.set()


class Stream:
    """What Faust gives an agent: messages as they come."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Delivery] = asyncio.Queue()

    @property
    async def channel(self) -> AsyncIterator[Delivery]:
        while True:
            yield await self._waiting.get()

    def put(self, message: Any) -> Delivery:
        delivery = Delivery(message)
        self._waiting.put_nowait(delivery)
        return delivery


class Running:
    """An agent at work. Messages are given to it with `put`."""

    def __init__(self, agent: Agent, shared: "Shared", get_message: GetMessage) -> None:
        self.agent = agent
        self.services = shared.services
        self.stopped_by = shared.stopped_by
        self.dead = topics.dead_letters(agent.reads)
        self.messages: list[Any] = []
        self._stream = Stream()
        self._message = get_message
        self._offset = 0
        self.task = asyncio.create_task(agent.run(self._stream))

    def put(self, value: Any, **fields: Any) -> Delivery:
        """Deliver the next message of the topic; words alone are its text."""
        self._offset = fields.get("offset", self._offset + 1)
        body = {"text": value} if isinstance(value, str) else value
        now = datetime.now(UTC).timestamp()
        given = {"topic": self.agent.reads, "offset": self._offset, "timestamp": now} | fields
        delivery = self._stream.put(self._message(body, **given))
        self.messages.append(delivery.message)
        return delivery

    def hand_on(self, read: Any) -> Delivery:
        """Deliver a message that another agent published."""
        place = {"offset": read.offset, "partition": read.partition, "timestamp": read.timestamp / 1000}
        return self.put(read.value, key=read.key, headers=read.headers, **place)

    def count(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.services.metrics.render().decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def close(self) -> None:
        """Stop as a worker does that is killed: rows in flight stay unacknowledged."""
        self.task.cancel()
        self.agent.cancel()
        await asyncio.gather(self.task, *self.agent._tasks, return_exceptions=True)


class Shared:
    """What the agents of one worker share."""

    def __init__(
        self, services: Services, budgets: Budgets, stopped_by: list[Exception], stack: AsyncExitStack
    ) -> None:
        self.services = services
        self.budgets = budgets
        self.stopped_by = stopped_by
        self.stack = stack

    async def judge(
        self, pipeline: Pipeline, stage: Stage, engine_url: str, prompts_in_flight: int = 50
    ) -> tuple[JudgeAgent, OpenAiEngine]:
        """The agent of a stage, and the engine that it asks."""
        client = OpenAiEngine(
            EngineSettings(engine_url, dialect="openai", prompts_in_flight=prompts_in_flight, context_tokens=100_000),
            tracing=self.services.tracing.requests,
        )
        await client.connect()
        self.stack.push_async_callback(client.close)
        operator = operators.create(stage.judge, client, PRICES)
        admission = Admission(pipeline.name, pipeline.limits, Rates(pipeline.limits), self.budgets)
        return JudgeAgent(pipeline, stage, operator, admission, self.services, self._cascade(pipeline, stage)), client

    def _cascade(self, pipeline: Pipeline, stage: Stage) -> Cascade | None:
        if stage.cascade is None:
            return None
        cascade = Cascade(pipeline.name, stage.name, stage.cascade, stage.judge, self.services.metrics)
        self.stack.push_async_callback(cascade.close)
        return cascade


async def share(
    stack: AsyncExitStack,
    settings: Settings,
    store: StoreSettings,
    pipeline: Pipeline,
    rows_in_flight: int = 100,
    dead_letter_share: float = 1,
    now: Now = lambda: datetime.now(UTC),
    tracing: Tracing = UNTRACED,
) -> Shared:
    """What a worker with this pipeline has; closed with the stack. The pipeline's topics are created."""
    await topics.create(settings, topics.topics_of([pipeline]), 1, 1)
    publisher, metrics = Publisher(settings, tracing), Metrics()
    await publisher.start()
    stack.push_async_callback(publisher.close)
    writer = Writer(store, linger=0.01, on_submit=tracing.storing)
    writer.start()
    stack.push_async_callback(writer.close)
    judged, documents = Judged(store), Documents(store)
    for lookup in (judged, documents):
        lookup.start()
        stack.push_async_callback(lookup.close)
    log = ErasureLog(store)
    stack.callback(log.close)
    spend = Spend(store)
    stack.callback(spend.close)
    budgets = Budgets({pipeline.name: pipeline.limits}, spend, now)
    stopped_by: list[Exception] = []
    services = Services(
        publisher=publisher,
        writer=writer,
        judged=judged,
        documents=documents,
        metrics=metrics,
        usage=UsageLedger(PRICES, writer, budgets, metrics, "w-1", now),
        erased=Erased(log),
        dead_letters=DeadLetterLimit(dead_letter_share),
        rows_in_flight=rows_in_flight,
        stop_worker=stopped_by.append,
        tracing=tracing,
    )
    return Shared(services, budgets, stopped_by, stack)


async def acked(*deliveries: Delivery) -> None:
    async with asyncio.timeout(15):
        await asyncio.gather(*(delivery.acked.wait() for delivery in deliveries))


def named(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers if value is not None}
