"""`engine_saturation`: verdicts a second through the whole service over what the same vLLM gives a bare client.

The client sends the prompts that the service sends, without Kafka, store and all else, in the shape that was the
fastest of several: so many requests in flight, so many prompts a request. Service and client take turns (ABBA) on the
same server. No text comes twice, so no turn finds another's in the prefix cache; what all prompts share is there for
all. Both are timed while the engine is full: without the first and last 15% of their prompts.
"""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from statistics import median

from rich.console import Console

from bench import traffic
from bench.client import Client, Shape, drive, steady
from bench.results import Figure, Section
from bench.stand import SHIPPED, Stand, stand
from deploy.embedded.process import ChildProcess
from streams import pipeline

NAME = "engine_saturation"

_FIRST, _MOST = 16, 1024  # prompts in flight
_SIZES = (1, 4, 16)
_WORTH = 1.02  # a shape counts as faster from here on
_TRIAL_SECONDS = 5.0


def measure(broker: str, folder: Path, url: str, device: str, seconds: float, pairs: int, console: Console) -> Section:
    """Find the client's best shape, then take turns. device: what the engine runs on. seconds: of one turn, about."""
    salts = (f"s{number:03}-" for number in count())
    engine = asyncio.run(_engine(url))
    shape, rate = asyncio.run(_best(url, console, salts))
    texts = max(4 * _FIRST, round(rate * seconds))
    rates: dict[str, list[float]] = {"service": [], "client": []}
    with stand(broker, url, folder) as place, place.worker() as worker:
        judged = 0
        for pair in range(pairs):
            for name in ("service", "client") if pair % 2 == 0 else ("client", "service"):
                rows = alone(texts, next(salts))
                if name == "service":
                    judged += texts
                    rates[name].append(_service(place, worker, rows, judged))
                else:
                    rates[name].append(asyncio.run(_client(url, rows, shape)))
                console.print(f"  {name}: {rates[name][-1]:.2f} verdicts/s")
    ratio = median(a / b for a, b in zip(rates["service"], rates["client"], strict=True))
    return Section(
        NAME,
        [
            Figure("over_bare_client", ratio, "times", at_least=0.95),
            *(Figure(name, median(values), "verdicts/s") for name, values in rates.items()),
        ],
        {
            **engine,
            "device": device,
            "broker": broker,
            "messages_a_turn": texts,
            "client_requests_in_flight": shape.requests_in_flight,
            "client_prompts_per_request": shape.prompts_per_request,
            "rates": {name: [round(value, 3) for value in values] for name, values in rates.items()},
        },
    )


def alone(rows: int, salt: str) -> list[traffic.Row]:
    """Messages without a thread, so that their prompts are known beforehand."""
    return [{name: value for name, value in row.items() if name != "thread"} for row in traffic.distinct(rows, salt)]


async def _engine(url: str) -> dict[str, str]:
    async with Client(url, pipeline.load(SHIPPED).stages[0]) as client:
        return {"engine": f"vLLM {client.version}", "model": client.model}


async def _best(url: str, console: Console, salts: Iterator[str]) -> tuple[Shape, float]:
    """The fastest shape and its rate: for each size of requests, more of them for as long as that helps."""
    best, fastest = Shape(_FIRST // _SIZES[0], _SIZES[0]), 0.0
    await _client(url, alone(2 * _FIRST, next(salts)), best)  # what all prompts share is in the cache from here on
    for size in _SIZES:
        in_flight, before = _FIRST, 0.0
        while True:
            shape = Shape(in_flight // size, size)
            rows = alone(max(2 * in_flight, round(fastest * _TRIAL_SECONDS)), next(salts))
            rate = await _client(url, rows, shape)
            console.print(f"  {shape.requests_in_flight} requests of {size} prompts: {rate:.2f} verdicts/s")
            if rate > fastest * _WORTH:
                best, fastest = shape, rate
            if rate < before * _WORTH or in_flight >= _MOST:
                break
            in_flight, before = 2 * in_flight, rate
    return best, fastest


async def _client(url: str, rows: Sequence[traffic.Row], shape: Shape) -> float:
    async with Client(url, pipeline.load(SHIPPED).stages[0]) as client:
        done = await drive(client.labels, [row["text"] for row in rows], shape)
    return steady([(answer.at, answer.prompts) for answer in done])


def _service(place: Stand, worker: ChildProcess, rows: Sequence[traffic.Row], judged: int) -> float:
    """judged: verdicts that there are afterwards."""
    asyncio.run(traffic.publish(place.settings, place.source, rows))
    place.stored(worker, judged)
    verdicts = asyncio.run(place.published(judged))[-len(rows) :]
    return steady([(record.timestamp / 1000, 1) for record in verdicts])
