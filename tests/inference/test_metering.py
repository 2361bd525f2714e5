"""Every second of the engine is somebody's, or idle."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.metering import Meter, Span

seconds = st.integers(0, 10_000_000).map(lambda ticks: ticks / 1024)  # exact, so that the sums of the test are
weights = st.floats(64, 1e5)  # characters of a prompt, and of what every prompt has


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(seconds, st.sampled_from(["enter", "enter", "leave"]), weights, st.integers(0)), max_size=60))
def test_shares_and_idle_time_add_up_to_the_time_that_passed(steps: list[tuple[float, str, float, int]]) -> None:
    clock = Clock()
    meter = Meter(clock)
    open_: list[Span] = []
    given_ = 0.0
    busy = idle = 0.0

    def check() -> None:
        assert meter.busy_seconds == pytest.approx(busy, rel=1e-9)
        assert meter.idle_seconds == pytest.approx(idle, rel=1e-9)
        assert meter.busy_seconds + meter.idle_seconds == pytest.approx(clock.now, rel=1e-9)
        assert given_ + meter.open_seconds == pytest.approx(busy, rel=1e-9, abs=1e-9 * clock.now)

    for passed, step, weight, which in steps:
        clock.now += passed
        busy, idle = (busy + passed, idle) if open_ else (busy, idle + passed)
        if step == "enter":
            open_.append(meter.enter(weight))
        elif open_:
            share = meter.leave(open_.pop(which % len(open_)))
            assert share >= 0
            given_ += share
        check()
    for span in open_:
        given_ += meter.leave(span)
    assert meter.open_seconds == 0
    assert given_ == pytest.approx(meter.busy_seconds, rel=1e-9)


def test_prompts_share_by_weight_while_they_are_there_together() -> None:
    clock = Clock(100.0)
    meter = Meter(clock)
    light = meter.enter(1.0)
    clock.now += 6
    heavy = meter.enter(2.0)
    clock.now += 3

    assert meter.leave(light) == pytest.approx(6 + 1)
    clock.now += 4
    assert meter.leave(heavy) == pytest.approx(2 + 4)
    assert (meter.busy_seconds, meter.idle_seconds) == (13, 0)


@given(st.lists(weights, min_size=1, max_size=20), st.floats(0.001, 1e4))
def test_shares_of_prompts_that_come_and_go_together_are_proportional(parts: list[float], passed: float) -> None:
    clock = Clock()
    meter = Meter(clock)
    spans = [meter.enter(weight) for weight in parts]
    clock.now += passed
    shares = [meter.leave(span) for span in spans]

    for (weight, share), (other, second) in itertools.combinations(zip(parts, shares, strict=True), 2):
        assert share / second == pytest.approx(weight / other, rel=1e-6)


def test_prompt_alone_has_all_of_it_whatever_it_weighs() -> None:
    clock = Clock()
    meter = Meter(clock)
    for weight in (0.01, 1.0, 1e6):
        span = meter.enter(weight)
        clock.now += 7
        assert meter.leave(span) == pytest.approx(7)
        clock.now += 2
    assert (meter.busy_seconds, meter.idle_seconds) == (21, 6)


def test_open_time_is_told_while_it_runs() -> None:
    clock = Clock()
    meter = Meter(clock)
    clock.now += 5
    meter.enter(3.0)
    clock.now += 2
    assert (meter.busy_seconds, meter.idle_seconds, meter.open_seconds) == (2, 5, pytest.approx(2))


@pytest.mark.parametrize("rounds", [100_000])
def test_rounding_does_not_grow_under_a_load_that_never_ends(rounds: int) -> None:
    """Two prompts always overlap, so that the meter never starts afresh."""
    clock = Clock(1e6)
    meter = Meter(clock)
    span = meter.enter(1000.0)
    total = 0.0
    for number in range(rounds):
        clock.now += 0.013
        following = meter.enter(64.0 + number % 977)
        clock.now += 0.007
        total += meter.leave(span)
        span = following
    total += meter.open_seconds

    assert total == pytest.approx(meter.busy_seconds, rel=1e-6)
