"""The servers that runs share, behind proxies; each can be taken away and brought back at its address."""

import asyncio
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import http_calls
from proxy import Proxy
from schedule import About

from deploy.embedded.broker import TansuBroker
from deploy.embedded.engine import LlamaEngine
from deploy.embedded.kafka import ApacheKafka, default_jars
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks import migrate
from streams.settings import Settings

T = TypeVar("T")

_ENGINE_TIMEOUT_SECONDS = 5.0
_START_SECONDS = 240.0  # a busy machine, not a broken server


class Lane:
    """`async with` it. One run at a time uses it."""

    def __init__(self, folder: Path) -> None:
        """folder: for the data and the logs of the servers."""
        self._folder = folder
        servers = ("engine", "store", "tansu", "apache", "engine proxy", "store proxy", "instant")
        self._ports = {server: free_port() for server in servers}
        self._brokers: dict[str, TansuBroker | ApacheKafka] = {}
        self._instant: ChildProcess | None = None
        # The kernel ends children with the thread that started them; this one lives as long as the process.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
        self._stack = AsyncExitStack()
        self.engine_proxy = Proxy(
            self._ports["engine proxy"], f"http://127.0.0.1:{self._ports['engine']}", http_calls.of_engine
        )
        self.store_proxy = Proxy(
            self._ports["store proxy"], f"http://127.0.0.1:{self._ports['store']}", http_calls.of_store
        )

    async def __aenter__(self) -> Self:
        self._engine = await self._start(self._new_engine)
        self._store = await self._start(self._new_store)
        await asyncio.to_thread(migrate.migrate, self.settings("tansu").store)
        await self._stack.enter_async_context(self.engine_proxy)
        await self._stack.enter_async_context(self.store_proxy)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        for broker in self._brokers.values():
            broker.signal(signal.SIGCONT)
        for process in (*self._brokers.values(), self._store, self._engine, self._instant):
            if process is not None:
                process.stop()
        self._starter.shutdown()

    def settings(self, broker: str) -> Settings:
        """Addresses of the servers themselves, for the harness."""
        return Settings(
            kafka_url=f"kafka://127.0.0.1:{self._ports[broker]}",
            engine_url=f"http://127.0.0.1:{self._ports['engine']}",
            clickhouse_url=f"http://127.0.0.1:{self._ports['store']}",
        )

    def worker_settings(self, broker: str, name: str, group: str, rows_in_flight: int) -> Settings:
        """The settings of a worker, which sees engine and store through the proxies."""
        return Settings(
            kafka_url=f"kafka://127.0.0.1:{self._ports[broker]}",
            kafka_group=group,
            kafka_session_seconds=6,
            engine_url=self.engine_proxy.url,
            engine_api_key=name,
            engine_timeout_seconds=_ENGINE_TIMEOUT_SECONDS,
            clickhouse_url=self.store_proxy.url,
            clickhouse_user=name,
            rows_in_flight=rows_in_flight,
            drain_seconds=10,
            web_port=0,
        )

    async def need(self, broker: str, about: About) -> None:
        """Have this broker running, and the engine for such runs behind its proxy; they stay."""
        if broker not in self._brokers:
            self._brokers[broker] = await self._start(lambda: self._new_broker(broker))
        if about is About.CALLS and self._instant is None:
            self._instant = await self._start(self._new_instant)
        name = "instant" if about is About.CALLS else "engine"
        self.engine_proxy.upstream = f"http://127.0.0.1:{self._ports[name]}"

    async def pause_broker(self, broker: str, seconds: float) -> None:
        """The broker stands still, with its connections open."""
        process = self._brokers[broker]
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.signal(signal.SIGCONT)

    async def restart_broker(self, broker: str, seconds: float, number: signal.Signals) -> None:
        """The broker is ended with a signal, and comes back on its data."""
        await _end(self._brokers[broker], number)
        await asyncio.sleep(seconds)
        self._brokers[broker] = await self._start(lambda: self._new_broker(broker))

    async def restart_engine(self, seconds: float) -> None:
        """The engine is killed and comes back."""
        await _end(self._engine, signal.SIGKILL)
        await asyncio.sleep(seconds)
        self._engine = await self._start(self._new_engine)

    async def restart_store(self, seconds: float) -> None:
        """The store is stopped and comes back with its rows."""
        await _end(self._store, signal.SIGTERM)
        await asyncio.sleep(seconds)
        self._store = await self._start(self._new_store)

    def _new_engine(self) -> LlamaEngine:
        return LlamaEngine(self._folder / "engine", port=self._ports["engine"], timeout=_START_SECONDS)

    def _new_instant(self) -> ChildProcess:
        """An engine that answers at once: where calls come together, what their verdicts say is not the matter."""
        port = self._ports["instant"]
        argv = [sys.executable, "-m", "bench.instant_engine", "--port", str(port)]
        process = ChildProcess("instant engine", argv, self._folder / "instant" / "engine.log")
        process.wait_ready(lambda: http_ok(f"http://127.0.0.1:{port}/health"), _START_SECONDS)
        return process

    def _new_store(self) -> ChdbStore:
        return ChdbStore(self._folder / "store", port=self._ports["store"], timeout=_START_SECONDS)

    def _new_broker(self, broker: str) -> TansuBroker | ApacheKafka:
        folder, port = self._folder / broker, self._ports[broker]
        if broker == "tansu":
            return TansuBroker(folder, port, _START_SECONDS)
        return ApacheKafka(default_jars(), folder, port, _START_SECONDS)

    async def _start(self, create: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._starter, create)


async def _end(process: ChildProcess, number: signal.Signals) -> None:
    process.signal(number)
    await asyncio.to_thread(process.stop)
