"""Many runs with faults from seeds: `python tests/chaos/run.py --runs 20 --seed 1 --broker both --about both --jobs 3`.

Exit status 1 if anything was lost, duplicated or out of order, or if a run could not be finished.
"""

import argparse
import asyncio
import ctypes
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle, product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import report
from experiment import PATIENCE_SECONDS, Result, run
from lane import Lane
from rich.console import Console
from schedule import About, Schedule

from deploy.embedded.kafka import default_jars, fetch, unavailable
from streams.demo.servers import forget_surroundings

_PR_SET_PDEATHSIG = 1
_BROKERS = {"tansu": ["tansu"], "apache": ["apache"], "both": ["tansu", "apache"]}

_ABOUT = {"messages": [About.MESSAGES], "calls": [About.CALLS], "both": list(About)}

Task = tuple[int, str, About]


def main() -> int:
    """Read the command line, run, report."""
    options = _options()
    turns = cycle(product(_ABOUT[options.about], _BROKERS[options.broker]))
    tasks = options.seeds or [
        (options.seed + n, broker, about) for n, (about, broker) in zip(range(options.runs), turns, strict=False)
    ]
    if any(broker == "apache" for _, broker, _ in tasks):
        if reason := unavailable(default_jars()):
            print(f"Apache Kafka: {reason}; BROKER=tansu does without", file=sys.stderr)
            return 2
        fetch(default_jars())
    forget_surroundings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(width=max(140, Console().width))
    folder = Path(tempfile.mkdtemp(prefix="weir-chaos-"))
    started = time.monotonic()
    results: list[Result] = []
    report.head(console)
    with _lanes(min(options.jobs, len(tasks)), folder, tasks, options) as finished:
        for result in finished:
            results.append(result)
            report.line(console, len(results), result)
    report.by_fault(console, results)
    if not any(result.folder for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    if failed := [result.name for result in results if result.failed]:
        console.print(f"again: make chaos ARGS='--seeds {','.join(failed)}'", highlight=False)
    console.file.flush()
    print(report.as_json(results, time.monotonic() - started), flush=True)
    return int(len(results) < len(tasks) or any(result.failed for result in results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the others follow")
    parser.add_argument("--seeds", type=_tasks, help="just these, for example 3/tansu,17/apache/calls")
    parser.add_argument("--broker", choices=_BROKERS, default="both", help="both: in turns")
    parser.add_argument("--about", choices=_ABOUT, default="messages", help="both: in turns")
    parser.add_argument("--jobs", type=int, default=3, help="runs at once, each with servers of its own")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runs in which all went well, too")
    parser.add_argument("--patience", type=float, default=PATIENCE_SECONDS, help="seconds without progress")
    return parser.parse_args()


def _tasks(text: str) -> list[Task]:
    tasks = []
    for name in text.split(","):
        seed, broker, about = (*name.split("/"), About.MESSAGES)[:3]
        if broker not in {"tansu", "apache"} or about not in set(About):
            raise argparse.ArgumentTypeError(
                f"{name}: a seed and its broker are needed, as in 3/tansu, 17/apache or 17/apache/calls"
            )
        tasks.append((int(seed), broker, About(about)))
    return list(dict.fromkeys(tasks))  # a run has its folder and its topics by this name


@contextmanager
def _lanes(jobs: int, folder: Path, tasks: Iterable[Task], options: argparse.Namespace) -> Iterator[Iterator[Result]]:
    """Processes that share the tasks; their results as they come."""
    context = multiprocessing.get_context("spawn")  # a fork would copy threads and locks in any state
    todo, done = context.Queue(), context.Queue()
    expected = 0
    for task in tasks:
        todo.put(task)
        expected += 1
    for _ in range(jobs):
        todo.put(None)
    processes = [
        context.Process(target=_lane, args=(folder / f"lane-{number}", folder, todo, done, options, os.getpid()))
        for number in range(jobs)
    ]
    for process in processes:
        process.start()
    try:
        yield _results(done, expected, processes)
    finally:
        for process in processes:
            process.join(0.0 if sys.exc_info()[0] else 60.0)
            process.terminate()
            process.join(30)
            process.kill()


def _results(done: Any, expected: int, processes: list[BaseProcess]) -> Iterator[Result]:
    while expected:
        alive = any(process.is_alive() for process in processes)
        try:
            yield done.get(timeout=1)
        except queue.Empty:
            if not alive:
                return
        else:
            expected -= 1


def _lane(data: Path, folder: Path, todo: Any, done: Any, options: argparse.Namespace, parent: int) -> None:
    """A process of its own: servers, and one run after the other."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its lanes
    logging.disable(logging.CRITICAL)  # our own clients tell of every fault, too
    asyncio.run(_work(data, folder, todo, done, options))


async def _work(data: Path, folder: Path, todo: Any, done: Any, options: argparse.Namespace) -> None:
    while True:
        async with Lane(data) as lane:
            while (task := await asyncio.to_thread(todo.get)) is not None:
                seed, broker, about = task
                logs = folder / f"run-{seed}-{broker}-{about}"
                result = await run(lane, Schedule.of(seed, broker, about), logs, options.patience)
                if result.failed or result.remarkable or options.keep:
                    result.folder = str(logs)
                else:
                    shutil.rmtree(logs)
                done.put(result)
                if result.error:  # in what state it left the servers nobody knows
                    break
        shutil.rmtree(data, ignore_errors=True)
        if task is None:
            return


if __name__ == "__main__":
    sys.exit(main())
