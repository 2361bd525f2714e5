"""The embedded servers and the worker, started in order and ended together."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.broker import NAME as BROKER
from deploy.embedded.broker import TansuBroker
from deploy.embedded.engine import NAME as ENGINE
from deploy.embedded.engine import LlamaEngine
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from streams.settings import Settings

PARTITIONS = 4

_WORKER_READY_SECONDS = 180.0
_WORKER_STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Servers:
    """Where everything is. names: of the embedded broker, engine and store."""

    settings: Settings
    names: dict[str, str]


@contextmanager
def running(data: Path) -> Iterator[Servers]:
    """Broker, engine and store on free loopback ports; ended with the block. Raises ProcessFailed."""
    with ExitStack() as stack:
        broker = stack.enter_context(TansuBroker(data))
        store = stack.enter_context(ChdbStore(data))
        engine = stack.enter_context(LlamaEngine(data))
        settings = Settings(
            kafka_url=broker.url,
            engine_url=engine.url,
            clickhouse_url=store.url,
            web_port=free_port(),
            kafka_session_seconds=6,  # Tansu lets a member in after half of this
            # Two prompts over four slots: a slot with the right prompt in its cache is nearly always free.
            engine_prompts_in_flight=2,
            rows_in_flight=32,
            # Nominal, as for a model of a few billion parameters on a rented GPU.
            price_input_usd=0.05,
            price_cached_usd=0.005,
            price_output_usd=0.2,
        )
        yield Servers(settings, {"broker": BROKER, "engine": f"llama.cpp {ENGINE}", "store": "chdb"})


@contextmanager
def worker(settings: Settings, pipelines: Path, data: Path) -> Iterator[ChildProcess]:
    """`weir worker` as its own process, ready; told to stop with the block. Raises ProcessFailed."""
    argv = [sys.executable, "-m", "streams", "worker", "--pipelines", str(pipelines)]
    child = ChildProcess("weir worker", argv, data / "worker.log", _environment(settings))
    try:
        ready = f"http://127.0.0.1:{settings.web_port}/health/ready"
        child.wait_ready(lambda: http_ok(ready), _WORKER_READY_SECONDS)
        yield child
    finally:
        child.stop(_WORKER_STOP_SECONDS)


def forget_surroundings() -> None:
    """Drop WEIR_* variables: the demo must never reach somebody's real servers."""
    for name in [name for name in os.environ if name.startswith("WEIR_")]:
        del os.environ[name]


def _environment(settings: Settings) -> dict[str, str]:
    """What differs from the defaults, as a user would set it."""
    values = settings.model_dump(exclude_defaults=True, mode="json")
    return {f"WEIR_{name.upper()}": str(value) for name, value in values.items()}
