"""The servers of one measurement, fresh each time, and the pipeline that is measured on them."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from ruamel.yaml import YAML

from deploy.embedded.broker import TansuBroker
from deploy.embedded.kafka import ApacheKafka, default_jars, fetch
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks import clickhouse
from sinks.migrate import migrate
from streams import pipeline, topics
from streams.cli.main import PIPELINES
from streams.kafka import client_options
from streams.settings import Settings

SHIPPED = PIPELINES / "community-moderation.yaml"
PARTITIONS = 4

_READY_SECONDS = 180.0
_STOP_SECONDS = 60.0
_STALL_SECONDS = 120.0
_POLL_SECONDS = 0.5  # seldom: each question takes time from those who are measured
_LAST_POLL_SECONDS = 0.02
_NEARLY = 0.95


@dataclass(frozen=True, slots=True)
class Stand:
    """Addresses, as settings of whoever is measured, and the pipeline file that it follows."""

    settings: Settings
    folder: Path
    file: Path

    @property
    def source(self) -> str:
        """The topic to publish to."""
        return pipeline.load(self.file).source

    @property
    def verdicts(self) -> str:
        """The topic that verdicts come to."""
        return pipeline.load(self.file).stages[0].writes

    @contextmanager
    def worker(self) -> Iterator[ChildProcess]:
        """`weir worker`, ready."""
        ready = f"http://127.0.0.1:{self.settings.web_port}/health/ready"
        with self._child("weir worker", "streams", "worker", "--pipelines", str(self.file)) as child:
            child.wait_ready(lambda: http_ok(ready), _READY_SECONDS)
            yield child

    @contextmanager
    def contender(self, module: str) -> Iterator[ChildProcess]:
        """A program that does the work in another way; not known to be ready. module: run with the pipeline file."""
        with self._child(module, module, str(self.file)) as child:
            yield child

    @contextmanager
    def _child(self, name: str, module: str, *arguments: str) -> Iterator[ChildProcess]:
        values = self.settings.model_dump(exclude_defaults=True, mode="json")
        environment = {f"WEIR_{name.upper()}": str(value) for name, value in values.items()}
        child = ChildProcess(name, [sys.executable, "-m", module, *arguments], self.folder / "worker.log", environment)
        try:
            yield child
        finally:
            child.stop(_STOP_SECONDS)

    def stored(self, child: ChildProcess, verdicts: int) -> tuple[int, float]:
        """Wait until the store has so many verdicts; how many it has then, and the Unix time.

        Raises RuntimeError if the child ends, or if no verdict comes for two minutes.
        """
        client = clickhouse.connect(self.settings.store)
        try:
            found, changed = 0, time.monotonic()
            while found < verdicts:
                time.sleep(_POLL_SECONDS if found < _NEARLY * verdicts else _LAST_POLL_SECONDS)
                now = int(client.query("SELECT count() FROM verdicts_raw").result_rows[0][0])
                found, changed = now, changed if now == found else time.monotonic()
                if child.returncode is not None or time.monotonic() > changed + _STALL_SECONDS:
                    raise RuntimeError(f"{child.name} stands still at {found} of {verdicts}:\n{child.log_tail()}")
            return found, time.time()
        finally:
            client.close()

    async def published(self, verdicts: int) -> list[ConsumerRecord[Any, Any]]:
        """Wait for so many verdicts in Kafka; they, in the order of their timestamps.

        They are read afterwards: a reader beside the run would take its part of the machine, and Tansu does not tell
        the end of a topic. Raises TimeoutError, and RuntimeError if an event has more than one verdict.
        """
        records: list[ConsumerRecord[Any, Any]] = []
        options = client_options(self.settings)
        async with AIOKafkaConsumer(self.verdicts, auto_offset_reset="earliest", **options) as client:
            async with asyncio.timeout(_STALL_SECONDS):
                while len(records) < verdicts:
                    batches = await client.getmany(timeout_ms=1000)
                    records += [record for batch in batches.values() for record in batch]
        if len({dict(record.headers)["ce_id"] for record in records}) < len(records):
            raise RuntimeError("an event has more than one verdict")
        return sorted(records, key=lambda record: record.timestamp)


@contextmanager
def stand(broker: str, engine_url: str, folder: Path, file: Path = SHIPPED, **settings: Any) -> Iterator[Stand]:
    """Broker and store with topics and tables. settings: of the worker, where they are not the defaults."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        kafka = _broker(broker, place)
        stack.enter_context(kafka)
        store = stack.enter_context(ChdbStore(place))
        chosen = Settings(
            kafka_url=kafka.url,
            kafka_session_seconds=6,  # Tansu lets a member in after half of this
            engine_url=engine_url,
            clickhouse_url=store.url,
            web_port=free_port(),
            **settings,
        )
        migrate(chosen.store)
        judged = _all_by_the_model(file, place)
        asyncio.run(topics.create(chosen, topics.topics_of([pipeline.load(judged)]), PARTITIONS, 1))
        yield Stand(chosen, place, judged)


def _all_by_the_model(file: Path, folder: Path) -> Path:
    """The pipeline without its screens: rows that need no engine would flatter every figure."""
    yaml, copy = YAML(), folder / file.name
    content = yaml.load(file)
    for stage in content["stages"]:
        stage.pop("cascade", None)
    yaml.dump(content, copy)
    return copy


def _broker(name: str, folder: Path) -> TansuBroker | ApacheKafka:
    if name == "tansu":
        return TansuBroker(folder)
    fetch(default_jars())
    return ApacheKafka(default_jars(), folder / "kafka")
