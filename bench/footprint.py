"""`footprint`: what a message takes of each part: bytes in Kafka and on disk, and processor time.

    python -m bench.footprint [--messages N] [--no-save]

The worker, broker and store are real, the engine answers at once. Messages are those of the community sets where they
are beside this checkout (tweets, 85 bytes in the mean), else the shipped ones; threads of four, so most rows read the one
before. Bytes on disk are those after ClickHouse has merged all parts. Then messages arrive at a low rate, where requests
and inserts are small, so that what a message takes can be told from what a request and an insert take: docs/scaling.md.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from clickhouse_connect.driver.client import Client
from rich.console import Console

from bench import community, results, traffic
from bench.instant_engine import InstantEngine
from bench.load import processor_seconds
from bench.results import Figure, Section
from bench.scrape import scrape
from bench.stand import Stand, stand
from deploy.embedded.process import ChildProcess
from sinks import clickhouse
from streams.kafka import client_options
from streams.produce import Producer

NAME = "footprint"

_THREAD = 4  # messages
_AUTHORS = 5000
_SLOW = 200.0  # messages a second
_SLOW_SECONDS = 20.0
_READ, _READ_SECONDS = 1000, 60.0
_PARTS = {"broker": "tansu", "store": "store_server", "engine": "instant_engine"}  # what their command lines have
_TABLES = {
    "source_rows_raw": "words",
    "verdicts_raw": "verdicts",
    "inference_calls_raw": "calls",
    "lineage_edges_raw": "edges",
}
_SIZES = """
SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts
WHERE active AND database = currentDatabase() GROUP BY table
"""


def measure(folder: Path, messages: int, console: Console) -> Section:
    """Judge so many messages, then some that arrive slowly."""
    rows, origin = real(messages + round(_SLOW * _SLOW_SECONDS))
    with InstantEngine(folder) as engine, stand("tansu", engine.url, folder) as place:
        asyncio.run(traffic.publish(place.settings, place.source, rows[:messages]))
        with place.worker() as worker:
            first, _ = place.stored(worker, messages // 10)
            before = _Reading(worker, engine.url, place)
            last, _ = place.stored(worker, messages)
            fast = before.until(_Reading(worker, engine.url, place), last - first)
            console.print(f"  a backlog: {fast}")
            before = _Reading(worker, engine.url, place)
            asyncio.run(_slowly(place, rows[messages:]))
            place.stored(worker, len(rows))
            slow = before.until(_Reading(worker, engine.url, place), len(rows) - messages)
            console.print(f"  {_SLOW:.0f} a second: {slow}")
            published = asyncio.run(_records(place, place.source))
            verdicts = asyncio.run(_records(place, place.verdicts))
            disk = _on_disk(place)
    words = traffic.size(rows)
    named = {name: disk.get(table, 0.0) / len(rows) for table, name in _TABLES.items()}
    return Section(
        NAME,
        [
            Figure("text", words, "bytes"),
            Figure("message in Kafka", _size(published), "bytes"),
            Figure("verdict in Kafka", _size(verdicts), "bytes"),
            *(Figure(f"on disk, {name}", size, "bytes a message") for name, size in named.items()),
            Figure("on disk", sum(disk.values()) / len(rows), "bytes a message"),
            *(
                Figure(f"{part}, {kind}", found[part], "ms a message")
                for kind, found in (("backlog", fast), ("slow", slow))
                for part in ("worker", "store", "broker")
            ),
            *(
                Figure(f"{what}, {kind}", found[what], unit)
                for kind, found in (("backlog", fast), ("slow", slow))
                for what, unit in (
                    ("prompts a request", "prompts"),
                    ("messages an insert", "messages"),
                    ("insert", "ms"),
                )
            ),
        ],
        {"messages": messages, "text": origin, "thread": _THREAD, "slow_per_second": _SLOW, "broker": "tansu"},
    )


def real(count: int) -> tuple[list[traffic.Row], str]:
    """So many messages in threads of a few, from different authors, and where their words are from."""
    if (community.DATA / community.SETS["en"]).exists():
        texts = [row["text"] for language in community.SETS for row in community.read(language)]
        origin = "community sets"
    else:
        texts, origin = [row["text"] for row in traffic.shipped()], "shipped"
    chance = random.Random(1)
    chance.shuffle(texts)
    found: list[traffic.Row] = []
    for copy in range(-(-count // len(texts))):
        found += (
            {"text": text if not copy else f"{text} ({copy})", "author": f"user-{chance.randrange(_AUTHORS)}"}
            for text in texts
        )
    # Messages of open threads arrive in turns.
    return [
        row | {"id": f"m-{chance.getrandbits(64):016x}", "thread": f"t-{number // (64 * _THREAD)}-{number % 64}"}
        for number, row in enumerate(islice(found, count))
    ], origin


async def _slowly(place: Stand, rows: Sequence[traffic.Row]) -> None:
    chance = random.Random(1)
    due = time.perf_counter()
    async with Producer(place.settings, "/bench") as producer, asyncio.TaskGroup() as group:
        for row in rows:
            due += chance.expovariate(_SLOW)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(producer.publish(place.source, row))


class _Reading:
    """Counters of all parts at one moment."""

    def __init__(self, worker: ChildProcess, engine_url: str, place: Stand) -> None:
        self._seconds = {"worker": processor_seconds(worker.pid)} | {
            part: processor_seconds(pid) for part, pid in _children().items()
        }
        engine, own = scrape(engine_url), scrape(f"http://127.0.0.1:{place.settings.web_port}")
        self._prompts = engine["vllm:request_success_total"]
        self._requests = engine["http_requests_total"]
        self._inserts = own["weir_sink_flush_duration_seconds_count"]
        self._inserting = own["weir_sink_flush_duration_seconds_sum"]

    def until(self, later: "_Reading", messages: int) -> dict[str, float]:
        """What was taken since, a message."""
        inserts = later._inserts - self._inserts
        return {part: 1000 * (later._seconds[part] - before) / messages for part, before in self._seconds.items()} | {
            "prompts a request": (later._prompts - self._prompts) / (later._requests - self._requests),
            "messages an insert": messages / inserts,
            "insert": 1000 * (later._inserting - self._inserting) / inserts,
        }


def _children() -> Mapping[str, int]:
    """Process ids of the servers that this process started."""
    own = os.getpid()
    listed = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in listed}
    return {part: next(pid for pid, line in lines.items() if name in line) for part, name in _PARTS.items()}


def _on_disk(place: Stand) -> dict[str, float]:
    client: Client = clickhouse.connect(place.settings.store)
    try:
        for table in _TABLES:
            client.command(f"OPTIMIZE TABLE {table} FINAL")
        return {table: float(size) for table, _, size in client.query(_SIZES).result_rows if table in _TABLES}
    finally:
        client.close()


async def _records(place: Stand, topic: str) -> list[ConsumerRecord[Any, Any]]:
    """The first messages of a topic. Raises TimeoutError."""
    found: list[ConsumerRecord[Any, Any]] = []
    async with (
        AIOKafkaConsumer(topic, auto_offset_reset="earliest", **client_options(place.settings)) as client,
        asyncio.timeout(_READ_SECONDS),
    ):
        while len(found) < _READ:
            for batch in (await client.getmany(timeout_ms=1000)).values():
                found += batch
    return found


def _size(records: Sequence[ConsumerRecord[Any, Any]]) -> float:
    """Mean bytes of key, value and headers."""
    sizes = (
        len(record.key or b"") + len(record.value or b"") + sum(len(name) + len(value) for name, value in record.headers)
        for record in records
    )
    return sum(sizes) / len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=40_000)
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="weir-bench-") as place:
        section = measure(Path(place), options.messages, console)
    console.print(results.table([section], {}))
    if not options.no_save:
        results.save([section])


if __name__ == "__main__":
    main()
