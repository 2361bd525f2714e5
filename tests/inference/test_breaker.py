"""The breaker: it opens on failures in a row, lets callers wait, and lets them in slowly once a probe was answered."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from inference.breaker import Breaker
from inference.errors import EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from tests.inference.conftest import SECONDS

FAILURES = 3
Request = Callable[[], Awaitable[str]]


async def settle() -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(20):
        await asyncio.sleep(0)


class Probes:
    """Takes probes, and leaves it to the test when and how each is answered."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[asyncio.Future[bool]] = asyncio.Queue()
        self.count = 0

    async def __call__(self) -> bool:
        self.count += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.started.put_nowait(answer)
        return await answer

    async def next(self) -> "asyncio.Future[bool]":
        async with asyncio.timeout(SECONDS):
            return await self.started.get()


class Requests:
    """Requests under way, which the test ends."""

    def __init__(self) -> None:
        self.open: list[asyncio.Future[str]] = []

    async def __call__(self) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.open.append(answer)
        return await answer


async def fine() -> str:
    return "fine"


def failing(error: Exception) -> Request:
    async def request() -> str:
        raise error

    return request


DOWN = failing(EngineUnavailable("down", "connection"))


async def fail(breaker: Breaker, times: int = FAILURES, request: Request = DOWN) -> None:
    for _ in range(times):
        with pytest.raises(EngineUnavailable):
            await breaker.call(request)


@pytest.fixture
def probes() -> Probes:
    return Probes()


@pytest.fixture
async def breaker(probes: Probes) -> AsyncIterator[Breaker]:
    made = Breaker(probes, width=4, pause_seconds=0.001, longest_pause_seconds=0.002, failures=FAILURES)
    yield made
    await made.close()


@pytest.mark.parametrize("error", [EngineUnavailable("down", "status"), EngineBusy("not now")])
async def test_opens_after_failures_in_a_row(error: EngineUnavailable, breaker: Breaker) -> None:
    await fail(breaker, FAILURES - 1, failing(error))
    assert breaker.state == "closed"

    await fail(breaker, 1, failing(error))
    assert breaker.state == "open"


@pytest.mark.parametrize("answer", [fine, failing(PromptRejected("too long")), failing(EngineMisconfigured("key"))])
async def test_any_answer_ends_the_row(answer: Request, breaker: Breaker) -> None:
    for number in range(3):
        await fail(breaker, FAILURES - 1)
        await asyncio.gather(breaker.call(answer), return_exceptions=True)
        assert (breaker.state, breaker.successes) == ("closed", number + 1)


async def test_other_errors_say_nothing_about_the_engine(breaker: Breaker) -> None:
    await fail(breaker, FAILURES - 1)
    with pytest.raises(ZeroDivisionError):
        await breaker.call(failing(ZeroDivisionError()))
    assert (breaker.state, breaker.successes) == ("closed", 0)
    await fail(breaker, 1)
    assert breaker.state == "open"


async def test_nobody_passes_until_a_probe_is_answered(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    requests = Requests()
    callers = [asyncio.create_task(breaker.call(requests)) for _ in range(3)]

    for number in range(1, 5):
        probe = await probes.next()
        await settle()
        assert (breaker.state, breaker.successes, probes.count, requests.open) == ("half_open", 0, number, [])
        probe.set_result(False)
        await settle()
        assert requests.open == []
        assert breaker.state == ("open" if probes.count == number else "half_open")  # the pause may be over by now

    (await probes.next()).set_result(True)
    await settle()
    assert (breaker.state, breaker.successes) == ("closed", 1)
    for number in range(3):
        requests.open[number].set_result("fine")
        await settle()
    assert [caller.result() for caller in callers] == ["fine"] * 3


async def test_pauses_between_probes_grow(probes: Probes) -> None:
    first = 0.02
    breaker = Breaker(probes, width=4, pause_seconds=first, failures=FAILURES)
    await fail(breaker)
    started = time.perf_counter()
    for _ in range(5):
        (await probes.next()).set_result(False)
    elapsed = time.perf_counter() - started
    await breaker.close()

    assert elapsed >= first * (1 + 2 + 4 + 8 + 16) / 2


async def test_probe_that_is_broken_itself_is_made_again(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    (await probes.next()).set_exception(ZeroDivisionError())
    (await probes.next()).set_result(True)

    async with asyncio.timeout(SECONDS):
        assert await breaker.call(fine) == "fine"


async def test_recovered_engine_is_asked_more_and_more(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    requests = Requests()
    callers = [asyncio.create_task(breaker.call(requests)) for _ in range(30)]
    (await probes.next()).set_result(True)

    under_way = []
    for answered in range(5):
        await settle()
        under_way.append(len(requests.open) - answered)
        requests.open[answered].set_result("fine")
    assert under_way == [1, 2, 4, 8, 16], "while others wait, the number grows beyond the width"

    await settle()
    assert len(requests.open) == 30
    for request in requests.open[5:]:
        request.set_result("fine")
    assert await asyncio.gather(*callers) == ["fine"] * 30


async def test_requests_are_not_limited_in_good_times(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    (await probes.next()).set_result(True)
    for _ in range(3):
        await breaker.call(fine)
    requests = Requests()
    callers = [asyncio.create_task(breaker.call(requests)) for _ in range(20)]
    await settle()

    assert len(requests.open) == 20
    for caller in callers:
        caller.cancel()


async def test_first_request_after_a_probe_is_on_trial(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    (await probes.next()).set_result(True)
    await fail(breaker, 1)
    assert breaker.state == "open"

    (await probes.next()).set_result(True)
    assert await breaker.call(fine) == "fine"
    await fail(breaker, FAILURES - 1)
    assert breaker.state == "closed"


async def test_late_answer_is_as_good_as_a_probe(breaker: Breaker, probes: Probes) -> None:
    requests = Requests()
    late = asyncio.create_task(breaker.call(requests))
    await settle()
    await fail(breaker)
    waiting = asyncio.create_task(breaker.call(fine))
    await probes.next()

    requests.open[0].set_result("late")

    async with asyncio.timeout(SECONDS):
        assert (await late, await waiting) == ("late", "fine")
    assert (breaker.state, probes.count) == ("closed", 1)


async def test_late_failure_says_nothing_about_the_engine_since(breaker: Breaker, probes: Probes) -> None:
    requests = Requests()
    late = asyncio.create_task(breaker.call(requests))
    await settle()
    await fail(breaker)
    (await probes.next()).set_result(True)
    await settle()

    requests.open[0].set_exception(EngineUnavailable("timed out", "timeout"))

    with pytest.raises(EngineUnavailable):
        await late
    assert breaker.state == "closed"


async def test_request_that_still_hangs_takes_no_place(breaker: Breaker, probes: Probes) -> None:
    requests = Requests()
    hanging = asyncio.create_task(breaker.call(requests))
    await settle()
    await fail(breaker)
    (await probes.next()).set_result(True)

    async with asyncio.timeout(SECONDS):
        assert await breaker.call(fine) == "fine"
    hanging.cancel()


@pytest.mark.parametrize("steps", range(4))
async def test_caller_that_gives_up_takes_no_place(steps: int, breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    requests = Requests()
    callers = [asyncio.create_task(breaker.call(requests)) for _ in range(2)]
    last = asyncio.create_task(breaker.call(fine))
    await settle()
    (await probes.next()).set_result(True)
    for _ in range(steps):
        await asyncio.sleep(0)

    for caller in callers:
        caller.cancel()

    async with asyncio.timeout(SECONDS):
        assert await last == "fine"


async def test_close_cancels_those_that_wait_and_ends_the_probes(breaker: Breaker, probes: Probes) -> None:
    await fail(breaker)
    callers = [asyncio.create_task(breaker.call(fine)) for _ in range(3)]
    probe = await probes.next()

    await breaker.close()

    async with asyncio.timeout(SECONDS):
        outcomes = await asyncio.gather(*callers, breaker.call(fine), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
    assert probe.cancelled()


async def test_failures_after_close_start_no_probe(breaker: Breaker, probes: Probes) -> None:
    requests = Requests()
    callers = [asyncio.create_task(breaker.call(requests)) for _ in range(FAILURES)]
    await settle()
    await breaker.close()
    for request in requests.open:
        request.set_exception(EngineUnavailable("down", "connection"))
    await asyncio.gather(*callers, return_exceptions=True)

    assert breaker.state == "closed"
