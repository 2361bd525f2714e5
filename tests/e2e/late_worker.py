"""`weir worker` on the day after."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from streams import logs, pipeline, settings
from streams.worker import Worker


async def _run() -> None:
    logs.configure("INFO")
    chosen = settings.load(["kafka", "engine", "clickhouse"])
    pipelines = pipeline.load_all([Path(sys.argv[1])])
    await Worker(chosen, pipelines, now=lambda: datetime.now(UTC) + timedelta(days=1)).run()


if __name__ == "__main__":
    asyncio.run(_run())
