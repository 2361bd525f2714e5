"""Several workers of one group: they come, go and die, and every event has one verdict, in the order of its key.

Each test has a group of its own: on Tansu a group whose last members leave in the middle of a rebalance may never take
members in again.
"""

import asyncio
import signal
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import orjson
import pytest
from e2e_service import SECONDS, Message, Reader, Service, text, verdicts, wait_for

from deploy.embedded.engine import LlamaEngine

pytestmark = pytest.mark.slow

KEYS = 6


def events(name: str, count: int) -> list[Message]:
    """Events of several keys, interleaved; each text differs, so that none is spared by reuse."""
    return [
        text(f"{name} message number {number}", key=f"{name}-{number % KEYS}", id=f"{name}-{number:03}")
        for number in range(count)
    ]


def first_verdicts(records: Sequence[Any], name: str) -> dict[bytes, list[str]]:
    """For each key the ids of its events in the order of their first verdicts; fails if an event has two row ids."""
    found: dict[bytes, list[str]] = defaultdict(list)
    rows: dict[str, set[str]] = defaultdict(set)
    for record in records:
        verdict = orjson.loads(record.value)
        event = verdict["source"]["id"]
        if event.startswith(f"{name}-"):
            if not rows[event]:
                found[record.key].append(event)
            rows[event].add(verdict["row_id"])
    assert all(len(ids) == 1 for ids in rows.values())
    return found


async def judged(found: Reader, name: str, count: int) -> None:
    """Wait until so many events have their verdict."""
    await found.until(lambda records: sum(event.startswith(f"{name}-") for event in verdicts(records)) >= count)


def check(records: Sequence[Any], name: str, count: int) -> None:
    found = first_verdicts(records, name)
    assert sum(map(len, found.values())) == count
    for ids in found.values():
        assert ids == sorted(ids)


async def test_workers_join_leave_and_die(service: Service) -> None:
    name, count = "group", 90
    messages = events(name, count)
    async with service.reading("verdicts") as found:
        await service.publish("messages", *messages[:30])
        with ExitStack() as stack:
            first = stack.enter_context(service.one_more(name))
            await judged(found, name, 5)
            second = stack.enter_context(service.one_more(name))
            await service.publish("messages", *messages[30:60])
            await judged(found, name, 35)
            first.signal(signal.SIGKILL)
            stack.enter_context(service.one_more(name))
            await service.publish("messages", *messages[60:])
            await judged(found, name, 65)
            second.signal(signal.SIGTERM)
            assert second.wait(SECONDS) == 0
            await judged(found, name, count)
        check(await found.quiet(), name, count)


async def test_a_rolling_restart_under_load(service: Service) -> None:
    name, count = "rolling", 80
    async with service.reading("verdicts") as found:
        with ExitStack() as stack:
            old = [stack.enter_context(service.one_more(name)) for _ in range(2)]
            publishing = asyncio.create_task(publish_slowly(service, events(name, count)))
            for number, worker in enumerate(old):
                await judged(found, name, 10 * (number + 1))
                worker.signal(signal.SIGTERM)
                stack.enter_context(service.one_more(name))
                assert await asyncio.to_thread(worker.wait, SECONDS) == 0
            await publishing
            await judged(found, name, count)
        check(await found.quiet(), name, count)


async def publish_slowly(service: Service, messages: Sequence[Message]) -> None:
    for number in range(0, len(messages), 4):
        await service.publish("messages", *messages[number : number + 4])


def rows_in_flight(service: Service) -> bool:
    with urllib.request.urlopen(f"{service.web}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return any(line.startswith("weir_rows_in_flight{") and not line.endswith(" 0.0") for line in lines)


async def test_a_second_signal_ends_a_worker_that_waits_for_its_engine(service: Service, engine: LlamaEngine) -> None:
    async with service.reading("verdicts") as found:
        with service.worker(WEIR_DRAIN_SECONDS="100000") as worker:
            await service.publish("messages", text("hurry message number 1", id="hurry-1"))
            await judged(found, "hurry", 1)
            engine.signal(signal.SIGSTOP)
            try:
                await service.publish("messages", text("hurry message number 2", id="hurry-2"))
                await wait_for(lambda: rows_in_flight(service))
                worker.signal(signal.SIGTERM)
                await wait_for(lambda: "rows in flight have 100000 s" in worker.log.read_text())
                worker.signal(signal.SIGTERM)
                await asyncio.to_thread(worker.wait, SECONDS)
            finally:
                engine.signal(signal.SIGCONT)
        with service.worker():
            await judged(found, "hurry", 2)
        check(await found.quiet(), "hurry", 2)
