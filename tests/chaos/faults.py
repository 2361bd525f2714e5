"""Faults, from their trigger to the moment when all is well again."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

import http_calls
from lane import Lane
from proxy import Call, Mode, Proxy
from schedule import Fault, Kind, On, Schedule
from tape import Tape
from workers import Workers

_ENGINE_MODES = {
    Kind.ENGINE_HANG: Mode.HANG,
    Kind.ENGINE_429: Mode.STATUS_429,
    Kind.ENGINE_500: Mode.STATUS_500,
    Kind.ENGINE_503: Mode.STATUS_503,
    Kind.ENGINE_GARBAGE: Mode.GARBAGE,
    Kind.ENGINE_HALF_BODY: Mode.HALF_BODY,
    Kind.ENGINE_LATE: Mode.LATE,
}
_STORE_MODES = {
    Kind.STORE_REFUSE: Mode.REFUSE,
    Kind.STORE_SLOW: Mode.SLOW,
    Kind.STORE_500: Mode.STATUS_500,
    Kind.STORE_FAIL_AFTER: Mode.FAIL_AFTER,
}
_HOOKS = {Kind.KILL_AFTER_ANSWER, Kind.KILL_AFTER_INSERT}
_CALLS = {
    On.ANSWERS: http_calls.COMPLETION,
    On.INSERTS: http_calls.INSERT_VERDICTS,
    On.TURN_INSERTS: http_calls.INSERT_TURNS,
    On.CALL_INSERTS: http_calls.INSERT_CALLS,
}


class Faults:
    """The faults of one run."""

    def __init__(
        self, lane: Lane, schedule: Schedule, workers: Workers, tape: Tape, journal: Callable[[str], None]
    ) -> None:
        self.begun: list[Fault] = []
        self.ended = 0.0  # when the last one was over, on the monotonic clock
        self._lane = lane
        self._schedule = schedule
        self._workers = workers
        self._tape = tape
        self._journal = journal
        self._rng = random.Random(schedule.seed)
        self._tasks: list[asyncio.Task[None]] = []
        # Two faults of one server take turns: the end of one must not be the end of the other.
        self._locks = {name: asyncio.Lock() for name in ("workers", "broker", "engine", "store")}

    def start(self) -> None:
        """Begin to wait for the triggers."""
        self._tasks = [asyncio.create_task(self._one(fault)) for fault in self._schedule.faults]

    async def heal(self) -> None:
        """Return when every fault that has begun is over; the others never begin."""
        waiting = [
            t for t, f in zip(self._tasks, self._schedule.faults, strict=True) if not any(f is b for b in self.begun)
        ]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*(task for task in self._tasks if task not in waiting))

    def cancel(self) -> None:
        """For the end of a run that failed."""
        for task in self._tasks:
            task.cancel()

    async def _one(self, fault: Fault) -> None:
        if fault.kind in _HOOKS:
            await self._kill_from_hook(fault)
            return
        await self._trigger(fault)
        server = fault.kind.partition("_")[0]
        async with self._locks[server if server in self._locks else "workers"]:
            self._begin(fault)
            await self._inject(fault)
            self._end(fault)

    async def _trigger(self, fault: Fault) -> None:
        tallies = {
            On.VERDICTS: self._tape.verdicts_seen,
            On.TRANSCRIPTS: self._tape.transcripts_seen,
            On.PUBLISHED: self._tape.published_seen,
        }
        tally = tallies.get(fault.on) or self._proxy(fault).tally(_CALLS[fault.on])
        await tally.reaches(fault.count)

    def _proxy(self, fault: Fault) -> Proxy:
        """Which one counts for the fault."""
        return self._lane.engine_proxy if fault.on is On.ANSWERS else self._lane.store_proxy

    def _begin(self, fault: Fault) -> None:
        self.begun.append(fault)
        self._journal(f"fault {fault}")

    def _end(self, fault: Fault) -> None:
        self.ended = time.monotonic()
        self._journal(f"{fault.kind} is over")

    async def _inject(self, fault: Fault) -> None:
        kind, seconds, broker = fault.kind, fault.seconds, self._schedule.broker
        if kind in _ENGINE_MODES:
            await _mode(self._lane.engine_proxy, _ENGINE_MODES[kind], seconds)
        elif kind in _STORE_MODES:
            await _mode(self._lane.store_proxy, _STORE_MODES[kind], seconds)
        else:
            actions: dict[Kind, Callable[[], Awaitable[object]]] = {
                Kind.KILL: lambda: self._kill(1, seconds),
                Kind.KILL_TWO: lambda: self._kill(2, seconds),
                Kind.KILL_AFTER_VERDICT: lambda: self._kill(1, seconds),
                Kind.ROLLING_RESTART: self._workers.roll,
                Kind.JOIN: lambda: asyncio.sleep(0, self._workers.join()),
                Kind.BROKER_PAUSE: lambda: self._lane.pause_broker(broker, seconds),
                Kind.BROKER_RESTART: lambda: self._lane.restart_broker(broker, seconds, signal.SIGTERM),
                Kind.BROKER_KILL: lambda: self._lane.restart_broker(broker, seconds, signal.SIGKILL),
                Kind.ENGINE_KILL: lambda: self._lane.restart_engine(seconds),
                Kind.STORE_RESTART: lambda: self._lane.restart_store(seconds),
            }
            await actions[kind]()

    async def _kill(self, number: int, delay: float) -> None:
        await asyncio.gather(*(self._workers.kill(name, delay) for name in self._workers.some(self._rng, number)))

    async def _kill_from_hook(self, fault: Fault) -> None:
        """Kill the worker that asked, before it knows the answer or shortly after."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def kill(call: Call) -> None:
            try:
                await self._workers.kill(call.who, fault.seconds)
            finally:
                self._end(fault)
                over.set_result(None)

        async def hook(call: Call) -> bool:
            self._begin(fault)
            task = asyncio.create_task(kill(call))
            if not fault.seconds:
                await task
            return bool(fault.seconds)

        self._proxy(fault).before_answer(_CALLS[fault.on], fault.count, hook)
        await over


async def _mode(proxy: Proxy, mode: Mode, seconds: float) -> None:
    proxy.mode = mode
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.mode = Mode.PASS
