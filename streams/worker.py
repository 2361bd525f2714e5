"""The worker: starts everything in order, runs until told to stop, and stops without losing work."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from aiokafka.errors import KafkaError
from faust.types import TP
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from inference import operators
from inference.errors import EngineMisconfigured, EngineUnavailable
from inference.openai import OpenAiEngine
from sinks import clickhouse, migrate
from sinks.errors import SchemaMismatch, StoreUnavailable
from sinks.writer import Writer
from streams.consumer import App
from streams.errors import TopicsMissing, WorkerMisconfigured
from streams.health import Health
from streams.kafka import MAX_MESSAGE_BYTES, REQUEST_TIMEOUT_MS, faust_credentials
from streams.metrics import Metrics
from streams.pipeline import Pipeline
from streams.publisher import Publisher
from streams.settings import Settings
from streams.stage import Services, StageAgent
from streams.topics import topics_of
from streams.web import WebServer

log = logging.getLogger(__name__)

STOPPING_ERRORS = (WorkerMisconfigured, EngineMisconfigured, SchemaMismatch)

_MAX_BACKOFF_SECONDS = 15.0
_COMMIT_SECONDS = 1.0
_HEARTBEAT_SECONDS = 1.0
# Paused partitions are not polled, and a worker that waits for its engine is not dead: its heartbeats say so.
_POLL_SECONDS = timedelta(days=365).total_seconds()
_STREAM_BUFFER = 256


class Worker:
    """One process of the consumer group."""

    def __init__(self, settings: Settings, pipelines: Sequence[Pipeline]) -> None:
        self._settings = settings
        self._pipelines = pipelines
        self._metrics = Metrics()
        self._engine = OpenAiEngine(settings.engine)
        self._writer = Writer(settings.store, on_flush=self._flushed)
        self._publisher = Publisher(settings)
        self._stopping = asyncio.Event()
        self._fatal: Exception | None = None
        self._health = Health(
            {
                "broker": self._publisher.ready,
                "engine": self._engine.ready,
                "store": lambda: asyncio.to_thread(clickhouse.ping, settings.store),
            },
            self._metrics,
        )
        self._web = WebServer(settings.web_host, settings.web_port, self._metrics, self._health)
        services = Services(self._publisher, self._writer, self._metrics, settings.rows_in_flight, self._stop_for)
        self._agents = [
            StageAgent(pipeline, stage, operators.create(stage.judge, self._engine, settings.prices), services)
            for pipeline in pipelines
            for stage in pipeline.stages
        ]

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises one of STOPPING_ERRORS if a person must change something first."""
        with self._signals():
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._publisher.close)
                stack.push_async_callback(self._web.close)
                await self._web.start()
                log.info("metrics and health on http://%s:%d", self._settings.web_host, self._web.port)
                starting = asyncio.create_task(self._connect(stack))
                await self._first(starting, self._stopping.wait())
                if not self._stopping.is_set():
                    await self._consume()
        if self._fatal is not None:
            raise self._fatal

    async def _connect(self, stack: AsyncExitStack) -> None:
        """Reach everything, however long that takes, before the first message is taken."""
        stack.push_async_callback(self._engine.close)
        await _persist(self._engine.connect)
        await _persist(lambda: asyncio.to_thread(migrate.check, self._settings.store))
        self._writer.start()
        stack.push_async_callback(self._writer.close)
        await _persist(self._publisher.start)
        needed = [topic.name for topic in topics_of(self._pipelines)]
        await _persist(lambda: self._publisher.require(needed))
        for agent in self._agents:
            await agent.prepare()

    async def _consume(self) -> None:
        app = self._faust_app()
        async with _running(app):
            log.info("ready: %s", ", ".join(pipeline.name for pipeline in self._pipelines))
            await self._first(asyncio.create_task(app.wait_until_stopped()), self._stopping.wait())
            if not self._stopping.is_set():
                self._health.stopped = f"the consumer ended: {app.crash_reason!r}"
                self._stop_for(WorkerMisconfigured(self._health.stopped))
                return
            await self._drain(app)

    async def _drain(self, app: App) -> None:
        """Take nothing new, and give rows in flight some time to finish."""
        app.consumer.stop_flow()
        app.flow_control.suspend()
        rows = sum(agent.window.rows for agent in self._agents)
        if rows and self._fatal is None:
            log.info("stopping: %d rows in flight", rows)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.drain_seconds):
                    await asyncio.gather(*(agent.window.empty() for agent in self._agents))
        for agent in self._agents:
            agent.cancel()

    def _faust_app(self) -> App:
        settings = self._settings
        app = App(
            settings.kafka_group,
            broker=settings.kafka_url,
            broker_credentials=faust_credentials(settings),
            broker_client_id="weir",
            broker_commit_interval=_COMMIT_SECONDS,
            broker_session_timeout=settings.kafka_session_seconds,
            broker_heartbeat_interval=_HEARTBEAT_SECONDS,
            broker_request_timeout=max(REQUEST_TIMEOUT_MS / 1000, settings.kafka_session_seconds),
            broker_max_poll_interval=_POLL_SECONDS,
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=MAX_MESSAGE_BYTES,
            stream_buffer_maxsize=_STREAM_BUFFER,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
            autodiscover=False,
        )
        app.on_commit = self._committed
        for agent in self._agents:
            app.agent(app.topic(agent.reads, value_serializer="raw"), name=agent.name)(agent.run)
        return app

    def _stop_for(self, error: Exception) -> None:
        """Stop the worker because of an error that no later attempt would mend."""
        if self._fatal is None:
            self._fatal = error
        self._stopping.set()

    async def _first(self, task: "asyncio.Task[None]", other: Awaitable[object]) -> None:
        """Return when either ends; end the other; raise what `task` raised."""
        waiting = asyncio.ensure_future(other)
        try:
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for future in (task, waiting):
                future.cancel()
            await asyncio.gather(task, waiting, return_exceptions=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _flushed(self, rows: int, seconds: float) -> None:
        self._metrics.sink_rows.inc(rows)
        self._metrics.sink_flush.observe(seconds)

    def _committed(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            self._metrics.committed.labels(tp.topic, tp.partition).set(offset)


async def _persist(call: Callable[[], Awaitable[None]]) -> None:
    """Call until it succeeds; each failed attempt is one log line."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((EngineUnavailable, StoreUnavailable, TopicsMissing, KafkaError, OSError)),
        wait=wait_random_exponential(multiplier=0.5, max=_MAX_BACKOFF_SECONDS),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    ):
        with attempt:
            await call()


@asynccontextmanager
async def _running(app: App) -> AsyncIterator[None]:
    """A started Faust application, stopped at the end: the stop commits what is done."""
    app.finalize()
    await app.start()
    try:
        yield
    finally:
        await app.stop()
