"""`added_latency`: what the service adds to the engine's own time at half load.

The engine takes a fixed time for every request, so its part of each row is known. The service's throughput with that
engine is found first, over a backlog; then messages arrive by a Poisson process at half that rate, or slower where half
would leave the machine no room. A row's latency is the time from when its producer has Kafka's acknowledgement to when
a reader has the verdict, less the engine's time. It includes Kafka's own way from broker to consumer, twice; that way
is measured on its own beside it, over a topic that nobody works on.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from rich.console import Console

from bench import traffic
from bench.instant_engine import InstantEngine
from bench.load import load
from bench.results import Figure, Section
from bench.stand import Stand, stand
from streams import topics
from streams.kafka import client_options

NAME = "added_latency"

_ECHO = "bench.echo"
_BACKLOG = 3000
SETTLE_SECONDS = 3.0
_LOST_SECONDS = 30.0


def measure(broker: str, folder: Path, seconds: float, delay: float, most: float, console: Console) -> Section:
    """Let messages arrive for `seconds`. delay: of the engine, seconds. most: messages a second, at most."""
    with InstantEngine(folder, delay) as engine, stand(broker, engine.url, folder) as place, place.worker() as worker:
        backlog = traffic.distinct(_BACKLOG, "backlog-")
        asyncio.run(traffic.publish(place.settings, place.source, backlog))
        place.stored(worker, _BACKLOG)
        verdicts = asyncio.run(place.published(_BACKLOG))
        times = [record.timestamp / 1000 for record in verdicts[_BACKLOG // 10 :]]
        full = len(times) / (times[-1] - times[0])
        rate = min(full / 2, most)
        console.print(f"  {full:,.0f} messages/s with an engine of {delay * 1000:.0f} ms; arrivals at {rate:,.0f}/s")
        asyncio.run(topics.create(place.settings, [topics.Topic(_ECHO, "nobody works on it")], 1, 1))
        echoes = asyncio.run(arrivals(place, _ECHO, _ECHO, min(seconds, 10), rate))
        before = load()
        added = [row - delay for row in asyncio.run(arrivals(place, place.source, place.verdicts, seconds, rate))]
        busy = load().since(before)
    cuts, kafka = _percentiles(added), _percentiles(echoes)
    return Section(
        NAME,
        [
            Figure("p50", cuts[49], "ms", at_most=15),
            Figure("p99", cuts[98], "ms", at_most=75),
            Figure("kafka alone, p50", kafka[49], "ms"),
            Figure("kafka alone, p99", kafka[98], "ms"),
        ],
        {
            "broker": broker,
            "engine_ms": delay * 1000,
            "messages": len(added),
            "arrivals_per_second": round(rate, 1),
            "full_load_per_second": round(full, 1),
            "processors_busy": round(busy.share, 2),
        },
    )


async def arrivals(place: Stand, publish: str, read: str, seconds: float, rate: float) -> list[float]:
    """Publish at random moments for a time, after some seconds that do not count; seconds from publication to reading.

    Raises TimeoutError if a message does not come back.
    """
    chance = random.Random(1)
    count = round((seconds + SETTLE_SECONDS) * rate)
    rows = traffic.distinct(count, f"{publish}-")
    published: dict[str, float] = {}
    arrived: dict[str, float] = {}
    options = client_options(place.settings)
    async with (
        AIOKafkaProducer(acks="all", **options) as producer,
        AIOKafkaConsumer(read, auto_offset_reset="latest", **options) as consumer,
    ):
        await consumer.seek_to_end()
        reading = asyncio.create_task(_read(consumer, arrived, {row["id"] for row in rows}))
        acknowledged: list[asyncio.Task[None]] = []
        due = time.perf_counter()
        for row in rows:
            due += chance.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            acknowledged.append(asyncio.create_task(_publish(producer, publish, row, published)))
        await asyncio.gather(*acknowledged)
        async with asyncio.timeout(_LOST_SECONDS):
            await reading
    first = min(published.values()) + SETTLE_SECONDS
    return [arrived[name] - at for name, at in published.items() if at >= first]


async def _publish(producer: AIOKafkaProducer, topic: str, row: traffic.Row, published: dict[str, float]) -> None:
    value = orjson.dumps({name: row[name] for name in ("id", "thread", "author", "lang", "text")})
    await producer.send_and_wait(topic, value, row["thread"].encode())
    published[row["id"]] = time.perf_counter()


async def _read(consumer: AIOKafkaConsumer, arrived: dict[str, float], names: set[str]) -> None:
    while len(arrived) < len(names):
        record = await consumer.getone()
        now = time.perf_counter()
        body = orjson.loads(record.value or b"")
        name = body["source"]["id"] if "source" in body else body["id"]
        if name in names:
            arrived[name] = now


def _percentiles(seconds: Sequence[float]) -> list[float]:
    """The 99 percentiles, in milliseconds."""
    return [cut * 1000 for cut in quantiles(seconds, n=100)]
