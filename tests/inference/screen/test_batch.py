"""Texts that come one by one are asked about together, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from inference.screen.batch import ScreenBatcher
from inference.screen.model import Scores, Screen


class Counting(Screen):
    """Notes how many texts each batch had."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen.card, screen._weights.T, screen._biases)
        self.batches: list[int] = []

    def scores(self, texts: Sequence[str]) -> Scores:
        self.batches.append(len(texts))
        if "poison" in texts:
            raise RuntimeError("poison")
        return super().scores(texts)


@pytest.fixture
def counting(screen: Screen) -> Counting:
    return Counting(screen)


@pytest.fixture
async def batcher(counting: Counting) -> AsyncIterator[ScreenBatcher]:
    made = ScreenBatcher(counting, size=50)
    yield made
    await made.close()


async def test_each_text_gets_its_own_answer(batcher: ScreenBatcher, screen: Screen, counting: Counting) -> None:
    texts = [f"market {number} {'snotling' if number % 3 else 'apples'}" for number in range(220)]
    found = await asyncio.gather(*map(batcher.risk, texts))
    assert found == screen.risks(texts).tolist()
    assert sum(counting.batches) == 220
    assert max(counting.batches) == 50
    assert len(counting.batches) < 10


async def test_one_alone_is_answered(batcher: ScreenBatcher, screen: Screen) -> None:
    assert await batcher.scores("snotling") == screen.scores(["snotling"])[0].tolist()
    assert await batcher.scores("apples") == screen.scores(["apples"])[0].tolist()


async def test_who_gave_up_costs_nothing(batcher: ScreenBatcher, counting: Counting) -> None:
    given_up = asyncio.ensure_future(batcher.risk("apples"))
    await asyncio.sleep(0)
    given_up.cancel()
    await batcher.risk("market")
    assert counting.batches == [1]


async def test_an_error_reaches_those_of_its_batch_only(batcher: ScreenBatcher) -> None:
    with pytest.raises(RuntimeError, match="poison"):
        await batcher.risk("poison")
    assert 0 <= await batcher.risk("apples") <= 1


async def test_after_the_end_nobody_waits(counting: Counting) -> None:
    batcher = ScreenBatcher(counting, size=2, linger=3600)
    waiting = [asyncio.ensure_future(batcher.risk("apples")) for _ in range(3)]
    for _ in range(2):
        await asyncio.sleep(0)
    await batcher.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [False, False, True]
    with pytest.raises(asyncio.CancelledError):
        await batcher.risk("apples")
