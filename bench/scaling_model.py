"""A discrete-event model of the service: how long rows take, and what happens when a part fails.

Producers publish to partitions; workers take rows into their windows, group prompts into requests, and publish and
store what comes back; GPUs answer whole requests in steps, as vLLM does; a partition is committed up to its lowest
unfinished row. All times are seconds. The same seed gives the same run.

What it leaves out: order within a key, retries other than those of a failed GPU, traffic between the parts, and rows of
different sizes.
"""

import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import simpy
from numpy.typing import NDArray

Process = Generator[simpy.Event, Any, None]

_SLICE = 0.003  # that a process keeps a core for, where cores are shared: Linux' base slice
_LOOK_SECONDS = 0.05  # over which the worker measures how busy its event loop is (inference/batcher.py)
_BUSY = 0.8
_TOGETHER = 16  # rows that the event loop takes at once, where so many wait


@dataclass(frozen=True, slots=True)
class Traffic:
    """Messages arrive by a Poisson process; in bursts, by one whose rate changes between two values.

    rate: mean messages a second. burst: the higher rate over the mean, from 1 (no bursts) to below 1 / `share`. share:
    of the time, that bursts take. seconds: mean length of a burst. at_once: messages that are there at the beginning.
    """

    rate: float
    burst: float = 1.0
    share: float = 0.1
    seconds: float = 2.0
    at_once: int = 0

    @property
    def low(self) -> float:
        """The rate between bursts."""
        return self.rate * (1 - self.burst * self.share) / (1 - self.share)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker. row, request, insert, insert_row: processor seconds of its event loop for each of them. fetch: for rows
    that find it idle, so that they are fetched, and their verdicts sent, a few at a time.

    skipped: share of the rows that need no model: reused, or decided by the screen. window: rows in flight. prompts: in
    a request, at most. limit: prompts in flight, at most. linger: seconds that a prompt waits for company; `patience`
    times as long while the loop is busy.
    """

    row: float = 0.0
    request: float = 0.0
    insert: float = 0.0
    insert_row: float = 0.0
    fetch: float = 0.0
    skipped: float = 0.0
    window: int = 4096
    prompts: int = 16
    limit: int = 1024
    linger: float = 0.002
    patience: float = 16.0


@dataclass(frozen=True, slots=True)
class Engine:
    """All GPUs behind one address that gives a request to the next free one.

    gpus: 0 for an engine that takes any number of requests at once. step, prompt: seconds that a step takes, and each
    of its prompts on top. step_prompts: prompts of a step, at most. spread: of the time that a step takes.
    """

    gpus: int = 0
    step: float = 0.0
    prompt: float = 0.0
    step_prompts: int = 1
    spread: Literal["fixed", "exponential"] = "fixed"


@dataclass(frozen=True, slots=True)
class Store:
    """linger: seconds from a batch's first row to its insert. insert, row: seconds of an insert, and of a message.

    merge: seconds of merges that follow an insert, in so many threads (`mergers`), and that nobody waits for. Where
    cores are shared they matter: together they keep all of them busy.
    """

    linger: float = 0.2
    insert: float = 0.0
    row: float = 0.0
    merge: float = 0.0
    mergers: int = 2


@dataclass(frozen=True, slots=True)
class Broker:
    """hop: seconds from a message's acknowledgement to its reader. commit: between two commits of a worker.

    session: silence after which a worker is given up. rebalance: seconds that the group stands still then.
    """

    hop: float = 0.0
    commit: float = 1.0
    session: float = 10.0
    rebalance: float = 3.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where all parts share a few cores: processor seconds that others take.

    message: of broker, producer and reader, a message. request: of the engine, a request.
    """

    cores: int
    message: float = 0.0
    request: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """A worker or a GPU fails at a moment, and another is there after some seconds."""

    what: Literal["worker", "gpu"]
    at: float
    back_after: float


@dataclass(frozen=True, slots=True)
class System:
    """What is simulated. machine: None where each part has cores of its own."""

    workers: int = 1
    partitions: int = 4
    worker: Worker = Worker()
    engine: Engine = Engine()
    store: Store = Store()
    broker: Broker = Broker()
    machine: Machine | None = None
    faults: Sequence[Fault] = ()


@dataclass(slots=True, eq=False)
class _Row:
    partition: int
    offset: int
    arrived: float
    published: float = -1.0  # when its verdict was
    finished: bool = False


@dataclass(slots=True, eq=False)
class _Partition:
    log: list[_Row] = field(default_factory=list)
    next: int = 0  # offset that is delivered next
    committed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    arrived, latency: of each row with a verdict, in the order of arrival; seconds from its acknowledgement by Kafka to
    the verdict's reader. published, finished, waiting, in_flight: rows at the end, waiting in Kafka or with a worker.
    judged: prompts that were answered; again: those of rows that had been answered before. committed_early: rows that
    were committed without being finished. busy: share of their time that workers and GPUs worked; cores in use.
    """

    arrived: NDArray[np.float64]
    latency: NDArray[np.float64]
    stored: NDArray[np.float64]
    published: int
    finished: int
    waiting: int
    in_flight: int
    judged: int
    again: int
    committed_early: int
    busy: dict[str, float]

    def quantile(self, share: float, since: float = 0.0, until: float = np.inf) -> float:
        """Latency of the rows that arrived in a time. NaN for none."""
        found = self.latency[(self.arrived >= since) & (self.arrived < until)]
        return float(np.quantile(found, share)) if len(found) else float("nan")

    def rate(self, skip: float = 0.0) -> float:
        """Rows finished a second, without the first share of them."""
        times = np.sort(self.stored)[int(skip * len(self.stored)) :]
        return (len(times) - 1) / float(times[-1] - times[0])


class Simulation:
    """One run of a system under traffic."""

    def __init__(self, system: System, traffic: Traffic, seed: int = 1) -> None:
        self.system = system
        self.env = simpy.Environment()
        self.chance = random.Random(seed)
        self.partitions = [_Partition() for _ in range(system.partitions)]
        self.judged = self.again = self.committed_early = 0
        self.cores = simpy.Resource(self.env, system.machine.cores) if system.machine else None
        self.computed = 0.0
        self.gpus = _Gpus(self)
        self.stored: list[float] = []
        self.workers = [_Worker(self, number) for number in range(system.workers)]
        self.owners: dict[int, _Worker] = {}
        self.others = _Background(self) if system.machine else None
        self._assign()
        self.env.process(self._produce(traffic))
        for fault in system.faults:
            self.env.process(self._fail(fault))

    def run(self, seconds: float, *, drain: bool = False) -> Outcome:
        """Let messages arrive for so long. drain: stop when all that arrived is finished."""
        self._until = seconds
        self.env.run(until=seconds)
        while drain and sum(len(p.log) for p in self.partitions) > len(self.stored):
            self.env.run(until=self.env.now + 1)
        return self._outcome()

    def compute(self, seconds: float) -> Process:
        """Use a core for so long: a shared one, in turns, or one that nobody else wants."""
        if self.cores is None:
            if seconds:
                yield self.env.timeout(seconds)
            return
        while seconds > 0:
            part = min(seconds, _SLICE)
            with self.cores.request() as turn:
                yield turn
                yield self.env.timeout(part)
            self.computed += part
            seconds -= part

    def answered(self, rows: Sequence[_Row]) -> None:
        """Count the prompts of a request."""
        self.judged += len(rows)
        self.again += sum(row.published >= 0 for row in rows)

    def _produce(self, traffic: Traffic) -> Process:
        for _ in range(traffic.at_once):
            self._publish()
        bursting, ends = False, np.inf
        if traffic.burst > 1:
            calm = traffic.seconds * (1 - traffic.share) / traffic.share
            ends = self.chance.expovariate(1 / calm)
        rate = traffic.low if traffic.burst > 1 else traffic.rate
        now = 0.0
        while rate > 0 or ends < np.inf:
            wait = self.chance.expovariate(rate) if rate > 0 else np.inf
            if now + wait > ends:
                yield self.env.timeout(ends - now)
                now, bursting = ends, not bursting
                rate = traffic.rate * traffic.burst if bursting else traffic.low
                ends = now + self.chance.expovariate(1 / (traffic.seconds if bursting else calm))
                continue
            now += wait
            yield self.env.timeout(wait)
            if now >= self._until:
                return
            self._publish()

    def _publish(self) -> None:
        number = self.chance.randrange(len(self.partitions))
        if self.others:
            self.others.handle(1, lambda: self._acknowledge(number))
        else:
            self._acknowledge(number)

    def _acknowledge(self, number: int) -> None:
        log = self.partitions[number].log
        log.append(_Row(number, len(log), self.env.now))
        if (owner := self.owners.get(number)) is not None:
            owner.wake()

    def _assign(self) -> None:
        """Give the partitions to the workers that are there; what was not finished is delivered again."""
        live = [worker for worker in self.workers if worker.alive]
        before, self.owners = self.owners, {}
        for number, partition in enumerate(self.partitions):
            if not live:
                break
            owner = live[number % len(live)]
            self.owners[number] = owner
            if before.get(number) is not owner:
                partition.next = partition.committed
        for worker in live:
            worker.partitions = [number for number, owner in self.owners.items() if owner is worker]
            worker.resume()

    def _fail(self, fault: Fault) -> Process:
        yield self.env.timeout(fault.at)
        if fault.what == "gpu":
            yield from self.gpus.fail(fault.back_after)
            return
        victim = next(worker for worker in self.workers if worker.alive)
        victim.die()
        broker = self.system.broker
        yield self.env.timeout(broker.session)
        yield from self._rebalance()
        yield self.env.timeout(max(0.0, fault.back_after - broker.session - broker.rebalance))
        self.workers.append(_Worker(self, len(self.workers)))
        yield from self._rebalance()

    def _rebalance(self) -> Process:
        for worker in self.workers:
            worker.pause()
        yield self.env.timeout(self.system.broker.rebalance)
        for worker in self.workers:
            worker.commit()
        self._assign()

    def _outcome(self) -> Outcome:
        rows = [row for partition in self.partitions for row in partition.log]
        rows.sort(key=lambda row: row.arrived)
        done = [row for row in rows if row.published >= 0]
        finished = sum(row.finished for row in rows)
        waiting = sum(not row.finished for partition in self.partitions for row in partition.log[partition.next :])
        hops = 2 * self.system.broker.hop
        now = self.env.now
        busy = {"workers": sum(worker.worked for worker in self.workers) / (now * len(self.workers))}
        if self.cores is not None:
            busy["cores"] = self.computed / now
        if self.system.engine.gpus:
            busy["gpus"] = self.gpus.worked / (now * self.system.engine.gpus)
        return Outcome(
            np.array([row.arrived for row in done]),
            np.array([row.published - row.arrived + hops for row in done]),
            np.array(self.stored),
            len(rows),
            finished,
            waiting,
            len(rows) - finished - waiting,
            self.judged,
            self.again,
            self.committed_early,
            busy,
        )


class _Worker:
    """A worker: one thread that does one thing after another, a writer beside it, and commits."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.number = number
        self.alive = True
        self.partitions: list[int] = []
        self.worked = 0.0
        self._simulation = simulation
        self._env = simulation.env
        self._settings = simulation.system.worker
        self._rows = 0  # in flight
        self._waiting: deque[tuple[_Row, float]] = deque()  # prompts that are not sent, and since when
        self._in_flight = 0  # prompts
        self._jobs: deque[tuple[float, Callable[[], None]]] = deque()
        self._paused = True
        self._idle = simulation.env.event()
        self._turn = 0
        self._looked = (0.0, 0.0)
        self._busy = False
        self._wakes_at = np.inf
        self._unstored: list[_Row] = []
        self._arrived = simulation.env.event()
        self._env.process(self._loop())
        self._env.process(self._write())
        self._env.process(self._commits())

    def wake(self) -> None:
        """There may be something to do."""
        if not self._idle.triggered:
            self._idle.succeed()

    def pause(self) -> None:
        """Take no rows."""
        self._paused = True

    def resume(self) -> None:
        """Take the rows of these partitions."""
        self._paused = False
        self.wake()

    def die(self) -> None:
        """Without a word: what was not finished is lost to it."""
        self.alive = False
        self.wake()

    def _loop(self) -> Process:
        idle = True
        while self.alive:
            if self._jobs:
                seconds, then = self._jobs.popleft()
                yield from self._work(seconds)
                if self.alive:
                    then()
            rows = self._take()
            if rows:
                yield from self._work(self._settings.row * len(rows) + (self._settings.fetch if idle else 0.0))
                idle = False
                if self.alive:
                    self._begin(rows)
            elif not self._jobs:
                idle = True
                self._idle = self._env.event()
                yield self._idle

    def _work(self, seconds: float) -> Process:
        yield from self._simulation.compute(seconds)
        self.worked += seconds

    def _take(self) -> list[_Row]:
        """The next rows of its partitions, in turns, as many as the window has room for."""
        if self._paused:
            return []
        room = min(_TOGETHER, self._settings.window - self._rows)
        found: list[_Row] = []
        for _ in range(len(self.partitions)):
            if len(found) >= room:
                break
            self._turn = (self._turn + 1) % len(self.partitions)
            partition = self._simulation.partitions[self.partitions[self._turn]]
            while partition.next < len(partition.log) and len(found) < room:
                row = partition.log[partition.next]
                partition.next += 1
                if not row.finished:  # it is not judged again: the store knows it
                    found.append(row)
        self._rows += len(found)
        return found

    def _begin(self, rows: Sequence[_Row]) -> None:
        skipped = self._settings.skipped
        now = self._env.now
        for row in rows:
            if skipped and self._simulation.chance.random() < skipped:
                self._publish([row])
            else:
                self._waiting.append((row, now))
        self._send()

    def _send(self) -> None:
        """Send what is due, as far as the limit allows."""
        settings = self._settings
        while self._waiting and self._in_flight < settings.limit:
            due = self._waiting[0][1] + self._patience()
            if len(self._waiting) < settings.prompts and due > self._env.now + 1e-9:
                if self._wakes_at > due:
                    self._wakes_at = due
                    self._env.process(self._later(due))
                return
            size = min(len(self._waiting), settings.prompts, settings.limit - self._in_flight)
            batch = [self._waiting.popleft()[0] for _ in range(size)]
            self._in_flight += size
            # Half of a request's work is done before it, half when it is answered.
            self._do(settings.request / 2, lambda batch=batch: self._simulation.gpus.ask(batch, self._answered))  # type: ignore[misc]

    def _later(self, due: float) -> Process:
        yield self._env.timeout(due - self._env.now)
        if self._wakes_at == due:
            self._wakes_at = np.inf
            if self.alive:
                self._send()
                self.wake()

    def _patience(self) -> float:
        at, worked = self._looked
        if self._env.now >= at + _LOOK_SECONDS:
            self._busy = self.worked - worked >= _BUSY * (self._env.now - at)
            self._looked = self._env.now, self.worked
        return self._settings.linger * (self._settings.patience if self._busy else 1)

    def _answered(self, batch: Sequence[_Row]) -> None:
        if self.alive:
            self._in_flight -= len(batch)
            self._do(self._settings.request / 2, lambda: self._publish(batch))
            self._send()

    def _do(self, seconds: float, then: Callable[[], None]) -> None:
        self._jobs.append((seconds, then))
        self.wake()

    def _publish(self, batch: Sequence[_Row]) -> None:
        def read() -> None:
            for row in batch:
                if row.published < 0:
                    row.published = self._env.now

        if self._simulation.others:
            self._simulation.others.handle(len(batch), read)
        else:
            read()
        self._unstored += batch
        if not self._arrived.triggered:
            self._arrived.succeed()

    def _write(self) -> Process:
        store, settings = self._simulation.system.store, self._settings
        while True:
            yield self._arrived
            yield self._env.timeout(store.linger)
            batch, self._unstored = self._unstored, []
            self._arrived = self._env.event()
            made = self._env.event()
            # Another thread makes the insert, but Python runs one thread at a time.
            self._do(settings.insert + settings.insert_row * len(batch), lambda made=made: made.succeed())  # type: ignore[misc]
            yield made
            yield from self._simulation.compute(store.insert + store.row * len(batch))
            for _ in range(store.mergers if store.merge else 0):
                self._env.process(self._simulation.compute(store.merge / store.mergers))
            if not self.alive:
                return
            for row in batch:
                if not row.finished:
                    row.finished = True
                    self._simulation.stored.append(self._env.now)
            self._rows -= len(batch)
            self.wake()

    def _commits(self) -> Process:
        while self.alive:
            yield self._env.timeout(self._simulation.system.broker.commit)
            if self.alive:
                self.commit()

    def commit(self) -> None:
        """Commit each partition up to its lowest unfinished row."""
        if not self.alive:
            return
        for number in self.partitions:
            partition = self._simulation.partitions[number]
            offset = partition.committed
            while offset < partition.next and partition.log[offset].finished:
                offset += 1
            self._simulation.committed_early += sum(
                not row.finished for row in partition.log[partition.committed : offset]
            )
            partition.committed = offset


class _Gpus:
    """The engine. Requests wait in one queue; a GPU takes as many as fit into its next step."""

    def __init__(self, simulation: Simulation) -> None:
        self.worked = 0.0
        self._simulation = simulation
        self._env = simulation.env
        self._settings = simulation.system.engine
        self._queue: deque[tuple[Sequence[_Row], Callable[[Sequence[_Row]], None]]] = deque()
        self._idle: deque[simpy.Event] = deque()
        self._running = [self._env.process(self._gpu()) for _ in range(self._settings.gpus)]

    def ask(self, rows: Sequence[_Row], then: Callable[[Sequence[_Row]], None]) -> None:
        """Have a request answered. then: called with its rows."""
        if not self._settings.gpus:
            self._env.process(self._alone(rows, then))
            return
        self._queue.append((rows, then))
        if self._idle:
            self._idle.popleft().succeed()

    def fail(self, seconds: float) -> Process:
        """One GPU is gone for so long. What it had goes to the others."""
        victim = self._running.pop()
        victim.interrupt()
        yield self._env.timeout(seconds)
        self._running.append(self._env.process(self._gpu()))

    def _alone(self, rows: Sequence[_Row], then: Callable[[Sequence[_Row]], None]) -> Process:
        yield self._env.timeout(self._time(len(rows)))
        if self._simulation.system.machine:
            yield from self._simulation.compute(self._simulation.system.machine.request)
        self._simulation.answered(rows)
        then(rows)

    def _time(self, prompts: int) -> float:
        seconds = self._settings.step + self._settings.prompt * prompts
        if self._settings.spread == "exponential":
            return self._simulation.chance.expovariate(1 / seconds)
        return seconds

    def _gpu(self) -> Process:
        step: list[tuple[Sequence[_Row], Callable[[Sequence[_Row]], None]]] = []
        waits: simpy.Event | None = None
        try:
            while True:
                while not self._queue:
                    waits = self._env.event()
                    self._idle.append(waits)
                    yield waits
                waits = None
                prompts = 0
                while self._queue and (not step or prompts + len(self._queue[0][0]) <= self._settings.step_prompts):
                    step.append(self._queue.popleft())
                    prompts += len(step[-1][0])
                seconds = self._time(prompts)
                yield self._env.timeout(seconds)
                self.worked += seconds
                done, step = step, []
                for rows, then in done:
                    self._simulation.answered(rows)
                    then(rows)
        except simpy.Interrupt:
            if waits is not None and waits in self._idle:
                self._idle.remove(waits)
            self._queue.extendleft(reversed(step))
            while self._queue and self._idle:
                self._idle.popleft().succeed()


class _Background:
    """Broker, producer and reader on the machine that all parts share: half before a message is acknowledged, half when
    its verdict leaves.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._env = simulation.env
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake = self._env.event()
        self._env.process(self._loop())

    def handle(self, messages: int, then: Callable[[], None]) -> None:
        """Move messages to their reader."""
        self._jobs.append((messages, then))
        if not self._wake.triggered:
            self._wake.succeed()

    def _loop(self) -> Process:
        machine = self._simulation.system.machine
        assert machine is not None
        while True:
            yield self._wake
            self._wake = self._env.event()
            while self._jobs:
                messages, then = self._jobs.popleft()
                yield from self._simulation.compute(machine.message * messages / 2)
                then()


def simulate(system: System, traffic: Traffic, seconds: float, seed: int = 1, *, drain: bool = False) -> Outcome:
    """Run a system under traffic for so many seconds, from an empty state."""
    return Simulation(system, traffic, seed).run(seconds, drain=drain)


def erlang_c(servers: int, offered: float) -> float:
    """The probability that an arrival has to wait in M/M/c. offered: rate times mean service time, below `servers`.

    Through the recursion of Erlang B, which does not overflow.
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - (1 - blocked) * offered / servers)


def mean_wait(servers: int, offered: float, service: float) -> float:
    """Mean seconds that an arrival waits in M/M/c. service: mean seconds of one."""
    return erlang_c(servers, offered) * service / (servers - offered)
