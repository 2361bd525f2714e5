"""Whose turn it is at the engine: what is urgent first, and equal shares for all tenants within that."""

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct, structs

from inference.engine import Caller

T = TypeVar("T")

_FORGOTTEN_TOGETHER = 256


class _Entry(Struct, Generic[T], eq=False):
    item: T
    tenant: str
    size: float
    arrived: float
    waiting: bool = True


@dataclass(slots=True)
class _VirtualTime:
    """Start-time fair queuing (Goyal, Vin and Cheng, SIGCOMM 1996) with equal weights.

    An entry may start when what its tenant queued before it would have been served at the tenant's share; the entry
    that may start first goes first. A tenant that queued nothing for a while gains no credit from it.
    """

    now: float = 0.0
    number: int = 0
    waiting: int = 0
    finish: dict[str, float] = field(default_factory=dict)

    def start(self, tenant: str, size: float) -> tuple[float, int]:
        """When a new entry may start, and its number."""
        start = max(self.now, self.finish.get(tenant, 0.0))
        self.finish[tenant] = start + size
        self.number += 1
        self.waiting += 1
        return start, self.number

    def left(self) -> None:
        """An entry waits no longer."""
        self.waiting -= 1
        if not self.waiting:
            self.finish.clear()
            self.now = 0.0


class Shares:
    """What tenants have had of several queues together."""

    def __init__(self) -> None:
        self.ordinary = _VirtualTime()
        self.urgent = _VirtualTime()


class Head(NamedTuple, Generic[T]):
    """The next item of a queue. Of several queues with the same `Shares`, the one with the least `turn` is next.

    arrived: when it was put in, by the queue's clock.
    """

    turn: tuple[bool, float, int]
    arrived: float
    item: T


class _FairHeap(Generic[T]):
    """Entries in the order in which they may start."""

    def __init__(self, virtual: _VirtualTime) -> None:
        self._virtual = virtual
        self._heap: list[tuple[float, int, _Entry[T]]] = []

    def put(self, entry: _Entry[T]) -> None:
        heapq.heappush(self._heap, (*self._virtual.start(entry.tenant, entry.size), entry))

    def head(self) -> tuple[float, int, _Entry[T]] | None:
        while self._heap and not self._heap[0][2].waiting:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def take(self) -> T:
        start, _, entry = heapq.heappop(self._heap)
        self._virtual.now = max(self._virtual.now, start)
        self.leave(entry)
        return entry.item

    def leave(self, entry: _Entry[T]) -> None:
        """The entry waits here no longer."""
        entry.waiting = False
        self._virtual.left()


class FairQueue(Generic[T]):
    """Items that wait, of many tenants.

    An item becomes urgent at its caller's `urgent_at`, and is then taken before all that are not. Among urgent items,
    and among the others, tenants get equal shares by size, however many items each of them has put in.
    """

    def __init__(self, shares: Shares | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """shares: that of other queues, so that tenants get equal shares of all of them together."""
        shares = shares or Shares()
        self._clock = clock
        self._ordinary: _FairHeap[T] = _FairHeap(shares.ordinary)
        self._urgent: _FairHeap[T] = _FairHeap(shares.urgent)
        self._soon: list[tuple[float, int, _Entry[T]]] = []
        self._number = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, item: T, caller: Caller, size: float = 1.0) -> None:
        """size: what the item takes of its tenant's share."""
        now = self._clock()
        entry = _Entry(item, caller.tenant, size, now)
        self._length += 1
        self._number += 1
        if caller.urgent_at <= now:
            self._urgent.put(entry)
        else:
            self._ordinary.put(entry)
            if caller.urgent_at != float("inf"):
                heapq.heappush(self._soon, (caller.urgent_at, self._number, entry))
                self._forget_taken()

    def head(self) -> Head[T] | None:
        """The item that `take` would return; None if there is none."""
        self._promote()
        for ordinary, heap in ((False, self._urgent), (True, self._ordinary)):
            if (found := heap.head()) is not None:
                start, number, entry = found
                return Head((ordinary, start, number), entry.arrived, entry.item)
        return None

    def take(self) -> T:
        """The next item. Raises IndexError if there is none."""
        head = self.head()
        if head is None:
            raise IndexError("the queue is empty")
        self._length -= 1
        return (self._ordinary if head.turn[0] else self._urgent).take()

    def _forget_taken(self) -> None:
        """What was taken long before it became urgent must not be kept until then."""
        if len(self._soon) > 2 * self._length + _FORGOTTEN_TOGETHER:
            self._soon = [soon for soon in self._soon if soon[2].waiting]
            heapq.heapify(self._soon)

    def _promote(self) -> None:
        now = self._clock()
        while self._soon and (self._soon[0][0] <= now or not self._soon[0][2].waiting):
            _, _, entry = heapq.heappop(self._soon)
            if entry.waiting:
                self._ordinary.leave(entry)
                self._urgent.put(structs.replace(entry, waiting=True))
