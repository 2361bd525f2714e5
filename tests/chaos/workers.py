"""The workers of a run, kept alive as a supervisor would."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.embedded.process import ChildProcess
from streams.settings import Settings

STOP_SECONDS = 40.0
_READY_SECONDS = 60.0
_POLL_SECONDS = 0.1
_BACK_SECONDS = 0.5


class Workers:
    """Starts workers, and starts one anew for each that ends without having been told to."""

    def __init__(self, pipelines: Path, settings: Callable[[str], Settings], journal: Callable[[str], None]) -> None:
        """settings: of the worker with a name. journal: told of each start and end."""
        self._pipelines = pipelines
        self._settings = settings
        self._journal = journal
        self._running: dict[str, ChildProcess] = {}
        self._told: set[str] = set()
        self._killed: set[str] = set()
        self._started = 0
        self._supervising: asyncio.Task[None] | None = None
        self.exits: list[str] = []
        self.unclean: list[str] = []

    def start(self, number: int) -> None:
        """The first workers."""
        for _ in range(number):
            self.join()
        self._supervising = asyncio.create_task(self._supervise())

    def join(self) -> str:
        """One more worker; its name."""
        self._started += 1
        name = f"w{self._started}"
        argv = [sys.executable, "-m", "streams", "worker", "--pipelines", str(self._pipelines)]
        values = self._settings(name).model_dump(exclude_defaults=True, mode="json")
        # Secrets are dumped as stars.
        values["engine_api_key"] = name
        environment = {f"WEIR_{key.upper()}": str(value) for key, value in values.items()}
        log = self._pipelines.with_name(f"{name}.log")
        self._running[name] = ChildProcess(name, argv, log, environment)
        self._journal(f"{name} started")
        return name

    async def kill(self, name: str, delay: float = 0.0) -> None:
        """SIGKILL, if it still runs."""
        process = self._running.get(name)
        if process is None or name in self._told:
            return
        await asyncio.sleep(delay)
        self._killed.add(name)
        process.signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        self._journal(f"{name} killed")

    def some(self, rng: random.Random, number: int) -> list[str]:
        """Names of running workers, at most `number`."""
        names = sorted(self._running.keys() - self._told)
        return rng.sample(names, min(number, len(names)))

    async def roll(self) -> None:
        """Replace each worker by a new one."""
        for name in sorted(self._running.keys() - self._told):
            await self._ready(name)
            await self._ready(self.join())
            await self.stop(name)

    async def stop(self, name: str) -> None:
        """SIGTERM, after which it has to end with status 0."""
        process = self._running.get(name)
        if process is None or process.returncode is not None:
            return
        self._told.add(name)
        process.signal(signal.SIGTERM)
        try:
            status = await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        if status != 0 and name not in self._killed:  # a kill may have been under way
            self.unclean.append(f"{name}: {'still ran' if status is None else f'status {status}'} after SIGTERM")
            process.signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        self._journal(f"{name} stopped: {status}")
        self._running.pop(name, None)

    async def all_ready(self) -> None:
        """Return when each running worker reads its topic, or the time for that has passed."""
        await asyncio.gather(*(self._ready(name) for name in list(self._running)))

    async def any_ready(self) -> None:
        """Return when the first worker reads its topic, or the time for that has passed."""
        tasks = [asyncio.create_task(self._ready(name)) for name in self._running]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def stop_all(self) -> None:
        """SIGTERM to all; nobody is started anew."""
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
        self._bury()
        await asyncio.gather(*(self.stop(name) for name in list(self._running)))

    def kill_all(self) -> None:
        """For the end of a run that failed."""
        if self._supervising is not None:
            self._supervising.cancel()
        for process in self._running.values():
            process.signal(signal.SIGKILL)
            process.wait()

    async def _ready(self, name: str) -> None:
        process = self._running.get(name)
        deadline = asyncio.get_running_loop().time() + _READY_SECONDS
        while process is not None and process.returncode is None and asyncio.get_running_loop().time() < deadline:
            if "ready: " in process.log.read_text(errors="replace"):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            for _ in range(self._bury()):
                asyncio.get_running_loop().call_later(_BACK_SECONDS, self._rise)

    def _rise(self) -> None:
        if self._supervising is not None and not self._supervising.done():
            self.join()

    def _bury(self) -> int:
        """Forget workers that ended without having been told to; how many."""
        ended = {n: p for n, p in self._running.items() if p.returncode is not None and n not in self._told}
        for name, process in ended.items():
            del self._running[name]
            if name not in self._killed:
                last = process.log_tail().splitlines()[-1:]
                self.exits.append(f"{name}: status {process.returncode}: {''.join(last)[:300]}")
                self._journal(f"{name} ended by itself: {process.returncode}")
        return len(ended)
