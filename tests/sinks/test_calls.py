"""The calls that are being put together are found again by whoever goes on with them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.calls import CallKey, Calls, StoredTurn
from sinks.clickhouse import KEYS_A_QUERY, StoreSettings
from sinks.rows import TABLES, AnyRow, CallRow, SourceRow, TurnRow

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
BEFORE = NOW - timedelta(days=1)
KEY = CallKey("turns", 3, "acme", "call-1")

Make = Callable[..., Any]


@pytest.fixture
async def calls(settings: StoreSettings) -> AsyncIterator[Calls]:
    opened = Calls(settings)
    opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def put(tables: Client) -> Callable[..., None]:
    def insert(*rows: AnyRow) -> None:
        for kind, table in TABLES.items():
            if chosen := [row for row in rows if isinstance(row, kind)]:
                tables.insert(table, chosen, column_names=list(kind._fields))

    return insert


@pytest.fixture
def said(make: Make) -> Callable[..., list[AnyRow]]:
    """`said(number)`: the rows of a turn."""

    def rows(number: int, text: str = "words", **columns: Any) -> list[AnyRow]:
        row_id = columns.get("row_id", 1000 + number)
        return [
            make(TurnRow, **{"number": number, "row_id": row_id, "final": False, "offset": number} | columns),
            make(SourceRow, row_id=row_id, text=f"{text} {number}", author="agent", lang="en"),
        ]

    return rows


Put = Callable[..., None]
Said = Callable[..., list[AnyRow]]


async def test_a_call_comes_back_with_its_turns_and_their_words(put: Put, said: Said, calls: Calls) -> None:
    put(*said(0), *said(1, final=True, documents=[]))
    found = await calls.find(KEY)
    assert found is not None
    assert found.transcript == 0
    assert sorted(found.turns) == [
        StoredTurn(0, 1000, 0, False, ("page-1",), NOW, "agent", "en", "words 0"),
        StoredTurn(1, 1001, 1, True, (), NOW, "agent", "en", "words 1"),
    ]


async def test_a_call_that_nobody_knows(calls: Calls, put: Put, said: Said) -> None:
    put(*said(0))
    for stranger in (
        KEY._replace(call="call-2"),
        KEY._replace(tenant=""),
        KEY._replace(partition=4),
        KEY._replace(topic="other"),
    ):
        assert await calls.find(stranger) is None


async def test_many_are_found_at_once(put: Put, said: Said, calls: Calls) -> None:
    keys = [KEY._replace(call=f"call-{n}", partition=n % 3, tenant=f"t-{n % 2}") for n in range(30)]
    put(*(row for n, key in enumerate(keys) for row in said(n, **key._asdict())))
    found = await asyncio.gather(*(calls.find(key) for key in keys))
    assert [[turn.number for turn in one.turns] for one in found if one is not None] == [[n] for n in range(30)]


async def test_a_turn_that_was_written_twice_stands_once(
    put: Put, said: Said, make: Make, calls: Calls, tables: Client
) -> None:
    tables.command("SYSTEM STOP MERGES")
    put(*said(0))
    put(*said(0))
    found = await calls.find(KEY)
    assert found is not None
    assert len(found.turns) == 1
    assert await calls.open("turns", 3, BEFORE) == [KEY]
    put(make(CallRow, messages=1))
    assert await calls.open("turns", 3, BEFORE) == []
    tables.command("SYSTEM START MERGES")


async def test_more_turns_than_a_query_takes(put: Put, said: Said, calls: Calls) -> None:
    count = KEYS_A_QUERY + 1
    put(*(row for number in range(count) for row in said(number)))
    found = await calls.find(KEY)
    assert found is not None
    assert sorted(turn.text for turn in found.turns) == sorted(f"words {number}" for number in range(count))


async def test_the_last_transcript_is_the_one_of_most_messages(put: Put, said: Said, make: Make, calls: Calls) -> None:
    put(
        *said(0),
        make(CallRow, messages=2, row_id=72, closed_at=NOW),
        make(CallRow, messages=1, row_id=71, closed_at=NOW + timedelta(hours=1)),
        make(CallRow, messages=9, row_id=79, call="call-2"),
    )
    found = await calls.find(KEY)
    assert found is not None
    assert found.transcript == 72


async def test_a_call_is_open_while_a_message_is_in_no_transcript(
    put: Put, said: Said, make: Make, calls: Calls
) -> None:
    put(*said(0), *said(1), *said(0, row_id=7))  # two messages for one turn
    put(*said(0, call="other"), make(CallRow, call="other", messages=1))
    put(*said(0, topic="elsewhere"), *said(0, partition=4))
    for messages, expected in ((0, [KEY]), (2, [KEY]), (3, [])):
        if messages:
            put(make(CallRow, messages=messages))
        assert await calls.open("turns", 3, BEFORE) == expected
    put(*said(2))
    assert await calls.open("turns", 3, BEFORE) == [KEY]


async def test_calls_of_two_tenants_are_two_calls(put: Put, said: Said, make: Make, calls: Calls) -> None:
    put(*said(0), *said(5, tenant="other"), make(CallRow, messages=1, row_id=70))
    assert await calls.open("turns", 3, BEFORE) == [KEY._replace(tenant="other")]
    other = await calls.find(KEY._replace(tenant="other"))
    assert other is not None
    assert ([turn.number for turn in other.turns], other.transcript) == ([5], 0)


async def test_calls_without_a_late_turn_are_left_alone(put: Put, said: Said, calls: Calls) -> None:
    put(*said(0, written_at=NOW - timedelta(days=3)), *said(0, call="old", written_at=NOW - timedelta(days=2)))
    assert await calls.open("turns", 3, BEFORE) == []
    put(*said(1))
    assert await calls.open("turns", 3, BEFORE) == [KEY]


async def test_a_turn_whose_words_are_gone_is_left_out(put: Put, said: Said, calls: Calls) -> None:
    turn, _ = said(0)
    put(turn, *said(1))
    found = await calls.find(KEY)
    assert found is not None
    assert [turn.number for turn in found.turns] == [1]


async def test_the_view_shows_the_last_version_of_a_call(put: Put, make: Make, tables: Client) -> None:
    put(
        make(CallRow, messages=1, row_id=71), make(CallRow, messages=3, row_id=73), make(CallRow, messages=2, row_id=72)
    )
    put(make(CallRow, tenant="other", messages=1, row_id=80))
    assert tables.query("SELECT tenant, row_id FROM calls ORDER BY tenant").result_rows == [("acme", 73), ("other", 80)]
