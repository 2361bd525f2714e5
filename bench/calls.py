"""Transcripts as load: every turn a message, shuffled across calls, through the whole review of calls.

    python -m bench.calls FILE.jsonl [--kills N] [--broker tansu|apache] [--repeats SHARE]

FILE has a call a line: `id`, `turns` of `speaker` and `text`. The engine answers at once and its answers say nothing:
what is tested is that every call comes together with each of its turns once, also where workers are killed on the way.
The last line of output is JSON; exit status 0 if nothing was lost or doubled.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from bench import traffic
from bench.instant_engine import InstantEngine
from bench.stand import Stand, stand
from sinks import clickhouse
from streams import pipeline
from streams.cli.main import PIPELINES
from streams.kafka import client_options
from streams.produce import Producer, read_rows
from streams.turns import turns_of

REVIEW = PIPELINES / "call-review.yaml"

_BEGAN = timedelta(hours=1)  # ago
_QUIET_SECONDS = 5.0
_STALLED_SECONDS = 90.0

_TOKENS_STORED = "SELECT sum(input_tokens + output_tokens) FROM inference_calls_raw FINAL"

# For calls that name none: without a document no model is asked.
_DOCUMENT = {"id": "terms", "text": "Tow: 15 miles\nRental car: $30 per day, at most 30 days\nGlass deductible: $100"}

Call = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What became of the calls.

    calls: that came together. turns: in them. lost: turns that no call has. duplicated: turns that stand in a call
    twice, and calls that came together more than once in different ways. repeated: messages that said again what one
    before them said. killed: workers. tokens: that the engine read and wrote for rows, by its own count;
    tokens_spent_twice: those of them that no stored call to the engine has, because a worker was killed on the way.
    """

    calls: int = 0
    turns: int = 0
    lost: int = 0
    duplicated: int = 0
    repeated: int = 0
    killed: int = 0
    findings: int = 0
    summaries: int = 0
    tokens: int = 0
    tokens_spent_twice: int = 0
    seconds: float = 0.0
    turns_a_second: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. Returns the exit status."""
    options = argparse.ArgumentParser(prog="load-calls", description=__doc__.splitlines()[0])
    options.add_argument("file", type=Path)
    options.add_argument("--kills", type=int, default=0, help="how often a worker is killed on the way")
    options.add_argument("--broker", choices=("tansu", "apache"), default="tansu")
    options.add_argument("--repeats", type=float, default=0.02, help="share of turns that are published twice")
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)
    console = Console(stderr=True)
    with chosen.file.open(encoding="utf-8") as lines:
        calls = list(read_rows(lines))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-")))
        engine = stack.enter_context(InstantEngine(folder))
        place = stack.enter_context(stand(chosen.broker, engine.url, folder, REVIEW))
        outcome = _run(engine.url, place, calls, chosen.kills, chosen.repeats, random.Random(chosen.seed), console)
    print(orjson.dumps(asdict(outcome)).decode())
    return 0 if outcome.good else 1


def _run(
    engine: str,
    place: Stand,
    calls: Sequence[Call],
    kills: int,
    repeats: float,
    chance: random.Random,
    console: Console,
) -> Outcome:
    with place.worker():
        started_for = _tokens(engine)  # what each start of a worker takes, to measure the model's bias
    asyncio.run(_publish_document(place))
    messages = _messages(calls, repeats, chance)
    console.print(f"{len(calls):,} calls, {len(messages):,} messages, shuffled")
    asyncio.run(traffic.publish(place.settings, place.source, messages))
    started = time.monotonic()
    for kill in range(kills):
        with place.worker() as worker:
            # The first one while turns come together, the others while claims are checked.
            progress, enough = (_turns_stored, len(messages) // 2) if not kill else (_findings, kill * len(calls))
            _until(partial(_has, progress, place, enough))
            worker.signal(signal.SIGKILL)
            worker.wait()
            console.print(f"killed a worker with {_turns_stored(place):,} turns and {_findings(place):,} findings")
    with place.worker():
        seen = asyncio.run(_assembled(place, len(calls), console))
        took = time.monotonic() - started
        _until_still(lambda: _stored(place))
    outcome = _compare(calls, seen)
    outcome.killed = kills
    outcome.seconds = took
    outcome.turns_a_second = outcome.turns / took
    outcome.repeated = len(messages) - sum(len(call["turns"]) for call in calls)
    outcome.findings, outcome.summaries = _stored(place)
    outcome.tokens = _tokens(engine) - (kills + 2) * started_for
    outcome.tokens_spent_twice = outcome.tokens - _count(place, _TOKENS_STORED)
    return outcome


def _messages(calls: Sequence[Call], repeats: float, chance: random.Random) -> list[dict[str, Any]]:
    began = datetime.now(UTC) - _BEGAN
    messages = [message for call in calls for message in turns_of({"documents": [_DOCUMENT["id"]]} | call, began)]
    messages += chance.sample(messages, int(len(messages) * repeats))
    chance.shuffle(messages)
    return messages


async def _publish_document(place: Stand) -> None:
    documents = pipeline.load(place.file).documents
    assert documents is not None
    async with Producer(place.settings, "/bench") as producer:
        await producer.publish(documents.topic, _DOCUMENT, key=str(_DOCUMENT["id"]))


async def _assembled(place: Stand, calls: int, console: Console) -> dict[str, dict[str, list[Any]]]:
    """Transcripts by call and row id, once every call has one and nothing has come for a while."""
    topic = pipeline.load(place.file).stages[0].writes
    seen: dict[str, dict[str, list[Any]]] = {}
    last = time.monotonic()
    options = client_options(place.settings)
    async with AIOKafkaConsumer(topic, auto_offset_reset="earliest", **options) as consumer:
        while len(seen) < calls or time.monotonic() - last < _QUIET_SECONDS:
            if time.monotonic() - last > _STALLED_SECONDS:
                console.print(f"given up: {len(seen)} calls of {calls}")
                break
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    body, last = orjson.loads(record.value or b""), time.monotonic()
                    seen.setdefault(body["thread"], {})[body["id"]] = body["turns"]
    return seen


def _compare(calls: Sequence[Call], seen: dict[str, dict[str, list[Any]]]) -> Outcome:
    outcome = Outcome(calls=len(seen))
    for call in calls:
        name = str(call.get("call") or call["id"])
        versions = list(seen.get(name, {}).values())
        outcome.duplicated += max(0, len(versions) - 1)
        turns = max(versions, key=len, default=[])
        said = Counter((turn["turn"], turn["text"]) for turn in turns)
        wanted = Counter((number, turn["text"]) for number, turn in enumerate(call["turns"]))
        outcome.turns += len(turns)
        outcome.lost += (wanted - said).total()
        outcome.duplicated += (said - wanted).total()
        if [turn["turn"] for turn in turns] != sorted(turn["turn"] for turn in turns):
            outcome.wrong.append(f"{name}: turns are not in order")
    outcome.wrong += [
        f"{name}: nobody published it" for name in seen.keys() - {str(c.get("call") or c["id"]) for c in calls}
    ]
    return outcome


def _turns_stored(place: Stand) -> int:
    return _count(place, "SELECT uniqExact(row_id) FROM turns_raw")


def _findings(place: Stand) -> int:
    return _stored(place)[0]


def _has(progress: Callable[[Stand], int], place: Stand, enough: int) -> bool:
    return progress(place) >= enough


def _stored(place: Stand) -> tuple[int, int]:
    """Findings and summaries."""
    sql = "SELECT uniqExact(row_id) FROM verdicts_raw WHERE operator = '{}'"
    return _count(place, sql.format("check")), _count(place, sql.format("summarize"))


def _count(place: Stand, sql: str) -> int:
    client = clickhouse.connect(place.settings.store)
    try:
        return int(client.query(sql).result_rows[0][0])
    finally:
        client.close()


def _tokens(engine: str) -> int:
    """Tokens that the engine has read and written since it started."""
    with urllib.request.urlopen(f"{engine}/metrics") as answer:
        page = answer.read().decode()
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    samples = [s for family in text_string_to_metric_families(page) for s in family.samples if s.name in names]
    return int(sum(sample.value for sample in samples))


def _until(reached: Any) -> None:
    deadline = time.monotonic() + _STALLED_SECONDS
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.1)


def _until_still(count: Any) -> None:
    """Return when a count has not changed for a while."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < _QUIET_SECONDS:
        time.sleep(0.5)
        if (now := count()) != last:
            last, since = now, time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
