"""Turns become calls: on a real broker and a real store, over workers that come and go."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from faust.types import TP

from sinks.calls import CallKey, Calls
from sinks.clickhouse import StoreSettings, connect
from streams import assemble
from streams.assemble import AssembleAgent
from streams.decode import decode
from streams.identity import uuid_text
from streams.kafka import MAX_MESSAGE_BYTES
from streams.pipeline import Pipeline
from streams.records import DOCUMENTS, TextMessage
from streams.settings import Settings
from tests.streams.agents import Delivery, Running, acked, named, share

GetMessage = Callable[..., Any]
Read = Callable[..., Awaitable[list[Any]]]
Until = Callable[..., Awaitable[Any]]

BEGAN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Assembling(Running):
    """A stage at work. `partition` 3 is its."""

    def __init__(self, agent: AssembleAgent, shared: Any, message: GetMessage, calls: Calls, writes: str) -> None:
        super().__init__(agent, shared, message)
        self.calls = calls
        self.writes = writes
        self.time = Time()

    def turn(self, number: int, text: str = "", call: str = "c-1", **fields: Any) -> Delivery:
        """Deliver a turn."""
        place = {name: fields.pop(name) for name in ("key", "offset", "partition") if name in fields}
        body = {
            "id": f"{call}/{number}/{text[:9]}",
            "text": text or f"words {number}",
            "time": (BEGAN + timedelta(seconds=number)).isoformat(),
            "thread": call,
            "turn": number,
            "author": "agent" if number % 2 else "customer",
            "lang": "en",
        }
        given = {"key": call.encode(), "partition": 3, "headers": [("ce_source", b"/phones")]} | place
        return self.put(body | fields, **given)

    def is_open(self, call: str = "c-1", tenant: str = "") -> bool:
        return CallKey(self.agent.reads, 3, tenant, call) in self.agent._held  # type: ignore[attr-defined]

    def silence(self) -> None:
        """Let as much time pass as closes a call."""
        self.time.seconds += 61


Start = Callable[..., Awaitable[Assembling]]


@pytest.fixture
async def start(
    settings: Settings,
    store: StoreSettings,
    message: GetMessage,
    new_topic: Callable[..., Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Start]:
    """`await start()`: an agent at work; before: with the topics of another one, as after a restart."""
    monkeypatch.setattr(assemble, "_SWEEP_SECONDS", 0.01)

    async def begin(
        before: Assembling | None = None, first: int = 0, mine: tuple[int, ...] = (3,), rows: int = 100
    ) -> Assembling:
        stage = {
            "name": "assemble",
            "writes": before.writes if before else await new_topic(),
            "assemble": {"silence": "60s", "first": first},
        }
        source = before.agent.reads if before else await new_topic()
        made = {"name": "review", "version": "1", "source": source, "sla": "3h", "stages": [stage]}
        pipeline = Pipeline.model_validate(made)
        shared = await share(stack, settings, store, pipeline, rows)
        calls = Calls(store)
        calls.start()
        stack.push_async_callback(calls.close)
        time = Time()
        agent = AssembleAgent(pipeline, pipeline.stages[0], calls, shared.services, time)
        agent.assigned({TP(source, partition) for partition in mine})
        running = Assembling(agent, shared, message, calls, stage["writes"])
        running.time = time
        stack.push_async_callback(running.close)
        return running

    async with AsyncExitStack() as stack:
        yield begin


def spoken(transcript: Any) -> list[tuple[int, str]]:
    return [(turn["turn"], turn["text"]) for turn in json.loads(transcript.value)["turns"]]


def row_id(transcript: Any) -> str:
    """As the stages after it see it."""
    transcript.timestamp /= 1000  # as Faust has it
    return uuid_text(decode(transcript).row_id)


def rows(store: StoreSettings, stage: Assembling, what: str, table: str = "calls_raw FINAL") -> list[Any]:
    client = connect(store)
    query = f"SELECT {what} FROM {table} WHERE topic = {{topic:String}} ORDER BY ALL"
    found = client.query(query, parameters={"topic": stage.agent.reads}).result_rows
    client.close()
    return list(found)


async def test_turns_become_a_call(start: Start, read: Read, store: StoreSettings, until: Until) -> None:
    stage = await start()
    await acked(stage.turn(2, final=True, documents=["page-2"]), stage.turn(0, tenant=""), stage.turn(1))
    (found,) = await read(stage.writes, 1)
    body = json.loads(found.value)
    turns = body.pop("turns")
    assert found.key == b"c-1"
    assert [(turn["turn"], turn["speaker"], turn["text"]) for turn in turns] == [
        (0, "customer", "words 0"),
        (1, "agent", "words 1"),
        (2, "customer", "words 2"),
    ]
    assert body == {
        "id": body["id"],
        "time": "2026-03-04T05:06:09Z",
        "thread": "c-1",
        "lang": "en",
        "documents": ["page-2"],
    }
    told = named(found.headers)
    assert (told["ce_id"], told["ce_source"], told["ce_subject"]) == (body["id"], "/weir/review/assemble", "c-1")
    assert told["ce_type"] == "weir.message.v1"
    row = row_id(found)
    await until(lambda: not stage.is_open())
    (closed,) = rows(store, stage, "call, messages, turns, missing, closed_by, started, ended, row_id")
    assert closed[:5] == ("c-1", 3, 3, 0, "final")
    assert (closed[6] - closed[5]).total_seconds() == 2
    assert uuid_text(closed[7]) == row
    client = connect(store)
    parents = client.query(f"SELECT toString(parent_uuid), kind FROM lineage_edges WHERE child_uuid = '{row}'")
    client.close()
    assert set(parents.result_rows) == {(turn["row_id"], "input") for turn in turns}
    assert stage.count("weir_calls_closed_total", closed_by="final") == 1


async def test_orders_and_repetitions_give_one_transcript(start: Start, read: Read, until: Until) -> None:
    """Interleaved over calls; whatever comes twice is counted and changes nothing."""
    order = random.Random(5)
    found = []
    for _ in range(2):
        stage = await start()
        given = [(call, number) for call in ("c-1", "c-2") for number in range(6)]
        order.shuffle(given)
        for call, number in [*given[:6], *given[:3], *given[6:], *given]:
            await acked(stage.turn(number, call=call, final=number == 5))
        found.append({one.key: (row_id(one), spoken(one)) for one in await read(stage.writes, 2)})
        assert stage.count("weir_messages_repeated_total") == 15
        await until(lambda stage=stage: not stage.is_open("c-1") and not stage.is_open("c-2"))
        assert stage.count("weir_calls_closed_total") == 2
    assert found[0] == found[1]
    assert found[0][b"c-1"][1] == [(number, f"words {number}") for number in range(6)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"thread": ""}, "thread: a turn needs the call"),
        ({"turn": None}, "turn: a turn needs its number in the call, from 0 on"),
        ({"turns": [{"text": "a"}]}, "turns: a whole call belongs in the topic"),
        ({"key": b"c-2"}, "key: it must be the thread"),
        ({"key": None}, "key: it must be the thread"),
    ],
    ids=["no call", "no number", "a whole call", "a wrong key", "no key"],
)
async def test_a_turn_that_has_no_place_is_a_dead_letter(start: Start, read: Read, change: Any, says: str) -> None:
    stage = await start()
    await acked(stage.turn(0, **change), stage.turn(1))
    (found,) = await read(stage.dead, 1)
    told = named(found.headers)
    assert told["weir_dlq_reason"] == "wrong_field"
    assert told["weir_dlq_detail"].startswith(says)
    assert stage.count("weir_dead_letters_total") == 1


async def test_calls_may_count_from_one(start: Start, read: Read) -> None:
    stage = await start(first=1)
    await acked(stage.turn(0), stage.turn(2, final=True), stage.turn(1))
    assert [spoken(one) for one in await read(stage.writes, 1)] == [[(1, "words 1"), (2, "words 2")]]
    assert "from 1 on" in named((await read(stage.dead, 1))[0].headers)["weir_dlq_detail"]


async def test_a_call_that_does_not_end_is_closed_after_a_silence(
    start: Start, read: Read, store: StoreSettings, until: Until, settled: Callable[[], Awaitable[None]]
) -> None:
    stage = await start()
    await acked(stage.turn(0, call="c-3"))
    await acked(stage.turn(0), stage.turn(3, final=True))
    stage.time.seconds += 59
    await acked(stage.turn(1))
    await acked(stage.turn(0, call="c-2"), stage.turn(1, call="c-3"))
    stage.time.seconds += 30
    await acked(stage.turn(2, call="c-3"), stage.turn(1, call="c-2"))
    stage.time.seconds += 29  # since the last turn that is too little
    await settled()
    assert stage.count("weir_calls_open") == 3
    assert stage.count("weir_calls_closed_total") == 0
    stage.time.seconds += 2
    (found,) = await read(stage.writes, 1)
    assert [number for number, _ in spoken(found)] == [0, 1, 3]
    await until(lambda: not stage.is_open())
    assert stage.is_open("c-2")
    assert stage.is_open("c-3")
    assert rows(store, stage, "turns, missing, closed_by") == [(3, 1, "silence")]
    assert stage.count("weir_calls_closed_total", closed_by="silence") == 1


async def test_a_late_turn_makes_a_correction(start: Start, read: Read, store: StoreSettings, until: Until) -> None:
    stage = await start()
    await acked(stage.turn(0), stage.turn(2, final=True))
    stage.silence()
    (first,) = await read(stage.writes, 1)
    await until(lambda: not stage.is_open())
    await acked(stage.turn(1))  # nothing is missing now
    first, second = await read(stage.writes, 2)
    assert [number for number, _ in spoken(second)] == [0, 1, 2]
    assert row_id(first) != row_id(second)
    await until(lambda: not stage.is_open())
    assert rows(store, stage, "messages, missing, closed_by") == [(2, 1, "silence"), (3, 0, "final")]
    assert stage.count("weir_calls_closed_total", closed_by="correction") == 1
    await acked(stage.turn(1))  # once more says nothing
    assert not stage.is_open()
    await acked(stage.turn(5))  # after the final one: who knows what else is coming
    assert stage.is_open()
    stage.silence()
    *_, third = await read(stage.writes, 3)
    assert [number for number, _ in spoken(third)] == [0, 1, 2, 5]


async def test_of_two_messages_for_one_turn_the_last_that_says_more_counts(
    start: Start, read: Read, store: StoreSettings, until: Until
) -> None:
    stage = await start()
    for number, text in ((1, "fifty"), (1, "fifteen"), (1, "fifty"), (0, "how far")):
        await acked(stage.turn(number, text))
    await acked(stage.turn(2, final=True))
    (found,) = await read(stage.writes, 1)
    assert spoken(found) == [(0, "how far"), (1, "fifteen"), (2, "words 2")]
    await until(lambda: not stage.is_open())
    await acked(stage.turn(1, "sixteen"))
    *_, corrected = await read(stage.writes, 2)
    assert spoken(corrected)[1] == (1, "sixteen")
    await until(lambda: not stage.is_open())
    assert rows(store, stage, "messages, turns") == [(4, 3), (5, 3)]


async def test_calls_of_two_tenants_with_one_name_are_two(start: Start, read: Read, until: Until) -> None:
    stage = await start()
    for tenant in ("acme", "other"):
        await acked(stage.turn(0, f"of {tenant}", tenant=tenant))
    await acked(stage.turn(1, tenant="acme", final=True), stage.turn(1, tenant="other", final=True))
    found = await read(stage.writes, 2)
    assert {json.loads(one.value)["tenant"]: spoken(one)[0][1] for one in found} == {
        "acme": "of acme",
        "other": "of other",
    }
    assert len({row_id(one) for one in found}) == 2
    await until(lambda: not stage.is_open(tenant="acme") and not stage.is_open(tenant="other"))


async def test_another_worker_goes_on_with_open_calls(start: Start, read: Read, until: Until) -> None:
    lost = await start()
    await acked(lost.turn(0), lost.turn(0, call="c-2"), lost.turn(1, call="c-2"), lost.turn(0, call="c-3", partition=4))
    await lost.close()
    stage = await start(before=lost)
    await until(lambda: stage.is_open("c-1") and stage.is_open("c-2"))
    assert not stage.is_open("c-3")
    await acked(stage.turn(1, final=True, offset=9))
    (found,) = await read(stage.writes, 1)
    assert spoken(found) == [(0, "words 0"), (1, "words 1")]
    stage.silence()  # c-2 as well
    *_, silent = await read(stage.writes, 2)
    assert (silent.key, spoken(silent)) == (b"c-2", [(0, "words 0"), (1, "words 1")])


async def test_another_worker_publishes_what_was_only_stored(
    start: Start, read: Read, until: Until, store: StoreSettings
) -> None:
    """The worker was lost between the last acknowledgement of the store and Kafka's."""
    lost = await start(mine=())  # it closes nothing
    await acked(lost.turn(0), lost.turn(1, final=True))
    await lost.close()
    stage = await start(before=lost)
    (found,) = await read(stage.writes, 1)
    assert spoken(found) == [(0, "words 0"), (1, "words 1")]
    await until(lambda: not stage.is_open())
    assert rows(store, stage, "messages, closed_by") == [(2, "final")]
    again = await start(before=stage)  # now there is nothing to go on with
    assert await again.calls.open(again.agent.reads, 3, BEGAN) == []
    await acked(again.turn(0), again.turn(1, final=True))
    assert again.count("weir_messages_repeated_total") == 2


async def test_a_worker_closes_only_calls_of_its_partitions(
    start: Start, settled: Callable[[], Awaitable[None]]
) -> None:
    stage = await start(mine=(4,))
    await acked(stage.turn(0), stage.turn(1, final=True))
    stage.silence()
    await acked(stage.turn(0, call="c-2", partition=4))
    await settled()
    assert stage.count("weir_calls_closed_total") == 0


async def test_a_partition_that_comes_back_is_read_anew(start: Start, read: Read, until: Until) -> None:
    """Meanwhile another worker had it."""
    stage = await start()
    await acked(stage.turn(0))
    other = await start(before=stage)
    await acked(other.turn(1))
    await other.close()
    stage.agent.assigned({TP(stage.agent.reads, 3)})
    await until(stage.is_open)
    await acked(stage.turn(2, final=True))
    (found,) = await read(stage.writes, 1)
    assert [number for number, _ in spoken(found)] == [0, 1, 2]


async def test_ten_thousand_turns_are_one_message(start: Start, read: Read, until: Until, store: StoreSettings) -> None:
    """Of six hours."""
    stage = await start(rows=4096)
    count = 10_000
    numbers = list(range(count))
    random.Random(5).shuffle(numbers)
    step = timedelta(hours=6) / count
    deliveries = [
        stage.turn(number, final=number == count - 1, time=(BEGAN + number * step).isoformat()) for number in numbers
    ]
    await asyncio.gather(*(one.acked.wait() for one in deliveries))
    (found,) = await read(stage.writes, 1)
    assert [number for number, _ in spoken(found)] == list(range(count))
    assert len(found.value) < MAX_MESSAGE_BYTES
    await until(lambda: not stage.is_open())
    ((messages, missing, seconds),) = rows(store, stage, "messages, missing, dateDiff('second', started, ended)")
    assert (messages, missing) == (count, 0)
    assert 21_590 < seconds <= 21_600


async def test_a_call_that_is_larger_than_a_message_loses_nothing_silently(
    start: Start, read: Read, store: StoreSettings, until: Until
) -> None:
    """Turns that do not fit are dead letters, also if they come all at once, and whatever JSON makes of them."""
    stage = await start()
    quotes = '"' * 1_000_000  # two bytes each
    await acked(*(stage.turn(number, f"{number}{quotes}", final=number == 3) for number in range(4)))
    found = await read(stage.dead, 3)
    assert {named(one.headers)["weir_dlq_reason"] for one in found} == {"call_too_large"}
    stage.silence()
    (transcript,) = await read(stage.writes, 1)
    assert len(spoken(transcript)) == 1
    assert len(transcript.value) < MAX_MESSAGE_BYTES
    await until(lambda: not stage.is_open())
    assert rows(store, stage, "turns, closed_by") == [(1, "silence")]
    assert stage.stopped_by == []


async def test_a_call_that_names_too_many_documents(start: Start, read: Read) -> None:
    stage = await start()
    for number in range(3):
        names = [f"page-{number}-{index}" for index in range(DOCUMENTS // 2)]
        await acked(stage.turn(number, documents=names, final=number == 2))
    (found,) = await read(stage.dead, 1)
    told = named(found.headers)
    assert (told["weir_dlq_reason"], told["weir_dlq_offset"]) == ("call_too_large", "3")
    stage.silence()
    (transcript,) = await read(stage.writes, 1)
    assert len(TextMessage.model_validate_json(transcript.value).documents) == DOCUMENTS
    assert stage.stopped_by == []
