"""Whether the worker lives, and whether what it depends on answers."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from streams.metrics import Metrics
from streams.secrets import hide

Check = Callable[[], Awaitable[str | None]]

_FRESH_SECONDS = 2.0
_CHECK_TIMEOUT = 5.0


class Health:
    """Asks each dependency, at most once in two seconds however often it is asked itself.

    consuming: whether rows are taken; not while the worker starts. stopped: why the consumer ended, until it runs anew.
    """

    def __init__(self, checks: Mapping[str, Check], metrics: Metrics) -> None:
        """checks: name to a call that returns None, or in words what is wrong."""
        self._checks = dict(checks)
        self._metrics = metrics
        self._answer: dict[str, str | None] = {}
        self._asked = 0.0
        self._lock = asyncio.Lock()
        self.consuming = False
        self.stopped: str | None = None

    async def dependencies(self) -> dict[str, str | None]:
        """Name to None if it answers, otherwise the reason."""
        async with self._lock:
            if not self._answer or time.monotonic() - self._asked > _FRESH_SECONDS:
                reasons = await asyncio.gather(*(self._ask(check) for check in self._checks.values()))
                told = [None if reason is None else hide(reason) for reason in reasons]
                self._answer = dict(zip(self._checks, told, strict=True))
                self._asked = time.monotonic()
                for name, reason in self._answer.items():
                    self._metrics.up.labels(name).set(reason is None)
            return self._answer

    async def _ask(self, check: Check) -> str | None:
        try:
            return await asyncio.wait_for(check(), _CHECK_TIMEOUT)
        except TimeoutError:
            return f"no answer within {_CHECK_TIMEOUT:.0f} s"
        except Exception as error:  # noqa: BLE001  the page says what is wrong, whatever it is
            return str(error) or type(error).__name__
