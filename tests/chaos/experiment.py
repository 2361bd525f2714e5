"""One run: publish, disturb, heal, wait, stop, and look at what is left."""

import asyncio
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import history
import http_calls
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.client import Client
from faults import Faults
from feed import Feed
from history import Findings
from lane import Lane
from schedule import About, Schedule
from subject import SUBJECTS, Offsets
from tape import Tape
from workers import Workers

from sinks import clickhouse
from sinks.errors import StoreUnavailable
from streams import pipeline, topics
from streams.settings import Settings

T = TypeVar("T")

PATIENCE_SECONDS = 180.0
_SETTLE_SECONDS = 30.0
_AUDIT_SECONDS = 1.0
_LONGEST_SECONDS = 1200.0  # a run that takes longer hangs


@dataclass(slots=True)
class Result:
    """What came of a run.

    faults: those that came about. recovery: seconds from the end of the last fault until all was done.
    calls: that the events are turns of. error: why the run could not be finished, if so.
    """

    seed: int
    broker: str
    workers: int
    events: int
    about: About = About.MESSAGES
    calls: int = 0
    faults: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    judged_again: int = 0
    seconds: float = 0.0
    recovery: float = 0.0
    worker_exits: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)
    tracebacks: int = 0
    error: str = ""
    folder: str = ""

    @property
    def name(self) -> str:
        """What `--seeds` calls the run."""
        return "/".join([str(self.seed), self.broker, *([self.about] if self.about is not About.MESSAGES else [])])

    @property
    def failed(self) -> bool:
        """Whether a promise was broken, or the harness could not tell."""
        return bool(self.findings.broken or self.error)

    @property
    def remarkable(self) -> list[str]:
        """What a person should look at although no promise was broken."""
        return [*self.worker_exits, *self.unclean, *(self.findings.uncommitted if self.broker == "apache" else ())]


async def run(lane: Lane, schedule: Schedule, folder: Path, patience: float = PATIENCE_SECONDS) -> Result:
    """One run of a schedule. folder: for the logs of the workers. patience: seconds without any progress."""
    result = Result(schedule.seed, schedule.broker, schedule.workers, schedule.events, schedule.about, schedule.calls)
    started = time.monotonic()
    experiment = _Experiment(lane, schedule, folder, patience)
    try:
        await experiment.prepare()
        async with asyncio.timeout(_LONGEST_SECONDS):
            await experiment.perform(result)
    except Exception as error:  # noqa: BLE001  the other runs go on; this one is reported as failed
        result.error = f"{type(error).__name__}: {error}"[:500]
        experiment.journal(traceback.format_exc())
    finally:
        experiment.end()
    result.seconds = time.monotonic() - started
    result.tracebacks = experiment.tracebacks()
    return result


class _Experiment:
    def __init__(self, lane: Lane, schedule: Schedule, folder: Path, patience: float) -> None:
        self._lane = lane
        self._schedule = schedule
        self._folder = folder
        self._patience = patience
        self._file = folder / "pipeline.yaml"
        self._settings = lane.settings(schedule.broker)
        self._bootstrap = self._settings.kafka_url.removeprefix("kafka://")
        self._feed = Feed(self._bootstrap, schedule.seed)
        self._subject = SUBJECTS[schedule.about](schedule, self._feed)
        self._early: set[str] = set()
        self._workers = Workers(self._file, self._worker_settings, self.journal)
        self._faults: Faults | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def journal(self, line: str) -> None:
        """A line with the time, in the form of the workers' logs."""
        with (self._folder / "journal.log").open("a") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f} {line}\n")

    def end(self) -> None:
        """Leave nothing behind for the next run."""
        if self._faults is not None:
            self._faults.cancel()
        self._workers.kill_all()
        self._lane.engine_proxy.reset()
        self._lane.store_proxy.reset()

    def tracebacks(self) -> int:
        """How many the workers logged."""
        return sum(log.read_text(errors="replace").count("Traceback") for log in self._folder.glob("w*.log"))

    async def prepare(self) -> None:
        """Servers and topics."""
        s = self._schedule
        self.journal(
            f"seed {s.seed} on {s.broker}: {s.events} events in {len(s.messages)} messages, {s.early} of them early; "
            f"{s.partitions} partitions; {s.workers} workers with {s.rows_in_flight} rows; "
            f"{', '.join(map(str, s.faults))}"
        )
        await self._lane.need(self._schedule.broker, self._schedule.about)
        self._file.write_text(self._subject.pipeline)
        wanted = topics.topics_of([pipeline.load(self._file)])
        await topics.create(self._settings, wanted, self._schedule.partitions, 1)
        self._lane.engine_proxy.reset()
        self._lane.store_proxy.reset()

    async def perform(self, result: Result) -> None:
        """From the first message to the last look."""
        schedule, source, feed = self._schedule, self._subject.source, self._feed
        async with self._subject.tape(self._bootstrap) as tape:
            auditing = asyncio.create_task(self._audit(tape))
            faults = self._faults = Faults(self._lane, schedule, self._workers, tape, self.journal)
            try:
                await feed.publish(source, schedule.messages[: schedule.early], pauses=False)
                faults.start()
                self._workers.start(schedule.workers)
                await self._workers.any_ready()  # so that the rest comes while they work
                await feed.publish(source, schedule.messages[schedule.early :], pauses=True)
                self.journal("all published")
                await self._until_done(tape)
                await self._until_stored(tape)
                done = time.monotonic()
                await faults.heal()
                await self._until_stored(tape)
                result.recovery = max(0.0, done - faults.ended) if faults.begun else 0.0
                await self._workers.all_ready()
                if schedule.disturbs_group and not tape.unfinished:
                    await self._settle(tape)
                self.journal("stopping")
                await self._workers.stop_all()
                ends = await tape.to_the_end()
            finally:
                auditing.cancel()
                result.faults = [fault.kind.value for fault in faults.begun]
                result.worker_exits, result.unclean = self._workers.exits, self._workers.unclean
            offsets = {topic: Offsets(await self._committed(topic), ends[topic]) for topic in self._subject.reads}
            result.findings = await self._ask(partial(self._subject.findings, tape, offsets=offsets))
        result.findings.early += sorted(self._early)
        result.judged_again = history.judged_again(
            [
                text
                for call in self._lane.engine_proxy.passed
                if call.kind == http_calls.COMPLETION
                for text in call.texts
            ]
        )

    def _worker_settings(self, name: str) -> Settings:
        return self._lane.worker_settings(
            self._schedule.broker, name, self._schedule.name, self._schedule.rows_in_flight
        )

    async def _until_done(self, tape: Tape) -> None:
        """Return when everything has its verdict or its dead letter, or when nothing has moved for too long."""
        last, since = -1, time.monotonic()
        await tape.has_published(len(self._schedule.messages))
        while waiting := tape.unfinished:
            if len(waiting) != last:
                last, since = len(waiting), time.monotonic()
            if time.monotonic() - since > self._patience:
                places = {m.event: m.place for m in tape.published.values()}
                self.journal(f"given up: {', '.join(f'{name} at {places.get(name)}' for name in waiting)}")
                self.journal(f"committed: {await self._committed(self._subject.source)}")
                return
            await asyncio.sleep(0.1)
        self.journal("all done in Kafka")

    async def _until_stored(self, tape: Tape) -> None:
        """The same for the rows: a worker that is told to stop may leave them to the next one."""
        last, since = -1, time.monotonic()
        while waiting := await self._unstored(tape):
            if len(waiting) != last:
                last, since = len(waiting), time.monotonic()
            if time.monotonic() - since > self._patience:
                self.journal(f"given up: not stored: {', '.join(sorted(waiting))}")
                return
            await asyncio.sleep(0.3)
        self.journal("all done in ClickHouse")

    async def _unstored(self, tape: Tape) -> set[str]:
        """What ClickHouse does not have; something while it is away."""
        try:
            return set(await self._ask(partial(self._subject.unstored, tape)))
        except (StoreUnavailable, *clickhouse.UNAVAILABLE):
            return {"anything, as nobody answers"}

    async def _audit(self, tape: Tape) -> None:
        """Look again and again whether something is committed that the store does not have."""
        while True:
            await asyncio.sleep(_AUDIT_SECONDS)
            try:
                committed = await self._committed(self._subject.source)
                taken = set(await self._ask(self._subject.taken))
            except (KafkaError, StoreUnavailable, *clickhouse.UNAVAILABLE):
                continue
            for message in list(tape.published.values()):
                partition, offset = message.place
                if message.event and message.event not in taken and offset < committed.get(partition, 0):
                    self._early.add(f"{message.event} at {message.place}: committed before it was done")

    async def _ask(self, question: Callable[[Client], T]) -> T:
        """Ask the store itself."""
        return await asyncio.to_thread(_ask, self._settings, question)

    async def _settle(self, tape: Tape) -> None:
        """Let workers that came late see what those before them did not commit."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            ends = await tape.to_the_end()
            committed = {topic: await self._committed(topic) for topic in self._subject.reads}
            if all(
                not end or found.get(partition) == end
                for topic, found in committed.items()
                for partition, end in ends[topic].items()
            ):
                return
            await asyncio.sleep(0.3)
        self.journal(f"not settled: {committed} of {ends}")

    async def _committed(self, topic: str) -> Mapping[int, int]:
        partitions = [TopicPartition(topic, number) for number in range(self._schedule.partitions)]
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(self._schedule.name, partitions=partitions)
        except KafkaError as error:
            self.journal(f"committed offsets are not told: {error!r}")
            return {}
        finally:
            await admin.close()
        return {tp.partition: entry.offset for tp, entry in found.items() if entry.offset >= 0}


def _ask(settings: Settings, question: Callable[[Client], T]) -> T:
    client = clickhouse.connect(settings.store)
    try:
        return question(client)
    finally:
        client.close()
