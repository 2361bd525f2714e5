"""`footprint`: what a message takes of each part: bytes in Kafka and on disk, and processor time.

    python -m bench.footprint [--messages N] [--no-save]

The worker, broker and store are real, the engine answers at once. Messages are those of the community sets where they
are beside this checkout (tweets), else the shipped ones; in threads of four, so most rows read the one before. Bytes on
disk are those after ClickHouse has merged all parts. Then requests have two prompts instead of sixteen, so that what a
request takes can be told from what a message takes; then messages come one by one, as in `added_latency`.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from clickhouse_connect.driver.client import Client
from rich.console import Console

from bench import community, results, traffic
from bench.instant_engine import InstantEngine
from bench.latency import SETTLE_SECONDS, arrivals
from bench.load import processor_seconds
from bench.results import Figure, Section
from bench.scrape import scrape
from bench.stand import Stand, stand
from deploy.embedded import kafka
from deploy.embedded.process import ChildProcess
from sinks import clickhouse
from sinks.rows import AnyRow, InferenceCallRow, LineageEdgeRow, SourceRow, VerdictRow
from sinks.writer import Writer
from streams.kafka import client_options

NAME = "footprint"

_THREAD = 4  # messages
_AUTHORS = 5000
_SLOW, _SLOW_SECONDS = 200.0, 20.0  # messages a second
_OF_SLOW = (
    ("worker", "ms a message"),
    ("prompts a request", "prompts"),
    ("messages an insert", "messages"),
)
_ENGINE_SECONDS = 0.05
_WARM = 1000
_SMALL = 2  # prompts of a request
_FEW, _MANY = 10, 500  # messages of an insert
_INSERTS = 20
_READ, _READ_SECONDS = 1000, 60.0
_PARTS = {"store": "store_server", "engine": "instant_engine"}  # what their command lines have
_TABLES = {
    "source_rows_raw": "words",
    "verdicts_raw": "verdicts",
    "inference_calls_raw": "calls",
    "lineage_edges_raw": "edges",
}
_SIZES = """
SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts
WHERE active AND database = currentDatabase() AND startsWith(table, 'merged_') GROUP BY table
"""


def measure(folder: Path, messages: int, console: Console) -> Section:
    """Judge so many messages, then others two a request."""
    rows, origin = real(messages)
    with InstantEngine(folder) as engine, stand("tansu", engine.url, folder) as place:
        full = _judge(place, engine.url, rows)
        console.print(f"  as it is: {full}")
        published = asyncio.run(_records(place, place.source))
        verdicts = asyncio.run(_records(place, place.verdicts))
        disk = _on_disk(place)
        heard = scrape(engine.url)
        inserts = {size: asyncio.run(_inserts(place, size)) for size in (_FEW, _MANY)}
        console.print(f"  inserts: {inserts}")
    with (
        InstantEngine(folder) as engine,
        stand("tansu", engine.url, folder, engine_prompts_per_request=_SMALL) as place,
    ):
        small = _judge(place, engine.url, rows[: messages // 3])
        console.print(f"  {_SMALL} prompts a request: {small}")
    slow = _slowly(folder)
    console.print(f"  {_SLOW:.0f} a second: {slow}")
    named = {name: disk.get(table, 0.0) / len(rows) for table, name in _TABLES.items()}
    kinds = (("as it is", full), ("small requests", small))
    return Section(
        NAME,
        [
            Figure("text", traffic.size(rows), "bytes"),
            Figure("message in Kafka", _size(published), "bytes"),
            Figure("verdict in Kafka", _size(verdicts), "bytes"),
            Figure("prompt to the engine", heard["bench_request_bytes_total"] / len(rows), "bytes"),
            Figure("answer of the engine", heard["bench_answer_bytes_total"] / len(rows), "bytes"),
            *(Figure(f"on disk, {name}", size, "bytes a message") for name, size in named.items()),
            *(
                Figure(f"{part}, {kind}", found[part], "ms a message")
                for kind, found in kinds
                for part in ("worker", "store", "engine")
            ),
            *(
                Figure(f"{what}, {kind}", found[what], unit)
                for kind, found in kinds
                for what, unit in (("prompts a request", "prompts"), ("messages an insert", "messages"))
            ),
            *(
                Figure(f"insert of {size}, {part}", found[part], "ms")
                for size, found in inserts.items()
                for part in ("worker", "store")
            ),
            *(Figure(f"{what}, slow", slow[what], unit) for what, unit in _OF_SLOW),
        ],
        {"messages": messages, "text": origin, "thread": _THREAD, "broker": "tansu"},
    )


def _judge(place: Stand, engine_url: str, rows: Sequence[traffic.Row]) -> dict[str, float]:
    """Have the worker judge all; what a message took, without the first tenth."""
    asyncio.run(traffic.publish(place.settings, place.source, rows))
    with place.worker() as worker:
        first, _ = place.stored(worker, len(rows) // 10)
        before = _Reading(worker, engine_url, place)
        last, _ = place.stored(worker, len(rows))
        return before.until(_Reading(worker, engine_url, place), last - first)


def _slowly(folder: Path) -> dict[str, float]:
    """What a message takes of the worker where messages come one by one, and how many share a request and an insert."""
    broker = "tansu" if kafka.unavailable(kafka.default_jars()) else "apache"
    messages = round(_SLOW * _SLOW_SECONDS)
    with (
        InstantEngine(folder, _ENGINE_SECONDS) as engine,
        stand(broker, engine.url, folder) as place,
        place.worker() as worker,
    ):
        asyncio.run(traffic.publish(place.settings, place.source, traffic.distinct(_WARM, "warm-")))
        place.stored(worker, _WARM)
        before = _Reading(worker, engine.url, place)
        # Arrivals begin with some seconds that its latencies leave out; they are taken into account here.
        seconds = _SLOW_SECONDS - SETTLE_SECONDS
        asyncio.run(arrivals(place, place.source, place.verdicts, seconds, _SLOW))
        return before.until(_Reading(worker, engine.url, place), messages)


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


async def _inserts(place: Stand, messages: int) -> dict[str, float]:
    """Processor time in milliseconds that an insert of the rows of so many messages takes, by part."""
    now, store = datetime.now(UTC), _children()["store"]
    chance = random.Random(messages)

    def rows() -> list[AnyRow]:
        """As those of a message that was judged in a thread."""
        word, verdict = ((round(now.timestamp() * 1000) << 80) + chance.getrandbits(76) for _ in range(2))
        text = "".join(chance.choices("abcdefghij klmnop qrstuv wxyz ", k=85))
        scores = [chance.random() for _ in range(6)]
        common = ("moderation", "1", "moderate", "moderate", "acme", "en", now, now, now, "messages", 1, 1)
        return [
            SourceRow(
                word, now, now, "/bench", f"m-{word:x}", "messages", 1, 1, "acme", "t-1", "user", "en", text, now
            ),
            VerdictRow(verdict, word, *common, "allow", "ok", scores, 0.9, "model", "f1aad3", 1, 600, 500, 1, 0.0, 9),
            InferenceCallRow(verdict, 0, now, "model", "f1aad3", 600, 500, 1, 0.01, 0.0),
            LineageEdgeRow(verdict, word, "input", now),
            LineageEdgeRow(verdict, word + 1, "context", now),
        ]

    writer = Writer(place.settings.store, linger=0)
    writer.start()
    try:
        await writer.write(rows())
        batches = [[row for _ in range(messages) for row in rows()] for _ in range(_INSERTS)]
        own, other = time.process_time(), processor_seconds(store)
        for batch in batches:
            await writer.write(batch)
        taken = {"worker": time.process_time() - own, "store": processor_seconds(store) - other}
    finally:
        await writer.close()
    return {part: 1000 * seconds / _INSERTS for part, seconds in taken.items()}


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

    def until(self, later: "_Reading", messages: int) -> dict[str, float]:
        """What was taken since, a message."""
        inserts = later._inserts - self._inserts
        return {part: 1000 * (later._seconds[part] - before) / messages for part, before in self._seconds.items()} | {
            "prompts a request": (later._prompts - self._prompts) / (later._requests - self._requests),
            "messages an insert": messages / inserts,
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
        for table in _TABLES:  # into one part, as merges would in time
            client.command(f"CREATE TABLE merged_{table} AS {table}")
            client.command(f"INSERT INTO merged_{table} SELECT * FROM {table}")
        sizes = {table.removeprefix("merged_"): float(size) for table, _, size in client.query(_SIZES).result_rows}
        return {table: sizes[table] for table in _TABLES}
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
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value) for name, value in record.headers)
        for record in records
    )
    return sum(sizes) / len(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=12_000)
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
