"""Dependencies are asked, but not too often, and not for ever."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from streams.health import Health
from streams.metrics import Metrics


class Dependency:
    """Answers what it is told to, and counts how often it was asked."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.asked = 0

    async def check(self) -> str | None:
        self.asked += 1
        return self.reason


async def never() -> str | None:
    await asyncio.Event().wait()
    return None


async def broken() -> str | None:
    raise RuntimeError("not connected")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(3)`: three seconds pass."""
    now = 1000.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr("streams.health.time", SimpleNamespace(monotonic=lambda: now))

    forward(0)
    return forward


async def test_each_dependency_tells_its_state() -> None:
    metrics = Metrics()
    health = Health({"broker": Dependency().check, "store": Dependency("no route").check}, metrics)
    assert await health.dependencies() == {"broker": None, "store": "no route"}
    rendered = metrics.render()
    assert b'weir_dependency_up{dependency="broker"} 1.0' in rendered
    assert b'weir_dependency_up{dependency="store"} 0.0' in rendered
    assert health.stopped is None


async def test_an_answer_is_good_for_some_seconds(
    clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.health._FRESH_SECONDS", 5)
    broker = Dependency("gone")
    health = Health({"broker": broker.check}, Metrics())
    await asyncio.gather(*(health.dependencies() for _ in range(5)))
    clock(4.9)
    broker.reason = None
    assert await health.dependencies() == {"broker": "gone"}
    assert broker.asked == 1
    clock(0.2)
    assert await health.dependencies() == {"broker": None}
    assert broker.asked == 2


async def test_a_dependency_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.health._CHECK_TIMEOUT", 0.01)
    health = Health({"engine": never, "store": Dependency().check}, Metrics())
    assert await health.dependencies() == {"engine": "no answer within 0 s", "store": None}


async def test_a_check_that_fails_is_an_answer() -> None:
    health = Health({"engine": broken, "store": Dependency().check}, Metrics())
    assert await health.dependencies() == {"engine": "not connected", "store": None}


async def test_dependencies_are_asked_at_once() -> None:
    together = asyncio.Barrier(2)

    async def check() -> str | None:
        await together.wait()
        return None

    assert await Health({"a": check, "b": check}, Metrics()).dependencies() == {"a": None, "b": None}


async def test_nothing_to_ask() -> None:
    assert await Health({}, Metrics()).dependencies() == {}
