"""A Faust application that never finishes one event: `slow_event_app.py KIND BROKER TOPIC GROUP SLOW_OFFSET LOG`.

Each event of the topic is a line in LOG: partition and offset. It is acknowledged at once, unless it has SLOW_OFFSET in
partition 0.
"""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import faust

from streams.consumer import App

KINDS = {"safe": App, "stock": faust.App}


async def main(kind: str, broker: str, topic: str, group: str, slow: int, log: Path) -> None:
    app = KINDS[kind](
        group,
        broker=broker,
        broker_session_timeout=2,
        broker_heartbeat_interval=0.5,
        broker_commit_interval=0.2,
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        value_serializer="raw",
        autodiscover=False,
    )

    async def read(stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            with log.open("a") as file:
                file.write(f"{message.partition} {message.offset}\n")
            if (message.partition, message.offset) != (0, slow):
                event.ack()

    app.agent(app.topic(topic, value_serializer="raw"))(read)
    app.finalize()
    await app.start()
    await app.wait_until_stopped()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5]), Path(sys.argv[6])))
