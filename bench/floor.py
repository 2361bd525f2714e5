"""The floor: the fastest straightforward loop that does a worker's work, without Faust and without its promises.

    python -m bench.floor PIPELINE

It takes what Kafka has, sends the prompts many a request with several requests in flight, publishes and inserts, and
commits. While one batch is published and inserted, the next is fetched and judged. An error ends it.
"""

import asyncio
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.bare import Answer, Bare, Message
from inference.dialects import Vllm
from streams.kafka import client_options

_BATCH = 1024
_REQUESTS = 4  # in flight


async def main(file: Path) -> None:
    """Work for ever."""
    bare = Bare(file)
    await bare.prepare()
    size = bare.settings.engine_prompts_per_request or Vllm().prompts_per_request
    free = asyncio.Semaphore(_REQUESTS)
    options = client_options(bare.settings)

    async def ask(messages: Sequence[Message]) -> list[Answer]:
        async with free:
            return await bare.ask([bare.prompt(message) for message in messages])

    async def deliver(records: Sequence[Any], messages: Sequence[Message], answers: Sequence[Answer]) -> None:
        verdicts = list(map(bare.verdict, messages, answers))
        rows = [row for _, _, rows in verdicts for row in rows]
        stored = asyncio.create_task(asyncio.to_thread(bare.insert, rows))
        sent = [
            await producer.send(bare.stage.writes, value, record.key, headers=headers)
            for record, (value, headers, _) in zip(records, verdicts, strict=True)
        ]
        await asyncio.gather(stored, *sent)

    async with (
        AIOKafkaConsumer(
            bare.pipeline.source,
            group_id="floor",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6000,
            **options,
        ) as consumer,
        AIOKafkaProducer(acks="all", **options) as producer,
    ):
        delivering: asyncio.Task[None] | None = None
        offsets: dict[TopicPartition, int] = {}
        while True:
            fetched = await consumer.getmany(timeout_ms=100, max_records=_BATCH)
            records = list(chain.from_iterable(fetched.values()))
            messages = [
                bare.read((r.topic, r.partition, r.offset), r.timestamp / 1000, r.value or b"", r.headers)
                for r in records
            ]
            parts = [messages[at : at + size] for at in range(0, len(messages), size)]
            answers = list(chain.from_iterable(await asyncio.gather(*map(ask, parts))))
            if delivering is not None:
                await delivering
                await consumer.commit(offsets)
                delivering = None
            if records:
                delivering = asyncio.create_task(deliver(records, messages, answers))
                offsets = {tp: part[-1].offset + 1 for tp, part in fetched.items()}


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
