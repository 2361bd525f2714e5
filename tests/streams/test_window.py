"""How many rows are worked on at once, which of them, and in which order they leave."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from streams.window import Repeats, Turn, Turns, Window

Settled = Callable[[], Awaitable[None]]


async def test_a_window_has_so_many_places(settled: Settled) -> None:
    window = Window(2)
    entering = [asyncio.create_task(window.enter(1)) for _ in range(4)]
    await settled()
    assert [task.done() for task in entering] == [True, True, False, False]
    assert window.rows == 2
    window.leave(1)
    await settled()
    assert [task.done() for task in entering] == [True, True, True, False]
    window.leave(1)
    await asyncio.gather(*entering)
    assert window.rows == 2


async def test_a_window_tells_when_it_is_empty(settled: Settled) -> None:
    window = Window(2)
    await window.empty()
    await window.enter(1)
    await window.enter(1)
    empty = asyncio.create_task(window.empty())
    await settled()
    window.leave(1)
    await settled()
    assert not empty.done()
    window.leave(1)
    await empty
    assert window.rows == 0


async def test_who_gave_up_waiting_has_no_place(settled: Settled) -> None:
    window = Window(1)
    await window.enter(1)
    gone = asyncio.create_task(window.enter(1))
    await settled()
    gone.cancel()
    await settled()
    window.leave(1)
    assert window.rows == 0
    await window.enter(1)


async def test_a_window_has_so_many_bytes(settled: Settled) -> None:
    window = Window(10, max_bytes=100)
    await window.enter(90)
    waiting = asyncio.create_task(window.enter(20))
    await settled()
    assert not waiting.done()
    window.leave(90)
    await waiting
    window.leave(20)
    await window.enter(1000)  # alone, it fits whatever it is
    late = asyncio.create_task(window.enter(1))
    await settled()
    assert not late.done()
    window.leave(1000)
    await late


async def test_the_second_of_the_same_waits_and_is_skipped(settled: Settled) -> None:
    repeats = Repeats()
    assert await repeats.first("a")
    second, third = (asyncio.create_task(repeats.first("a")) for _ in range(2))
    await settled()
    assert not second.done()
    repeats.finish("a")
    assert await asyncio.gather(second, third) == [False, False]
    assert not await repeats.first("a")


async def test_others_do_not_wait() -> None:
    repeats = Repeats()
    assert await repeats.first("a")
    assert await repeats.first("b")
    assert await repeats.first(("a",))


async def test_those_who_wait_share_what_becomes_of_it(settled: Settled) -> None:
    repeats = Repeats()
    assert await repeats.first("a")
    waiting = [asyncio.create_task(repeats.first("a")) for _ in range(3)]
    await settled()
    assert not any(task.done() for task in waiting)
    repeats.give_up("a")
    assert await asyncio.gather(*waiting) == [False] * 3


async def test_what_was_given_up_is_tried_anew_when_it_comes_again() -> None:
    repeats = Repeats()
    assert await repeats.first("a")
    repeats.give_up("a")
    assert await repeats.first("a")
    repeats.finish("a")
    assert not await repeats.first("a")


async def test_who_gave_up_waiting_does_not_disturb_others(settled: Settled) -> None:
    repeats = Repeats()
    assert await repeats.first("a")
    gone, staying = (asyncio.create_task(repeats.first("a")) for _ in range(2))
    await settled()
    gone.cancel()
    await settled()
    assert not staying.done()
    repeats.finish("a")
    assert not await staying


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.window._REMEMBERED", 2)
    repeats = Repeats()
    for name in "abc":
        assert await repeats.first(name)
        repeats.finish(name)
    assert [await repeats.first(name) for name in "bca"] == [False, False, True]


class Rows:
    """Rows that take their turn when they are made and note when they pass."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.passed: list[str] = []

    def start(self, name: str, key: bytes | None, ready: asyncio.Event | None = None) -> "asyncio.Task[None]":
        return asyncio.create_task(self._row(name, self.turns.take(key), ready))

    async def _row(self, name: str, turn: Turn, ready: asyncio.Event | None) -> None:
        if ready is not None:
            await ready.wait()
        if name != "given up":
            await turn.come()
            self.passed.append(name)
        turn.end()


async def test_rows_of_a_key_pass_in_order(settled: Settled) -> None:
    rows, ready = Rows(), asyncio.Event()
    tasks = [rows.start("first", b"k", ready), rows.start("second", b"k"), rows.start("third", b"k")]
    await settled()
    assert rows.passed == []
    ready.set()
    await asyncio.gather(*tasks)
    assert rows.passed == ["first", "second", "third"]


@pytest.mark.parametrize("key", [b"other", None])
async def test_rows_of_other_keys_and_of_none_are_not_delayed(key: bytes | None) -> None:
    rows, ready = Rows(), asyncio.Event()
    slow = [rows.start("slow", b"k", ready), rows.start("slow too", None, ready)]
    await rows.start("quick", key)
    assert rows.passed == ["quick"]
    ready.set()
    await asyncio.gather(*slow)


async def test_an_empty_key_is_a_key(settled: Settled) -> None:
    rows, ready = Rows(), asyncio.Event()
    tasks = [rows.start("first", b"", ready), rows.start("second", b"")]
    await settled()
    ready.set()
    await asyncio.gather(*tasks)
    assert rows.passed == ["first", "second"]


async def test_a_row_that_was_given_up_lets_the_next_pass() -> None:
    rows = Rows()
    await asyncio.gather(rows.start("given up", b"k"), rows.start("next", b"k"))
    assert rows.passed == ["next"]


async def test_a_row_that_is_not_settled_holds_the_next(settled: Settled) -> None:
    """As when the worker is told to stop: what comes later must not overtake what comes again."""
    rows = Rows()
    gone, following = rows.start("gone", b"k", asyncio.Event()), rows.start("next", b"k")
    await settled()
    gone.cancel()
    await settled()
    assert rows.passed == []
    following.cancel()


async def test_a_row_that_ends_early_does_not_let_the_next_overtake(settled: Settled) -> None:
    rows, ready = Rows(), asyncio.Event()
    tasks = [rows.start("first", b"k", ready), rows.start("given up", b"k"), rows.start("third", b"k")]
    await settled()
    assert rows.passed == []
    ready.set()
    await asyncio.gather(*tasks)
    assert rows.passed == ["first", "third"]


async def test_keys_without_rows_are_forgotten() -> None:
    rows = Rows()
    await asyncio.gather(*(rows.start(f"{number}", b"%d" % (number % 3)) for number in range(9)))
    assert not rows.turns._last
    turn = rows.turns.take(b"k")
    turn.end()
    turn.end()
    assert not rows.turns._last
