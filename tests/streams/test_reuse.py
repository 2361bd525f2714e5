"""The same text is asked once: while it is being asked, and for a while after."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from inference.engine import Usage
from inference.errors import PromptRejected
from inference.judgement import Call, Judgement
from streams.reuse import Reuse, Reused, key_of

Settled = Callable[[], Awaitable[None]]


def judgement(label: str = "ok") -> Judgement:
    return Judgement("allow", label, {"ok": 1.0}, 1.0, "m-1", "a1", [Call(Usage(30, 1), 0.1, 0.5)], 1, True)


class Model:
    """Answers when told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[Judgement] = asyncio.get_running_loop().create_future()

    async def ask(self) -> Judgement:
        self.asked += 1
        return await asyncio.shield(self.answer)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def model() -> Model:
    made = Model()
    made.answer.set_result(judgement())
    return made


async def test_a_text_is_asked_once_and_paid_for_once(model: Model) -> None:
    reuse = Reuse(60)
    first = await reuse.judge(b"k", 1, model.ask)
    second = await reuse.judge(b"k", 2, model.ask)
    assert model.asked == 1
    assert first == Reused(judgement(), None)
    assert second.row_id == 1
    assert (second.judgement.cost_usd, second.judgement.usage) == (0, Usage())
    assert second.judgement.label == "ok"


async def test_other_texts_are_asked(model: Model) -> None:
    reuse = Reuse(60)
    await reuse.judge(b"k", 1, model.ask)
    assert (await reuse.judge(b"other", 2, model.ask)).row_id is None
    assert model.asked == 2


async def test_those_who_come_while_it_is_asked_wait_for_the_answer(settled: Settled) -> None:
    reuse, model = Reuse(60), Model()
    rows = [asyncio.create_task(reuse.judge(b"k", row, model.ask)) for row in (1, 2, 3)]
    await settled()
    assert model.asked == 1
    model.answer.set_result(judgement())
    assert [found.row_id for found in await asyncio.gather(*rows)] == [None, 1, 1]


async def test_an_error_is_nobody_elses(settled: Settled, model: Model) -> None:
    reuse, failing = Reuse(60), Model()
    first = asyncio.create_task(reuse.judge(b"k", 1, failing.ask))
    await settled()
    others = [asyncio.create_task(reuse.judge(b"k", row, model.ask)) for row in (2, 3)]
    await settled()
    failing.answer.set_exception(PromptRejected("no"))
    with pytest.raises(PromptRejected):
        await first
    assert [found.row_id for found in await asyncio.gather(*others)] == [None, 2]


async def test_when_the_one_who_asks_is_cancelled_another_asks(settled: Settled, model: Model) -> None:
    reuse, never = Reuse(60), Model()
    first = asyncio.create_task(reuse.judge(b"k", 1, never.ask))
    await settled()
    others = [asyncio.create_task(reuse.judge(b"k", row, model.ask)) for row in (2, 3)]
    await settled()
    first.cancel()
    assert [found.row_id for found in await asyncio.gather(*others)] == [None, 2]
    assert model.asked == 1


async def test_the_window_ends(model: Model) -> None:
    clock = Clock()
    reuse = Reuse(60, clock)
    await reuse.judge(b"k", 1, model.ask)
    clock.now = 59
    assert (await reuse.judge(b"k", 2, model.ask)).row_id == 1
    clock.now = 60
    assert (await reuse.judge(b"k", 3, model.ask)).row_id is None
    clock.now = 119
    assert (await reuse.judge(b"k", 4, model.ask)).row_id == 3


@pytest.mark.parametrize(("window", "key"), [(0, b"k"), (60, None)])
async def test_it_can_be_switched_off(window: float, key: bytes | None, model: Model) -> None:
    reuse = Reuse(window)
    for row in (1, 2):
        assert (await reuse.judge(key, row, model.ask)) == Reused(judgement(), None)
    assert model.asked == 2


async def test_a_row_that_comes_again_is_not_its_own_source(model: Model) -> None:
    reuse = Reuse(60)
    await reuse.judge(b"k", 1, model.ask)
    again = await reuse.judge(b"k", 1, model.ask)
    assert (again.row_id, again.judgement.calls) == (None, ())


async def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr("streams.reuse._ENTRIES", 2)
    reuse = Reuse(60)
    for row, key in enumerate((b"a", b"b", b"c"), 1):
        await reuse.judge(key, row, model.ask)
    found = [(await reuse.judge(key, 9, model.ask)).row_id for key in (b"b", b"c", b"a")]
    assert found == [2, 3, None]


def test_a_key_stands_for_tenant_text_and_context() -> None:
    keys = [
        key_of("a", "text", []),
        key_of("b", "text", []),
        key_of("a", "texT", []),
        key_of("a", "text", ["x"]),
        key_of("a", "text", ["x", "y"]),
        key_of("a", "text", ["xy"]),
        key_of("at", "ext", []),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of("a", "text", ["x"]) == keys[3]
