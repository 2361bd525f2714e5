"""Whose time the engine's time was."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Span:
    """A prompt that the engine has. weight: its part of the work, relative to the others'."""

    weight: float
    started: float


class Meter:
    """Divides the time in which the engine has something of ours among the prompts that it has.

    At each moment the prompts in flight share it by weight, so that what all of them are given adds up to the time that
    passed, and what is left over is idle time. This is processor sharing in virtual time (Parekh and Gallager, 1993):
    the virtual clock runs at one over the sum of weights, and a prompt is charged its weight times the virtual time
    that it was there for. Two additions a prompt, however many are in flight.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._read = clock()
        self._virtual = 0.0
        self._weight = 0.0
        self._started = 0.0  # weight times start, summed over the prompts in flight
        self._in_flight = 0
        self._busy = 0.0
        self._idle = 0.0

    @property
    def busy_seconds(self) -> float:
        """Time in which the engine had at least one prompt of ours."""
        self._advance()
        return self._busy

    @property
    def idle_seconds(self) -> float:
        """Time in which it had none."""
        self._advance()
        return self._idle

    @property
    def open_seconds(self) -> float:
        """What the prompts in flight have been given up to now."""
        self._advance()
        return max(0.0, self._virtual * self._weight - self._started)

    def enter(self, weight: float) -> Span:
        """The engine is given a prompt. weight: positive."""
        self._advance()
        span = Span(weight, self._virtual)
        self._in_flight += 1
        self._weight += weight
        self._started += weight * span.started
        return span

    def leave(self, span: Span) -> float:
        """The engine has answered, or failed; the seconds of its time that were this prompt's."""
        self._advance()
        self._in_flight -= 1
        self._weight -= span.weight
        self._started -= span.weight * span.started
        if not self._in_flight:  # no rounding errors are carried on
            self._weight = self._started = 0.0
        return span.weight * (self._virtual - span.started)

    def _advance(self) -> None:
        now = self._clock()
        passed, self._read = now - self._read, now
        if self._in_flight:
            self._busy += passed
            self._virtual += passed / self._weight
        else:
            self._idle += passed
