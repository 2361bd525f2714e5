"""The obvious Faust agent: for each event one awaited request, then `topic.send`.

    python -m bench.plain_faust PIPELINE

Rows are inserted in its favour: once a second in a thread, many at a time, and the agent waits for none of it.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import faust

from bench.bare import Bare
from sinks.rows import AnyRow
from streams.settings import load

_INSERT_SECONDS = 1.0


def application(file: Path) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        "plain-faust",
        broker=load(("kafka",)).kafka_url,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=1.0,
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        autodiscover=False,
    )
    bare = Bare(file)
    rows: list[AnyRow] = []

    async def insert() -> None:
        while True:
            await asyncio.sleep(_INSERT_SECONDS)
            batch = rows[:]
            rows.clear()
            await asyncio.to_thread(bare.insert, batch)

    async def judge(stream: Any) -> None:
        await bare.prepare()
        inserting = asyncio.create_task(insert())
        async for event in stream.events():
            kafka = event.message
            place = kafka.topic, kafka.partition, kafka.offset
            message = bare.read(place, kafka.timestamp, kafka.value, kafka.headers)
            (answer,) = await bare.ask([bare.prompt(message)])
            value, headers, some = bare.verdict(message, answer)
            rows.extend(some)
            await verdicts.send(key=kafka.key, value=value, headers=headers)
        inserting.cancel()

    verdicts = app.topic(bare.stage.writes)
    app.agent(app.topic(bare.pipeline.source, value_serializer="raw"), name="judge")(judge)
    return app


if __name__ == "__main__":
    faust.Worker(application(Path(sys.argv[1])), loglevel="WARNING").execute_from_commandline()
