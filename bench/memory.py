"""Does a worker's memory depend on how much waits for it? A backlog, a slow engine, and the worker's resident memory.

    python bench/memory.py [--events 1000000] [--broker tansu|apache]

The worker's level is taken with a backlog of 10,000 events, then the rest is published while it works. Prints a table,
and JSON as the last line. Exit status 1 if the backlog adds more than 50 MB.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from deploy.embedded.broker import TansuBroker
from deploy.embedded.engine import LlamaEngine
from deploy.embedded.kafka import ApacheKafka, default_jars, fetch
from deploy.embedded.process import ChildProcess, free_port
from deploy.embedded.store import ChdbStore
from sinks.migrate import migrate
from streams import pipeline, topics
from streams.demo import servers
from streams.kafka import client_options
from streams.settings import Settings

FEW = 10_000
ALLOWED_MB = 50
SETTLE_SECONDS = 20.0
WATCH_SECONDS = 40.0
SAMPLE_SECONDS = 0.5

PIPELINE = """
name: memory
version: "1"
source: memory.messages
sla: 1h
stages:
  - name: judge
    writes: memory.verdicts
    context: {messages: 2, characters: 40}
    judge:
      operator: moderate
      categories: [{name: spam, definition: advertising}]
      calibration: {content_free: [hello]}
"""


def main() -> int:
    """Read the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="backlog (%(default)s)")
    parser.add_argument("--broker", choices=["tansu", "apache"], default="apache", help="(%(default)s)")
    options = parser.parse_args()
    servers.forget_surroundings()
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="weir-memory-") as folder,
        serving(options.broker, Path(folder)) as settings,
    ):
        few, many = measure(settings, Path(folder), options.events, console)
    added = max(many) - statistics.median(few)
    table = Table("backlog", "median MB", "highest MB")
    table.add_row(f"{FEW:,}", f"{statistics.median(few):.1f}", f"{max(few):.1f}")
    table.add_row(f"{options.events:,}", f"{statistics.median(many):.1f}", f"{max(many):.1f}")
    console.print(table)
    result = {
        "broker": options.broker,
        "events": options.events,
        "level_mb": round(statistics.median(few), 1),
        "highest_mb": round(max(many), 1),
        "added_mb": round(added, 1),
        "allowed_mb": ALLOWED_MB,
    }
    print(orjson.dumps(result).decode())
    return int(added > ALLOWED_MB)


@contextmanager
def serving(broker: str, folder: Path) -> Iterator[Settings]:
    """Servers with tables and topics."""
    if broker == "apache":
        fetch(default_jars())
    with (
        ApacheKafka(default_jars(), folder / "kafka") if broker == "apache" else TansuBroker(folder) as kafka,
        ChdbStore(folder) as store,
        LlamaEngine(folder) as engine,
    ):
        settings = Settings(
            kafka_url=kafka.url,
            kafka_session_seconds=10,
            engine_url=engine.url,
            engine_prompts_in_flight=2,
            clickhouse_url=store.url,
            web_port=free_port(),
            drain_seconds=0,
        )
        migrate(settings.store)
        file = folder / "pipelines" / "memory.yaml"
        file.parent.mkdir()
        file.write_text(PIPELINE)
        asyncio.run(topics.create(settings, topics.topics_of([pipeline.load(file)]), partitions=8, replication=1))
        yield settings


def measure(settings: Settings, folder: Path, events: int, console: Console) -> tuple[list[float], list[float]]:
    """Resident memory in MB: samples with few events waiting, and from there until after the last one was published."""
    console.print(f"publishing {FEW:,} events")
    asyncio.run(publish(settings, range(FEW)))
    with servers.worker(settings, folder / "pipelines", folder) as worker:
        time.sleep(SETTLE_SECONDS)
        few = watch(worker, SETTLE_SECONDS)
        console.print(f"{statistics.median(few):.1f} MB with {FEW:,} waiting; publishing the rest of {events:,}")
        many: list[float] = []
        asyncio.run(publish_and_watch(settings, range(FEW, events), worker, many))
        many += watch(worker, WATCH_SECONDS)
        return few, many


async def publish_and_watch(settings: Settings, numbers: range, worker: ChildProcess, samples: list[float]) -> None:
    """Publish, and take a sample every so often meanwhile."""
    publishing = asyncio.create_task(publish(settings, numbers))
    while not publishing.done():
        samples.append(resident_mb(worker.pid))
        await asyncio.sleep(SAMPLE_SECONDS)
    await publishing


async def publish(settings: Settings, numbers: range) -> None:
    """Publish one event for each number."""
    async with AIOKafkaProducer(
        **client_options(settings), acks="all", linger_ms=20, max_batch_size=256 * 1024
    ) as producer:
        last = None
        for number in numbers:
            value = b'{"text":"message number %d of a long backlog, which nobody has read yet","id":"m-%d"}'
            last = await producer.send("memory.messages", value % (number, number), b"thread-%d" % (number % 1000))
        await producer.flush()
        if last is not None:
            await last


def watch(worker: ChildProcess, seconds: float) -> list[float]:
    """Samples of the resident memory in MB."""
    samples = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        samples.append(resident_mb(worker.pid))
        time.sleep(SAMPLE_SECONDS)
    return samples


def resident_mb(pid: int) -> float:
    """Resident memory of a process, from proc(5)."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
