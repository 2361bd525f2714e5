"""Whose turn it is: what is urgent first, equal shares of the rest, and nothing is lost."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine import Caller
from inference.fairness import FairQueue, Shares

TENANTS = ("a", "b", "c")
sizes = st.integers(1, 50).map(float)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(queue: FairQueue[str]) -> list[str]:
    """All that is left, in turn."""
    return [queue.take() for _ in range(len(queue))]


@given(st.data())
def test_every_item_is_taken_once_and_the_urgent_first(data: st.DataObject) -> None:
    clock = Clock()
    shares = Shares()
    queues = [FairQueue[int](shares, clock) for _ in range(2)]
    waiting: list[dict[int, float]] = [{}, {}]
    numbers = itertools.count()

    def take(which: int) -> None:
        head = queues[which].head()
        item = queues[which].take()
        assert head is not None
        assert head.item == item
        urgent = {number for number, urgent_at in waiting[which].items() if urgent_at <= clock.now}
        assert item in (urgent or waiting[which])
        assert head.turn[0] == (item not in urgent)
        del waiting[which][item]

    for _ in range(data.draw(st.integers(1, 40), label="steps")):
        which = data.draw(st.integers(0, 1), label="queue")
        step = data.draw(st.sampled_from(["put", "put", "take", "time passes"]), label="step")
        if step == "put":
            number = next(numbers)
            urgent_at = data.draw(st.sampled_from([float("inf"), 0.0, clock.now + 1, clock.now + 5]), label="urgent")
            waiting[which][number] = urgent_at
            queues[which].put(number, Caller(data.draw(st.sampled_from(TENANTS)), urgent_at), data.draw(sizes))
        elif step == "time passes":
            clock.now += data.draw(st.integers(1, 4), label="seconds")
        elif queues[which]:
            take(which)
        assert [len(queue) for queue in queues] == [len(items) for items in waiting]
    for which, queue in enumerate(queues):
        while queue:
            take(which)
        assert queue.head() is None
    assert waiting == [{}, {}]


@given(st.lists(st.tuples(st.sampled_from(TENANTS), sizes), min_size=1, max_size=60), st.integers(1, 3))
def test_tenants_with_a_backlog_get_equal_shares(items: list[tuple[str, float]], count: int) -> None:
    """Of one queue, or of several together: apart by an item of each at most, as the paper proves."""
    shares = Shares()
    queues = [FairQueue[tuple[str, float]](shares, Clock()) for _ in range(count)]
    backlog: Counter[str] = Counter()
    for number, (tenant, size) in enumerate(items):
        queues[number % count].put((tenant, size), Caller(tenant), size)
        backlog[tenant] += 1
    largest = {tenant: max(size for each, size in items if each == tenant) for tenant in backlog}
    served = dict.fromkeys(backlog, 0.0)

    while all(backlog.values()):
        _, next_ = min((head.turn, queue) for queue in queues if (head := queue.head()) is not None)
        tenant, size = next_.take()
        served[tenant] += size
        backlog[tenant] -= 1
        for one, other in itertools.combinations(served, 2):
            assert abs(served[one] - served[other]) <= largest[one] + largest[other]


def test_items_of_a_tenant_keep_their_order() -> None:
    queue = FairQueue[str](clock=Clock())
    for item in "edcba":
        queue.put(item, Caller("a"), size=ord(item))

    assert taken(queue) == list("edcba")


def test_urgent_tenants_share_as_well() -> None:
    queue = FairQueue[str](clock=Clock())
    for item in ("a1", "a2", "a3"):
        queue.put(item, Caller("a", urgent_at=0.0))
    queue.put("b1", Caller("b", urgent_at=0.0))

    assert taken(queue) == ["a1", "b1", "a2", "a3"]


def test_item_becomes_urgent_when_its_time_comes() -> None:
    clock = Clock()
    queue = FairQueue[str](clock=clock)
    for item in ("a1", "a2"):
        queue.put(item, Caller("a"))
    queue.put("a3", Caller("a", urgent_at=5.0))
    queue.put("b1", Caller("b", urgent_at=7.0))

    clock.now = 4.9
    head = queue.head()
    assert head is not None
    assert (head.turn[0], head.item) == (True, "a1")
    clock.now = 5.0
    assert queue.take() == "a3"
    assert queue.take() == "a1"
    clock.now = 7.0
    assert taken(queue) == ["b1", "a2"]


@pytest.mark.parametrize("urgent_at", [float("inf"), 5.0])
def test_arrival_is_told_as_it_was(urgent_at: float) -> None:
    clock = Clock()
    queue = FairQueue[str](clock=clock)
    clock.now = 2.0
    queue.put("a", Caller(urgent_at=urgent_at))
    clock.now = 9.0
    head = queue.head()

    assert head is not None
    assert head.arrived == 2.0


def test_tenant_that_comes_back_has_no_credit_and_no_debt() -> None:
    """While `b` was away, `a` had the engine to itself: from then on they take turns."""
    queue = FairQueue[str](clock=Clock())
    queue.put("b0", Caller("b"))
    for number in range(20):
        queue.put(f"a{number}", Caller("a"))
    first = [queue.take() for _ in range(11)]
    assert sorted(first) == sorted(["b0", *(f"a{number}" for number in range(10))])

    for number in range(1, 10):
        queue.put(f"b{number}", Caller("b"))
    assert Counter(item[0] for item in (queue.take() for _ in range(6))) == {"a": 3, "b": 3}


def test_tenant_is_not_punished_for_what_it_had_while_nobody_else_waited() -> None:
    queue = FairQueue[str](clock=Clock())
    for number in range(50):
        queue.put(f"a{number}", Caller("a"))
        queue.take()

    for number in range(2):
        queue.put(f"a{number}", Caller("a"))
        queue.put(f"b{number}", Caller("b"))
    assert taken(queue) == ["a0", "b0", "a1", "b1"]


def test_empty_queue_has_nothing_to_take() -> None:
    with pytest.raises(IndexError, match="empty"):
        FairQueue[str]().take()
