"""The worker: starts everything in order, runs until told to stop, and stops without losing work."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from faust.types import TP

from inference import operators
from inference.cost import Prices
from inference.openai import OpenAiEngine
from inference.operators.moderate import ModerateSettings
from inference.room import Room
from sinks import clickhouse, migrate
from sinks.calls import Calls
from sinks.documents import Documents
from sinks.erasures import ErasureLog
from sinks.judged import Judged
from sinks.reviews import Reviews
from sinks.session import Session
from sinks.spend import Spend
from sinks.writer import Writer
from streams.admission import Admission
from streams.agent import Agent, Services
from streams.assemble import AssembleAgent
from streams.backlog import Backlog
from streams.budgets import Budgets
from streams.consumer import App, Bytes, SafeConsumer
from streams.cut import CutAgent
from streams.deferred import DeferredReader
from streams.documents import DocumentsAgent
from streams.erased import Erased
from streams.errors import Fate, WorkerMisconfigured, fate_of, is_transient
from streams.health import Health
from streams.judge import JudgeAgent
from streams.kafka import REQUEST_TIMEOUT_MS, faust_credentials
from streams.limit import DeadLetterLimit
from streams.limits import DEFAULT
from streams.metrics import Metrics
from streams.patience import persist
from streams.pipeline import Pipeline, Stage
from streams.publisher import Publisher
from streams.rates import Rates
from streams.reviews import ReviewsAgent
from streams.secrets import hide
from streams.settings import Settings
from streams.shares import Shares
from streams.topics import deferred, topics_of
from streams.tracing import UNTRACED, Tracing
from streams.usage import UsageLedger
from streams.web import WebServer
from streams.window import Window

if TYPE_CHECKING:
    from streams.cascade import Cascade
    from streams.openlineage import RunEvents

log = logging.getLogger(__name__)

_COMMIT_SECONDS = 1.0
_HEARTBEAT_SECONDS = 1.0
# Paused partitions are not polled, and a worker that waits for its engine is not dead: its heartbeats say so.
_POLL_SECONDS = timedelta(days=365).total_seconds()
# What is fetched and not yet worked on is held in memory: little of it, however long the backlog is. A message larger
# than the fetch size comes all the same, alone.
_STREAM_BUFFER = 64
_FETCH_BYTES = 256 * 1024
_REVOKE_SECONDS = 5.0
_HURRY_SECONDS = 5.0
_REJOIN_SECONDS = 1.0
_LONGEST_REJOIN_SECONDS = 60.0


class Worker:
    """One process of the consumer group."""

    def __init__(
        self,
        settings: Settings,
        pipelines: Sequence[Pipeline],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        tracing: Tracing | None = None,
    ) -> None:
        """now: by which days and budgets go. tracing: None for what the settings say. Raises WorkerMisconfigured."""
        _check_prices(settings, pipelines)
        self._topics = [topic.name for topic in topics_of(pipelines, settings.reviews_topic)]
        self._settings = settings
        self._pipelines = pipelines
        self._metrics = Metrics()
        self._runs = _run_events(settings, pipelines, self._metrics) if settings.openlineage_url else None
        self._tracing = tracing or (_tracing(settings) if settings.tracing else UNTRACED)
        self._engine = OpenAiEngine(
            settings.engine,
            on_retry=self._retried,
            on_limit=self._metrics.engine_limit.set,
            tracing=self._tracing.requests,
        )
        self._metrics.engine_breaker.set_function(lambda: self._engine.breaker_state != "closed")
        self._metrics.engine_in_flight.set_function(lambda: self._engine.in_flight)
        self._metrics.engine_waiting.set_function(lambda: self._engine.waiting)
        self._writer = Writer(settings.store, on_flush=self._flushed, on_submit=self._tracing.storing)
        self._metrics.sink_waiting.set_function(lambda: self._writer.rows_held)
        self._judged = Judged(settings.store)
        self._documents = Documents(settings.store)
        self._calls = Calls(settings.store)
        self._reviews = Reviews(settings.store)
        self._erasures = ErasureLog(settings.store)
        self._publisher = Publisher(settings, self._tracing)
        self._spend = Spend(settings.store)
        self._budgets = Budgets({pipeline.name: pipeline.limits for pipeline in pipelines}, self._spend, now)
        name = f"{socket.gethostname()}/{uuid4().hex[:12]}"
        self._usage = UsageLedger(settings.prices, self._writer, self._budgets, self._metrics, name, now)
        self._shares = Shares()
        self._beside: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._told_to_stop = 0
        self._fatal: Exception | None = None
        self._health = Health(
            {
                "broker": self._publisher.ready,
                "engine": self._engine.ready,
                "store": lambda: asyncio.to_thread(clickhouse.ping, settings.store),
            },
            self._metrics,
        )
        services = Services(
            publisher=self._publisher,
            writer=self._writer,
            judged=self._judged,
            documents=self._documents,
            metrics=self._metrics,
            usage=self._usage,
            erased=(erased := Erased(self._erasures, self._forget)),
            dead_letters=DeadLetterLimit(settings.dead_letter_share),
            rows_in_flight=settings.rows_in_flight,
            stop_worker=self._stop_for,
            tracing=self._tracing,
        )
        self._erased = erased
        self._admissions = {pipeline.name: self._admission(pipeline) for pipeline in pipelines}
        self._agents = [self._agent(pipeline, stage, services) for pipeline in pipelines for stage in pipeline.stages]
        self._web = WebServer(
            settings.web_host,
            settings.web_port,
            self._metrics,
            self._health,
            {agent.name: agent.sla for agent in self._agents},
        )
        self._app: App | None = None
        self._backlog = Backlog(settings, self._read_on)
        for agent in self._agents:
            agent.sla.backlog = partial(self._backlog.of, agent.reads, agent.position)
        self._agents += _document_agents(pipelines, services)
        if settings.reviews_topic in self._topics:
            wait = settings.reviews_wait_seconds
            self._agents.append(ReviewsAgent(pipelines, settings.reviews_topic, wait, self._reviews, services))
        waiting: dict[str, list[JudgeAgent]] = {}
        for agent in self._agents:
            if isinstance(agent, JudgeAgent) and agent.defers:
                waiting.setdefault(deferred(agent.reads), []).append(agent)
        self._deferred = DeferredReader(
            settings, waiting, lambda partitions: self._shares.assigned("deferred", partitions), _REVOKE_SECONDS, now
        )

    def _agent(self, pipeline: Pipeline, stage: Stage, services: Services) -> Agent:
        """The agent of a stage. Raises WorkerMisconfigured."""
        if stage.judge is not None:
            operator = operators.create(stage.judge, self._engine, self._settings.prices)
            cascade = self._cascade(pipeline, stage)
            return JudgeAgent(pipeline, stage, operator, self._admissions[pipeline.name], services, cascade)
        if stage.cut is not None:
            return CutAgent(pipeline, stage, Room(self._engine).count, services)
        return AssembleAgent(pipeline, stage, self._calls, services)

    def _cascade(self, pipeline: Pipeline, stage: Stage) -> "Cascade | None":
        """The screen before the model of a stage, if it has one. Raises WorkerMisconfigured."""
        if stage.cascade is None or not isinstance(stage.judge, ModerateSettings):
            return None
        try:
            from streams.cascade import Cascade
        except ModuleNotFoundError as error:
            raise WorkerMisconfigured(
                f"{pipeline.name}/{stage.name}: cascade needs the extra `screen`: pip install 'weir[screen]' ({error})"
            ) from error
        return Cascade(pipeline.name, stage.name, stage.cascade, stage.judge, self._metrics)

    def _admission(self, pipeline: Pipeline) -> Admission:
        """What bounds the rows of a pipeline, with metrics that show it."""
        limits = pipeline.limits
        reads = [pipeline.reads(stage) for stage in pipeline.stages if stage.judge is not None]
        topics = [*reads, *map(deferred, reads)] if limits.defers else reads
        rates = Rates(limits, lambda: self._shares.of(topics))
        self._metrics.rate_waiting.labels(pipeline.name).set_function(lambda: rates.all_waiting)
        for tenant in limits.tenants.keys() - {DEFAULT}:
            if limits.of(tenant).has_budget:
                gauge = self._metrics.budget_spent.labels(pipeline.name, tenant)
                gauge.set_function(partial(self._budgets.share_spent, pipeline.name, tenant))
        return Admission(pipeline.name, limits, rates, self._budgets)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; a second one does not wait for rows in flight.

        Raises the error that stopped the worker if a person must change something first.
        """
        with self._signals():
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._tracing.close)
                stack.push_async_callback(self._publisher.close)
                stack.push_async_callback(self._web.close)
                await self._web.start()
                log.info("metrics and health on http://%s:%d", self._settings.web_host, self._web.port)
                starting = asyncio.create_task(self._connect(stack))
                await self._first(starting, self._stopping.wait())
                if not self._stopping.is_set():
                    async with self._run_events():
                        await self._consume()
        if self._fatal is not None:
            raise self._fatal

    async def _connect(self, stack: AsyncExitStack) -> None:
        """Reach everything, however long that takes, before the first message is taken."""
        stack.push_async_callback(self._engine.close)
        await persist(self._engine.connect)
        self._usage.open(self._engine.meter, self._settings.engine_url)
        await persist(lambda: asyncio.to_thread(migrate.check, self._settings.store))
        self._writer.start()
        stack.push_async_callback(self._writer.close)
        stack.push_async_callback(self._usage.close)
        stack.callback(self._spend.close)
        stack.callback(self._erasures.close)
        await self._budgets.look()
        await self._erased.look()
        for lookup in (self._judged, self._documents, self._calls, self._reviews):
            lookup.start()
            stack.push_async_callback(lookup.close)
        await persist(self._publisher.start)
        await persist(lambda: self._publisher.require(self._topics))
        self._shares.known(await persist(lambda: self._publisher.partitions(self._topics)))
        for agent in self._agents:
            await persist(agent.prepare)
        stack.push_async_callback(self._end_beside)
        self._start_beside(self._usage.run())
        self._start_cascades(stack)
        self._start_beside(self._erased.run())
        self._start_beside(self._backlog.run())
        self._start_beside(persist(self._deferred.run))

    def _start_cascades(self, stack: AsyncExitStack) -> None:
        found = [agent.cascade for agent in self._agents if isinstance(agent, JudgeAgent) and agent.cascade]
        if not found:
            return
        session = Session(self._settings.store, "clickhouse-cascades")
        stack.callback(session.close)
        for cascade in found:
            stack.push_async_callback(cascade.close)
            self._start_beside(cascade.follow(session, self._writer))

    async def _consume(self) -> None:
        """Read until told to stop, with a new consumer whenever one ends. Rows in flight go on meanwhile."""
        pause = _REJOIN_SECONDS
        while not self._stopping.is_set():
            app = self._faust_app()
            try:
                async with _running(app):
                    self._app = app
                    self._health.stopped, self._health.consuming = None, True
                    log.info("ready: %s", ", ".join(pipeline.name for pipeline in self._pipelines))
                    await self._first(asyncio.create_task(app.wait_until_stopped()), self._stopping.wait())
                    if self._stopping.is_set():
                        await self._drain(app)
                        return
                reason: BaseException | None = app.crash_reason
                if reason is not None and fate_of(reason) is Fate.STOP:
                    raise reason
            except Exception as error:
                if not is_transient(error):
                    raise
                reason = error
            self._health.stopped = hide(f"the consumer ended: {reason!r}")
            log.error("%s; it is started anew", self._health.stopped)
            self._metrics.consumer_restarts.inc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_REJOIN_SECONDS)  # each time costs the whole group a rebalance

    async def _drain(self, app: App) -> None:
        """Take nothing new, and give rows in flight some time to finish."""
        app.consumer.stop_flow()
        app.flow_control.suspend()
        for task in self._beside:
            task.cancel()
        seconds = self._settings.drain_seconds
        windows = [window for agent in self._agents for window in agent.windows]
        await _finish_rows(seconds if self._fatal is None else min(seconds, _REVOKE_SECONDS), windows)
        for agent in self._agents:
            agent.cancel()

    @asynccontextmanager
    async def _run_events(self) -> AsyncIterator[None]:
        """Tell a catalogue that runs begin, and how they end."""
        runs = self._runs
        if runs is None:
            yield
            return
        runs.start()
        try:
            yield
        except Exception as error:
            runs.fail(error)
            raise
        else:
            if self._fatal is None:
                runs.complete()
            else:
                runs.fail(self._fatal)
        finally:
            await runs.close()

    def _start_beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let this run until the worker stops; stop the worker if it fails."""

        async def run() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001  whatever it is, the worker does not go on without it
                self._stop_for(error)

        self._beside.append(asyncio.create_task(run()))

    async def _end_beside(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

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
            consumer_max_fetch_size=_FETCH_BYTES,
            stream_buffer_maxsize=_STREAM_BUFFER,
            topic_allow_declare=False,
            topic_disable_leader=True,
            stream_wait_empty=False,  # it would hold the whole group for as long as the engine is away
            web_enabled=False,
            store="memory://",
            autodiscover=False,
        )
        app.on_assign = self._assigned
        app.on_commit = self._committed
        windows = [agent.window for agent in self._agents]
        app.before_revoke = lambda: _finish_rows(_REVOKE_SECONDS, windows)
        for agent in self._agents:
            app.agent(app.topic(agent.reads, schema=Bytes()), name=agent.name)(agent.run)
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
            loop.add_signal_handler(number, self._told)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _told(self) -> None:
        """SIGTERM or SIGINT. Stopping at once is safe: what is not committed comes again, and has the same row ids."""
        self._told_to_stop += 1
        self._stopping.set()
        if self._told_to_stop > 1:
            log.warning("stopping at once; rows in flight come again")
            for agent in self._agents:
                agent.cancel()
            asyncio.get_running_loop().call_later(_HURRY_SECONDS, os._exit, 1)

    def _forget(self, rows: Collection[int]) -> None:
        for agent in self._agents:
            agent.forget(rows)

    def _retried(self, reason: str) -> None:
        self._metrics.engine_retries.labels(reason).inc()

    def _flushed(self, rows: int, seconds: float) -> None:
        self._metrics.sink_rows.inc(rows)
        self._metrics.sink_flush.observe(seconds)

    def _assigned(self, partitions: set[TP]) -> None:
        self._shares.assigned("faust", partitions)
        self._backlog.assigned(partitions)
        for agent in self._agents:
            agent.position.clear()
            agent.assigned(partitions)

    def _read_on(self, tp: TP) -> int:
        consumer = self._app.consumer if self._app is not None else None
        return consumer.read_on(tp) if isinstance(consumer, SafeConsumer) else 0

    def _committed(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            self._metrics.committed.labels(tp.topic, tp.partition).set(offset)


def _run_events(settings: Settings, pipelines: Sequence[Pipeline], metrics: Metrics) -> "RunEvents":
    """Raises WorkerMisconfigured if the extra is not installed."""
    try:
        from streams.openlineage import RunEvents
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"WEIR_OPENLINEAGE_URL needs the extra `openlineage`: pip install 'weir[openlineage]' ({error})"
        ) from error
    return RunEvents(settings, pipelines, metrics)


def _tracing(settings: Settings) -> Tracing:
    """Raises WorkerMisconfigured if the extra is not installed."""
    try:
        from streams.otel import OtelTracing
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(f"WEIR_TRACING needs the extra `otel`: pip install 'weir[otel]' ({error})") from error
    return OtelTracing(settings)


def _document_agents(pipelines: Sequence[Pipeline], services: Services) -> list[Agent]:
    """One for each topic of documents, however many pipelines read it."""
    topics = {pipeline.documents.topic: pipeline for pipeline in reversed(pipelines) if pipeline.documents is not None}
    return [
        DocumentsAgent(pipeline.name, pipeline.documents, services)
        for pipeline in topics.values()
        if pipeline.documents is not None
    ]


async def _finish_rows(seconds: float, windows: Sequence[Window]) -> None:
    """Return when no row is in flight in these windows, or after `seconds`."""
    if rows := sum(window.rows for window in windows):
        log.info("%d rows in flight have %.0f s to finish", rows, seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(window.empty() for window in windows))


def _check_prices(settings: Settings, pipelines: Sequence[Pipeline]) -> None:
    """Without prices a budget in dollars would never be spent, and nobody would notice."""
    priced = settings.prices != Prices(gpus=settings.gpus)
    for pipeline in pipelines:
        if not priced and any(tenant.usd_per_day is not None for tenant in pipeline.limits.tenants.values()):
            raise WorkerMisconfigured(
                f"pipeline {pipeline.name!r} limits usd_per_day, but nothing has a price; "
                "set WEIR_GPU_HOUR_USD or WEIR_PRICE_*_USD"
            )


@asynccontextmanager
async def _running(app: App) -> AsyncIterator[None]:
    """A started Faust application, stopped at the end: the stop commits what is done."""
    app.finalize()
    await app.start()
    try:
        yield
    finally:
        await app.stop()
