"""The demo from start to end."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from deploy.embedded.process import ChildProcess, ProcessFailed
from sinks import clickhouse, lineage, migrate
from streams import topics
from streams.demo import alone, servers
from streams.demo.account import Account, by_screen
from streams.demo.calls import Calls
from streams.demo.report import Report
from streams.demo.screen import Screen
from streams.demo.traffic import Item
from streams.pipeline import Pipeline
from streams.produce import Producer
from streams.settings import Settings
from streams.tail import consumer

# The producer waits while so many events are without a verdict, so that latency is not mostly a queue of our making.
_AHEAD = 24
_STALLED_SECONDS = 180.0
_POLL_SECONDS = 0.25
_QUIET_MS = 1500
_COUNTED = """
SELECT count(), uniqExact(pipeline, stage, source_row_id) FROM verdicts WHERE pipeline IN {names:Array(String)}
"""


def run(
    console: Console,
    items: Sequence[Item],
    calls: Calls | None,
    pipelines: Sequence[Pipeline],
    pipelines_path: Path,
    data: Path,
) -> Report:
    """Start everything, publish `items` and calls, wait for what comes of them, stop everything.

    pipelines: of the items. data: folder for the store and the logs. Raises ProcessFailed, KafkaError,
    StoreUnavailable; KeyboardInterrupt also on SIGTERM. Every child process has ended when it returns or raises.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    servers.forget_surroundings()
    account = Account(pipelines)
    started = time.monotonic()
    with console.status("starting broker, store and engine"):
        embedded = contextlib.ExitStack()
        found = embedded.enter_context(servers.running(data))
    with embedded:
        with console.status("creating topics and tables"):
            migrate.migrate(found.settings.store)
            wanted = topics.topics_of([*pipelines, *([calls.pipeline] if calls else [])])
            asyncio.run(topics.create(found.settings, wanted, servers.PARTITIONS, 1))
        worker_stack = contextlib.ExitStack()
        with console.status("starting the worker: it measures the model's bias first"):
            worker = worker_stack.enter_context(servers.worker(found.settings, pipelines_path, data))
        with worker_stack:
            asyncio.run(_traffic(console, found.settings, account, calls, items, worker))
        asyncio.run(_read_the_rest(found.settings, account, calls))
        asyncio.run(alone.ask(found.settings, account, items, data))
        return _report(found, account, calls, time.monotonic() - started)


async def _traffic(
    console: Console,
    settings: Settings,
    account: Account,
    calls: Calls | None,
    items: Sequence[Item],
    worker: ChildProcess,
) -> None:
    """Publish, read verdicts and show progress at the same time, until every event is accounted for."""
    with Screen(console, account, calls, len(items)) as screen:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(_read(settings, account, calls))
            publishing = group.create_task(_publish(settings, account, calls, items))
            await _watch(settings, account, calls, screen, worker, publishing)
            reading.cancel()
            publishing.cancel()


async def _publish(settings: Settings, account: Account, calls: Calls | None, items: Iterable[Item]) -> None:
    """The items, then the calls: a small engine has room for the beginnings of few prompts at once."""
    async with Producer(settings, "/weir/demo") as producer:
        for item in items:
            await _until_fewer(account, _AHEAD)
            account.publish(item, time.time())
            await producer.publish(item.topic, item.row)
        if calls is not None:
            await _until_fewer(account, 1)
            await _publish_calls(producer, calls)


async def _until_fewer(account: Account, events: int) -> None:
    """Return when fewer events are without a verdict."""
    while account.outstanding >= events:  # noqa: ASYNC110  a look four times a second is all it takes
        await asyncio.sleep(_POLL_SECONDS)


async def _publish_calls(producer: Producer, calls: Calls) -> None:
    """Documents first, then the turns of all calls as they come."""
    assert calls.pipeline.documents is not None
    for document in calls.documents:
        await producer.publish(calls.pipeline.documents.topic, document, key=document["id"])
    for turn in calls.messages(random.Random(1)):  # noqa: S311  an order, no secret
        await producer.publish(calls.pipeline.source, turn)


async def _read(settings: Settings, account: Account, calls: Calls | None) -> None:
    async with consumer(settings, *_results(account.pipelines, calls), from_start=True) as messages:
        async for message in messages:
            _receive(message, account, calls)


def _receive(message: Any, account: Account, calls: Calls | None) -> None:
    if calls is not None and message.topic in calls.topics:
        calls.receive(message)
    else:
        account.receive(message)


async def _watch(
    settings: Settings,
    account: Account,
    calls: Calls | None,
    screen: Screen,
    worker: ChildProcess,
    publishing: "asyncio.Task[None]",
) -> None:
    """Return when every event is accounted for, or when nothing has come for long."""
    last, since = -1, time.monotonic()
    async with aiohttp.ClientSession() as session:
        while not publishing.done() or account.outstanding or (calls is not None and calls.lost):
            if worker.returncode is not None:
                raise ProcessFailed(f"the worker ended with status {worker.returncode}:\n{worker.log_tail()}")
            now = len(account.verdicts) + len(account.dead) + (len(calls.copies) if calls is not None else 0)
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > _STALLED_SECONDS:
                return
            screen.update(await _in_flight(session, settings))
            await asyncio.sleep(_POLL_SECONDS)


async def _in_flight(session: aiohttp.ClientSession, settings: Settings) -> int:
    """Rows in flight, from the worker's own metrics."""
    try:
        async with session.get(f"http://127.0.0.1:{settings.web_port}/metrics") as response:
            text = await response.text()
    except (aiohttp.ClientError, OSError):
        return 0
    families = text_string_to_metric_families(text)
    return sum(int(s.value) for f in families if f.name == "weir_rows_in_flight" for s in f.samples)


async def _read_the_rest(settings: Settings, account: Account, calls: Calls | None) -> None:
    """Read all result topics once more from their start, after the worker has stopped: now nothing more can come."""
    account.verdicts.clear()
    account.copies.clear()
    account.dead.clear()
    account.latencies_ms.clear()
    if calls is not None:
        calls.forget()
    async with consumer(settings, *_results(account.pipelines, calls), from_start=True) as messages:
        while batch := await messages.getmany(timeout_ms=_QUIET_MS):
            for records in batch.values():
                for message in records:
                    _receive(message, account, calls)


def _results(pipelines: Iterable[Pipeline], calls: Calls | None) -> list[str]:
    """Topics with verdicts, and the dead-letter topics."""
    found = calls.topics if calls is not None else []
    for pipeline in pipelines:
        for stage in pipeline.stages:
            found += [stage.writes, topics.dead_letters(pipeline.reads(stage))]
    return list(dict.fromkeys(found))


def _report(found: servers.Servers, account: Account, calls: Calls | None, seconds: float) -> Report:
    client = clickhouse.connect(found.settings.store)
    names = {"names": [pipeline.name for pipeline in account.pipelines]}
    counted = client.query(_COUNTED, parameters=names).result_rows
    rows, events = map(int, counted[0])
    wanted = [*_examples(account), *(_finding(calls) if calls is not None else [])]
    examples = [node for row_id in wanted if (node := lineage.ancestors(client, UUID(row_id)))]
    client.close()
    return Report(account, calls, rows, rows - events, seconds, found.names, examples)


def _finding(calls: Calls) -> list[str]:
    """Row id of the surest finding that a person should see."""
    seen = sorted(calls.escalations.values(), key=lambda v: (v["decision"] != "escalate", -float(v["confidence"])))
    return [verdict["row_id"] for verdict in seen[:1]]


def _examples(account: Account) -> list[str]:
    """Row ids of two verdicts that differ: the surest that the screen flags, and that the model allows."""
    verdicts = sorted(account.verdicts.values(), key=lambda verdict: -float(verdict["confidence"]))
    first = account.pipelines[0].name
    wishes: tuple[Callable[[dict[str, Any]], bool], ...] = (
        lambda v: by_screen(v) and v["decision"] != "allow",
        lambda v: not by_screen(v) and v["decision"] == "allow" and len(v["parents"]) > 1,
        lambda v: v["pipeline"] != first,
        lambda v: True,
        lambda v: True,
        lambda v: True,
    )
    chosen: list[str] = []
    for wish in wishes:
        chosen += [v["row_id"] for v in verdicts if wish(v) and v["row_id"] not in chosen][:1]
    return chosen[:2]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
