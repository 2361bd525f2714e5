"""What a rate of messages takes: GPUs, workers, partitions, brokers, shards, bytes and money (docs/scaling.md).

    python -m bench.scaling                                             # 1 k, 100 k and 1 M a second
    python -m bench.scaling --rate 100000 --tokens 60 --saved 0.5       # with your numbers
    python -m bench.scaling --numbers                                   # all numbers, with unit and origin

Each number is an option. What is measured here is read from bench/results.json.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.results import FILE

RATES = (1_000.0, 100_000.0, 1_000_000.0)
SAVED = (0.0, 0.5, 0.9)

_DAY = 86_400  # seconds
_MONTH_HOURS = 730
_MONTH_DAYS = 365 / 12
_LEAST_BROKERS = 3  # as many as there are replicas


class Origin(StrEnum):
    """Where a number is from."""

    MEASURED = "measured here"
    CITED = "cited"
    DERIVED = "derived"
    ASSUMED = "assumed"


@cache
def _results() -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(FILE.read_bytes())
    return found


def _measured(section: str, figure: str) -> float:
    return float(_results()[section]["figures"][figure]["value"])


def _number(value: float, unit: str, origin: Origin, note: str) -> Any:
    return field(default=value, metadata={"unit": unit, "origin": origin, "note": note})


def _taken(section: str, figure: str, unit: str, note: str) -> Any:
    metadata = {"unit": unit, "origin": Origin.MEASURED, "note": f"{section}, {figure}: {note}"}
    return field(default_factory=lambda: _measured(section, figure), metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """All that a plan rests on. Each field has a unit, an origin and a note."""

    rate: float = _number(100_000, "messages/s", Origin.ASSUMED, "at the busiest time of the day")
    mean: float = _number(1.0, "of rate", Origin.ASSUMED, "mean of the day over `rate`: for what is stored")
    saved: float = _number(0.0, "of calls", Origin.ASSUMED, "decided by the screen: docs/cascade.md has 0.18 to 0.87")
    duplicates: float = _number(0.0, "of messages", Origin.ASSUMED, "reused; 0.29 where 0.3 repeat, on one worker")

    tokens: float = _number(60, "tokens", Origin.ASSUMED, "of a prompt, that are not shared: text, context, question")
    prefix: float = _number(600, "tokens", Origin.ASSUMED, "of a prompt, that are shared and cached")
    parameters: float = _number(8.03, "billions", Origin.CITED, "of the model: Llama 3.1 8B, Llama Guard 3 8B")
    attention: float = _number(131_072, "", Origin.CITED, "layers x width: 32 x 4096; 16 x 2048 for Llama 3.2 1B")
    peak: float = _number(1979, "TFLOP/s", Origin.CITED, "H100 SXM, FP8 without sparsity; BF16 989")
    mfu: float = _number(0.40, "of peak", Origin.DERIVED, "TensorRT-LLM's 3,450 tokens/s at 2048/128 are 0.48")
    host: float = _number(2000, "prompts/s", Origin.ASSUMED, "that one vLLM takes on its processor, whatever the model")
    gpu_busy: float = _number(0.70, "of time", Origin.DERIVED, "docs/scaling.md: latency near saturation")
    gpu_spare: float = _number(1, "GPUs", Origin.DERIVED, "on top, at least: docs/scaling.md, failures")

    worker: float = _taken("pipeline_vs_floor", "weir", "messages/s", "broker, store and engine on the same two cores")
    screen: float = _number(0.05, "ms", Origin.MEASURED, "of a core a message, with a screen: docs/screens.md")
    worker_busy: float = _number(0.60, "of time", Origin.DERIVED, "docs/scaling.md: a worker fails")
    worker_cores: float = _number(
        1.5, "cores", Origin.ASSUMED, "one thread that is full, inserts and fetches beside it"
    )
    partitions: float = _number(4, "a worker", Origin.DERIVED, "docs/scaling.md: a worker fails")
    group: float = _number(
        100, "workers", Origin.ASSUMED, "of a consumer group and its topic; never tried with so many"
    )

    message: float = _taken("footprint", "message in Kafka", "bytes", "key, value and headers")
    verdict: float = _taken("footprint", "verdict in Kafka", "bytes", "key, value and headers")
    replicas: float = _number(3, "copies", Origin.ASSUMED, "of a topic")
    readers: float = _number(1, "", Origin.ASSUMED, "groups that read the verdicts")
    kafka_days: float = _number(3, "days", Origin.ASSUMED, "retention of topics: longer than the longest outage")
    volume: float = _number(
        250, "MB/s", Origin.CITED, "that a broker can write: MSK's default for a provisioned volume"
    )
    broker_busy: float = _number(0.50, "of volume", Origin.ASSUMED, "the rest is for catching up and a lost broker")
    broker_partitions: float = _number(4000, "replicas", Origin.CITED, "of partitions on a broker, at most: KIP-578")

    store: float = _number(0.30, "ms", Origin.MEASURED, "of a core a message: docs/performance.md; footprint has half")
    store_cores: float = _number(16, "cores", Origin.ASSUMED, "of a ClickHouse server")
    store_busy: float = _number(0.40, "of time", Origin.ASSUMED, "inserts and merges; the rest is for queries")
    store_replicas: float = _number(2, "servers", Origin.ASSUMED, "of a shard; both merge")
    words: float = _taken("footprint", "on disk, words", "bytes", "a message, compressed and merged")
    facts: float = _taken("footprint", "on disk, verdicts", "bytes", "a message, compressed and merged")
    calls: float = _taken("footprint", "on disk, calls", "bytes", "a message that the model is asked about")
    edges: float = _taken("footprint", "on disk, edges", "bytes", "a message")
    words_days: float = _number(30, "days", Origin.ASSUMED, "retention of the words: the TTL in docs/tables.md")
    facts_days: float = _number(400, "days", Origin.ASSUMED, "retention of all other rows, likewise")
    disk_free: float = _number(0.30, "of a disk", Origin.ASSUMED, "that stays free for merges")

    prompt: float = _taken("footprint", "prompt to the engine", "bytes", "600 tokens of it are the same in each")
    answer: float = _taken("footprint", "answer of the engine", "bytes", "with the ids of the prompt's tokens")

    gpu_hour: float = _number(3.00, "USD", Origin.CITED, "H100: 2 to 3.50 at specialists, 6.88 at AWS, 2026")
    core_hour: float = _number(0.05, "USD", Origin.ASSUMED, "of a core with 4 GB")
    broker_hour: float = _number(1.00, "USD", Origin.ASSUMED, "of a broker without its disks")
    disk_month: float = _number(0.08, "USD", Origin.ASSUMED, "of a GB of SSD; object storage is about a quarter")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rate takes. calls: prompts a second. per_gpu: prompts a second that a GPU can do. bytes are a second's."""

    numbers: Numbers
    calls: float
    per_gpu: float
    gpus: int
    workers: int
    groups: int
    partitions: int
    brokers: int
    shards: int
    kafka_in: float
    kafka_out: float
    engine_bytes: float
    kafka_disk: float
    store_day: float
    store_disk: float
    usd_month: dict[str, float]

    @property
    def total(self) -> float:
        """US dollars a month."""
        return sum(self.usd_month.values())

    @property
    def per_million(self) -> float:
        """US dollars for a million messages."""
        return self.total / (self.numbers.rate * self.numbers.mean * _DAY * _MONTH_DAYS) * 1e6


def flops(numbers: Numbers) -> float:
    """Operations of a prompt: two a parameter and token, and attention to what came before (Kaplan et al. 2020)."""
    before = numbers.prefix + numbers.tokens / 2
    return numbers.tokens * (2e9 * numbers.parameters + 4 * numbers.attention * before)


def prompts_per_gpu(numbers: Numbers) -> float:
    """Prompts a second that a GPU can do: the roofline of its arithmetic, or what vLLM's own process takes."""
    return min(numbers.peak * 1e12 * numbers.mfu / flops(numbers), numbers.host)


def plan(n: Numbers) -> Plan:
    """What a rate takes. Raises ValueError for shares outside 0 to 1."""
    for name in ("saved", "duplicates"):
        if not 0 <= getattr(n, name) <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, not {getattr(n, name):g}")
    calls = n.rate * (1 - n.duplicates) * (1 - n.saved)
    per_gpu = prompts_per_gpu(n)
    gpus = math.ceil(calls / (per_gpu * n.gpu_busy)) + math.ceil(n.gpu_spare) if calls else 0
    per_worker = 1 / (1 / n.worker + (n.screen / 1000 if n.saved else 0))
    workers = max(2, math.ceil(n.rate / (per_worker * n.worker_busy)))
    partitions = math.ceil(workers * n.partitions)
    kafka_in = n.rate * (n.message + n.verdict)
    brokers = max(
        _LEAST_BROKERS,
        math.ceil(kafka_in * n.replicas / (n.volume * 1e6 * n.broker_busy)),
        math.ceil(2 * partitions * n.replicas / n.broker_partitions),  # source and verdicts
    )
    shards = math.ceil(n.rate * n.store / 1000 / (n.store_cores * n.store_busy))
    called = n.calls * calls / n.rate
    day = n.rate * n.mean * _DAY
    store_day = day * (n.words + n.facts + called + n.edges)
    kept = day * (n.words * n.words_days + (n.facts + called + n.edges) * n.facts_days)
    store_disk = kept * n.store_replicas / (1 - n.disk_free)
    kafka_disk = kafka_in * n.mean * _DAY * n.kafka_days * n.replicas / (1 - n.disk_free)
    servers = shards * n.store_replicas
    usd = {
        "GPUs": gpus * n.gpu_hour * _MONTH_HOURS,
        "workers": workers * n.worker_cores * n.core_hour * _MONTH_HOURS,
        "Kafka": brokers * n.broker_hour * _MONTH_HOURS + kafka_disk / 1e9 * n.disk_month,
        "ClickHouse": servers * n.store_cores * n.core_hour * _MONTH_HOURS,
        "ClickHouse's disks": store_disk / 1e9 * n.disk_month,
    }
    return Plan(
        n,
        calls,
        per_gpu,
        gpus,
        workers,
        math.ceil(workers / n.group),
        partitions,
        brokers,
        shards,
        kafka_in,
        n.rate * (n.message + n.readers * n.verdict),
        calls * (n.prompt + n.answer),
        kafka_disk,
        store_day,
        store_disk,
        usd,
    )


def _table(plans: Sequence[Plan]) -> Table:
    found = Table("", *(f"{p.numbers.rate:,.0f}/s, {p.numbers.saved:.0%} saved" for p in plans))
    for name, values in _lines(plans):
        found.add_row(name, *values)
    return found


def _lines(plans: Sequence[Plan]) -> Iterator[tuple[str, list[str]]]:
    yield "prompts/s", [f"{p.calls:,.0f}" for p in plans]
    yield "prompts/s a GPU can do", [f"{p.per_gpu:,.0f}" for p in plans]
    yield "GPUs", [f"{p.gpus:,}" for p in plans]
    yield "workers (groups)", [f"{p.workers:,} ({p.groups})" for p in plans]
    yield "partitions", [f"{p.partitions:,}" for p in plans]
    yield "Kafka brokers", [f"{p.brokers:,}" for p in plans]
    yield "ClickHouse shards", [f"{p.shards:,}" for p in plans]
    yield "into Kafka, MB/s", [f"{p.kafka_in / 1e6:,.1f}" for p in plans]
    yield "out of Kafka, MB/s", [f"{p.kafka_out / 1e6:,.1f}" for p in plans]
    yield "to and from engines, MB/s", [f"{p.engine_bytes / 1e6:,.1f}" for p in plans]
    yield "Kafka's disks, TB", [f"{p.kafka_disk / 1e12:,.2f}" for p in plans]
    yield "rows a day, TB", [f"{p.store_day / 1e12:,.3f}" for p in plans]
    yield "ClickHouse's disks, TB", [f"{p.store_disk / 1e12:,.1f}" for p in plans]
    for name in plans[0].usd_month:
        yield f"{name}, USD a month", [f"{p.usd_month[name]:,.0f}" for p in plans]
    yield "all, USD a month", [f"{p.total:,.0f}" for p in plans]
    yield "USD a million messages", [f"{p.per_million:.2f}" for p in plans]


def _numbers(numbers: Numbers) -> Table:
    found = Table("option", "value", "unit", "origin", "note")
    for one in fields(numbers):
        metadata = one.metadata
        value = f"{getattr(numbers, one.name):,.4g}"
        found.add_row(_option(one), value, metadata["unit"], metadata["origin"], metadata["note"])
    return found


def _option(one: "Field[Any]") -> str:
    return f"--{one.name.replace('_', '-')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", action="store_true", help="print all numbers, with unit and origin")
    for one in fields(Numbers):
        unit = f"{one.metadata['unit']}: " if one.metadata["unit"] else ""
        parser.add_argument(_option(one), type=float, help=f"{unit}{one.metadata['note']}".replace("%", "%%"))
    chosen = vars(parser.parse_args(arguments))
    show = chosen.pop("numbers")
    given = {name: value for name, value in chosen.items() if value is not None}
    numbers = Numbers(**given)
    console = Console()
    if show:
        console.print(_numbers(numbers))
        return
    rates = [numbers.rate] if "rate" in given else RATES
    shares = [numbers.saved] if "saved" in given else SAVED
    try:
        for rate in rates:
            console.print(_table([plan(replace(numbers, rate=rate, saved=saved)) for saved in shares]))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
