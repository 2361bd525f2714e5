"""Look-ups by key: few queries for many callers, an answer or an error for each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from threading import Event
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.embedded.process import free_port
from sinks.clickhouse import KEYS_A_QUERY, StoreSettings
from sinks.lookup import Lookup
from sinks.session import Session

Find = Callable[[Collection[int], Client], Mapping[int, int]]
Start = Callable[..., Lookup[int, int]]

_WRONG = 10**9


class Squares:
    """Squares of even numbers, by a query that waits until `go` is set."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.begun = Event()
        self.go = Event()

    def __call__(self, keys: Collection[int], client: Client) -> Mapping[int, int]:
        self.asked.append(sorted(keys))
        self.begun.set()
        assert self.go.wait(15)
        if _WRONG in keys:
            raise LookupError(_WRONG)
        query = "SELECT k, k * k FROM (SELECT arrayJoin({keys:Array(UInt64)}) AS k) WHERE k % 2 = 0"
        return dict(client.query(query, parameters={"keys": self.asked[-1]}).result_rows)


@pytest.fixture
def squares() -> Squares:
    return Squares()


@pytest.fixture
async def start(settings: StoreSettings) -> AsyncIterator[Start]:
    opened: list[tuple[Session, Lookup[int, int]]] = []

    def begin(find: Find, store: StoreSettings = settings) -> Lookup[int, int]:
        session = Session(store, "tests")
        lookup = Lookup(session, find)
        opened.append((session, lookup))
        lookup.start("tests")
        return lookup

    yield begin
    for session, lookup in opened:
        await lookup.close()
        session.close()


async def begun(squares: Squares) -> None:
    assert await asyncio.to_thread(squares.begun.wait, 15)


async def test_what_is_asked_meanwhile_goes_into_the_next_query(start: Start, squares: Squares) -> None:
    lookup = start(squares)
    first = asyncio.create_task(lookup.find(4))
    await begun(squares)
    others = [asyncio.create_task(lookup.find(key)) for key in (2, 3, 2, 6)]
    await asyncio.sleep(0)
    squares.go.set()
    assert await asyncio.gather(first, *others) == [16, 4, None, 4, 36]
    assert squares.asked == [[4], [2, 3, 6]]


async def test_a_query_asks_for_no_more_than_fits(start: Start, squares: Squares) -> None:
    lookup = start(squares)
    squares.go.set()
    many = range(KEYS_A_QUERY + 5)
    found = await asyncio.gather(*(lookup.find(key) for key in many))
    assert found == [None if key % 2 else key * key for key in many]
    assert [len(keys) for keys in squares.asked] == [KEYS_A_QUERY, 5]


async def test_an_error_is_told_and_the_next_are_answered(start: Start, squares: Squares) -> None:
    lookup = start(squares)
    squares.go.set()
    both: list[Any] = await asyncio.gather(lookup.find(_WRONG), lookup.find(2), return_exceptions=True)
    assert [type(error) for error in both] == [LookupError, LookupError]
    assert await lookup.find(2) == 4


async def test_a_caller_that_has_gone_is_no_obstacle(start: Start, squares: Squares) -> None:
    lookup = start(squares)
    gone = asyncio.create_task(lookup.find(2))
    await begun(squares)
    gone.cancel()
    squares.go.set()
    assert await lookup.find(4) == 16


async def test_closing_leaves_callers_unanswered(start: Start, squares: Squares) -> None:
    lookup = start(squares)
    callers = [asyncio.create_task(lookup.find(2))]
    await begun(squares)
    callers.append(asyncio.create_task(lookup.find(4)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(lookup.close())
    found = await asyncio.gather(*callers, return_exceptions=True)
    squares.go.set()
    await closing
    assert [type(error) for error in found] == [asyncio.CancelledError, asyncio.CancelledError]


async def test_callers_wait_for_a_store_that_is_away(
    start: Start, squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    squares.go.set()
    lookup = start(squares, StoreSettings(f"http://127.0.0.1:{free_port()}"))
    asked = asyncio.create_task(lookup.find(2))
    while "trying again" not in caplog.text:
        done, _ = await asyncio.wait([asked], timeout=0.05)
        assert not done
