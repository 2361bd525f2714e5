"""`pipeline_vs_floor`: messages a second from Kafka to verdict and ClickHouse row, ours and two other ways.

The engine answers at once, so what is measured is everything but the model. All contenders get the same messages, one
contender after the other, each on servers of its own that have seen nothing before; the order turns with each round.

All messages are in Kafka before a contender starts. The clock starts when a tenth of the verdicts was published, so
that neither the start of the program nor joining the group counts, and ends when the last verdict was published and the
last verdict row can be read in ClickHouse. Verdicts have the time at which their producer was given them. Ratios are
taken within a round, and their median is the result.
"""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console

from bench import traffic
from bench.instant_engine import InstantEngine
from bench.load import processor_seconds
from bench.results import Figure, Section
from bench.stand import Stand, stand
from deploy.embedded.process import ChildProcess

NAME = "pipeline_vs_floor"
WEIR, FLOOR, PLAIN = "weir", "floor", "plain_faust"
CONTENDERS = (WEIR, FLOOR, PLAIN)

_HEAD = 0.1  # share of the messages that passes before the clock starts


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's run. rate: verdicts a second. processor_ms: processor time that it took itself, a verdict."""

    rate: float
    processor_ms: float


def measure(broker: str, folder: Path, events: int, rounds: int, console: Console) -> Section:
    """Run every contender `rounds` times over `events` messages, besides those of the head."""
    runs: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        turn = number % len(CONTENDERS)
        for name in CONTENDERS[turn:] + CONTENDERS[:turn]:
            run = once(name, broker, folder, events)
            runs[name].append(run)
            console.print(f"  {name}: {run.rate:,.0f} messages/s, {run.processor_ms:.2f} ms of processor time each")
    rates = {name: [round(run.rate, 1) for run in found] for name, found in runs.items()}
    times = {name: [round(run.processor_ms, 3) for run in found] for name, found in runs.items()}
    return Section(
        NAME,
        [
            Figure("over_floor", _ratio(rates, FLOOR), "times", at_least=0.6),
            Figure("over_plain_faust", _ratio(rates, PLAIN), "times", at_least=2.0),
            *(Figure(name, median(values), "messages/s") for name, values in rates.items()),
        ],
        {
            "broker": broker,
            "engine": "answers at once",
            "messages": events,
            "rates": rates,
            "processor_ms_a_message": times,
        },
    )


def once(name: str, broker: str, folder: Path, events: int) -> Run:
    """One contender over `events` messages."""
    head = round(events * _HEAD)
    with InstantEngine(folder) as engine, stand(broker, engine.url, folder) as place:
        asyncio.run(traffic.publish(place.settings, place.source, traffic.distinct(head + events)))
        with _started(name, place) as child:
            before, _ = place.stored(child, head)
            idle = processor_seconds(child.pid)
            _, stored = place.stored(child, head + events)
            busy = processor_seconds(child.pid) - idle
            verdicts = asyncio.run(place.published(head + events))
    times = [record.timestamp / 1000 for record in verdicts]
    seconds = max(stored, times[-1]) - times[head]
    return Run(sum(at > times[head] for at in times) / seconds, 1000 * busy / (head + events - before))


def _started(name: str, place: Stand) -> AbstractContextManager[ChildProcess]:
    return place.worker() if name == WEIR else place.contender(f"bench.{name}")


def _ratio(rates: dict[str, list[float]], other: str) -> float:
    return median(ours / theirs for ours, theirs in zip(rates[WEIR], rates[other], strict=True))
