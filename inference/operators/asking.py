"""How operators ask the engine: a few things at once, and what failing means before the first row."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from inference.errors import AttemptsExhausted, EngineMisconfigured, EngineUnavailable, PromptRejected

_AT_ONCE = 2  # so that one long text leaves the engine to others as well

Item = TypeVar("Item")
Answer = TypeVar("Answer")


async def few_at_once(ask: Callable[[Item], Awaitable[Answer]], items: Sequence[Item]) -> list[Answer]:
    """The answers for all items, in their order."""
    if len(items) == 1:
        return [await ask(items[0])]
    turn = asyncio.Semaphore(_AT_ONCE)

    async def wait(item: Item) -> Answer:
        async with turn:
            return await ask(item)

    return await asyncio.gather(*map(wait, items))


@contextmanager
def preparing(what: str) -> Iterator[None]:
    """For questions that every row depends on. what: what they are about.

    Raises EngineMisconfigured where the engine rejects one, EngineUnavailable where it fails at one again and again.
    """
    try:
        yield
    except PromptRejected as error:
        raise EngineMisconfigured(f"the engine takes no prompt for {what}: {error}") from error
    except AttemptsExhausted as error:
        raise EngineUnavailable(f"the engine cannot be asked for {what}: {error}", error.reason) from error
