"""How fast rows may come to the model: a limit for each tenant, and one for all of a pipeline.

Token buckets, but for one thing: what a row takes is known only when it is answered. So a row reserves what rows took
of late and settles the difference afterwards, which may leave the bucket in debt. Kept libraries such as aiolimiter
want the whole amount beforehand, refuse one that is larger than the bucket, and take nothing back.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from streams.limits import Limits, RateLimits

_LOOK_AGAIN_SECONDS = 0.25  # partitions come and go, and rows that took less than they reserved give it back
_LATEST_WEIGHT = 0.1  # of the last row, in what rows took of late
_FORGET_AT = 1024
_ROUNDING = 1e-9


@dataclass(slots=True, eq=False)
class Bucket:
    """Holds one second's worth, and at least one.

    per_second: of all workers together. expected: what a row takes, the whole bucket while that is not known. level:
    less than nothing is a debt; more than fits runs over. read: when, in seconds of some clock.
    """

    counts: Literal["requests", "tokens"]
    per_second: float
    expected: float
    read: float
    level: float = math.inf
    full: float = 1.0

    def delay(self, now: float, share: float) -> float:
        """Seconds until a row may pass. share: this worker's part of the rate."""
        rate = self.per_second * share
        self.full = max(1.0, rate)
        self.level = min(self.full, self.level + (now - self.read) * rate)
        self.read = now
        missing = min(self.expected, self.full) - self.level
        if missing <= _ROUNDING:
            return 0.0
        return missing / rate if rate else math.inf

    def reserve(self) -> float:
        """Take what a row probably takes. Returns how much that was."""
        reserved = min(self.expected, self.full)
        self.level -= reserved
        return reserved

    def settle(self, reserved: float, took: float) -> None:
        """A row that reserved so much took so much."""
        self.level += reserved - took
        if took:
            known = math.isfinite(self.expected)
            self.expected = self.expected + _LATEST_WEIGHT * (took - self.expected) if known else took


@dataclass(slots=True, eq=False)
class _Gate:
    """Lets rows pass one after the other, in the order in which they came."""

    buckets: Sequence[Bucket]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Of a row that was let in. Whoever holds it must call `settle` once."""

    reserved: Sequence[tuple[Bucket, float]] = ()

    def settle(self, requests: int, tokens: int) -> None:
        """What the row really took; nothing, if that is not known."""
        for bucket, reserved in self.reserved:
            bucket.settle(reserved, requests if bucket.counts == "requests" else tokens)


_FREE = Reservation()


class Rates:
    """The rates of one pipeline in one worker.

    Rows of a tenant pass in the order in which they came. A tenant that waits for its own rate holds no other back;
    those that wait for the pipeline's take turns.
    """

    def __init__(
        self,
        limits: Limits,
        share: Callable[[], float] = lambda: 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """share: this worker's part of the rates at the moment, from 0 to 1. clock: seconds."""
        self._limits = limits
        self._share = share
        self._clock = clock
        self._sleep = sleep
        self._all = self._gate(limits)
        self._tenants: dict[str, _Gate] = {}
        self._forget_at = _FORGET_AT

    def waiting(self, tenant: str) -> int:
        """Rows of a tenant that wait."""
        gate = self._tenants.get(tenant)
        return gate.waiting if gate else 0

    @property
    def all_waiting(self) -> int:
        """Rows of all tenants that wait."""
        return sum(gate.waiting for gate in self._tenants.values())

    async def admit(self, tenant: str) -> Reservation:
        """Return when a row of the tenant may come to the model."""
        own = self._own(tenant)
        if own is None:
            return _FREE
        own.waiting += 1
        try:
            async with own.turn:
                await self._open(own)
                async with self._all.turn:
                    await self._open(self._all)
                    return Reservation([(b, b.reserve()) for b in (*own.buckets, *self._all.buckets)])
        finally:
            own.waiting -= 1

    async def _open(self, gate: _Gate) -> None:
        while delay := self._delay(gate):
            await self._sleep(min(delay, _LOOK_AGAIN_SECONDS))

    def _delay(self, gate: _Gate) -> float:
        now, share = self._clock(), self._share()
        return max((bucket.delay(now, share) for bucket in gate.buckets), default=0.0)

    def _own(self, tenant: str) -> _Gate | None:
        """The gate of a tenant; None if nothing bounds it."""
        gate = self._tenants.get(tenant)
        if gate is None:
            limits = self._limits.of(tenant)
            if not limits.has_rate and not self._all.buckets:
                return None
            self._forget()
            gate = self._tenants[tenant] = self._gate(limits)
        return gate

    def _gate(self, limits: RateLimits) -> _Gate:
        now = self._clock()
        buckets = []
        if limits.requests_per_second is not None:
            buckets.append(Bucket("requests", limits.requests_per_second, 1.0, now))
        if limits.tokens_per_second is not None:
            buckets.append(Bucket("tokens", limits.tokens_per_second, math.inf, now))
        return _Gate(buckets)

    def _forget(self) -> None:
        """Tenants may be any number. One that does not wait and has full buckets is as good as a new one."""
        if len(self._tenants) < self._forget_at:
            return
        self._tenants = {t: gate for t, gate in self._tenants.items() if gate.waiting or not self._is_full(gate)}
        self._forget_at = max(_FORGET_AT, 2 * len(self._tenants))

    def _is_full(self, gate: _Gate) -> bool:
        self._delay(gate)
        return all(bucket.level >= bucket.full - _ROUNDING for bucket in gate.buckets)
