"""A number that only grows, and that can be waited for."""

import asyncio


class Tally:
    """Counts something that happens in this event loop."""

    def __init__(self) -> None:
        self.value = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, number: int = 1) -> None:
        """Count, and wake those who waited for this value."""
        self.value += number
        for wanted, future in self._waiting:
            if wanted <= self.value and not future.done():
                future.set_result(None)
        self._waiting = [(wanted, future) for wanted, future in self._waiting if not future.done()]

    async def reaches(self, number: int) -> None:
        """Return once the value is at least `number`."""
        if self.value < number:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((number, future))
            await future
