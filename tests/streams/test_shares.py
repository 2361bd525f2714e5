"""A worker's share of its topics."""

import pytest
from faust.types import TP

from streams.shares import Shares


def test_all_workers_together_have_all() -> None:
    workers = [Shares(), Shares()]
    for number, shares in enumerate(workers):
        shares.known({"a": 4, "b": 2})
        shares.assigned("faust", [TP("a", number), TP("a", number + 2), TP("b", number)])
    assert sum(shares.of(["a"]) for shares in workers) == pytest.approx(1)
    assert sum(shares.of(["a", "b"]) for shares in workers) == pytest.approx(1)


def test_partitions_that_went_do_not_count() -> None:
    shares = Shares()
    shares.known({"a": 4})
    assert shares.of(["a"]) == 0
    shares.assigned("faust", [TP("a", 0), TP("a", 1)])
    shares.assigned("faust", [TP("a", 3)])
    assert shares.of(["a"]) == 0.25


def test_each_reader_has_its_own() -> None:
    shares = Shares()
    shares.known({"a": 1, "a.deferred": 1})
    shares.assigned("faust", [TP("a", 0)])
    shares.assigned("deferred", [TP("a.deferred", 0)])
    assert shares.of(["a", "a.deferred"]) == 1
    shares.assigned("deferred", [])
    assert shares.of(["a", "a.deferred", "a"]) == 0.5


def test_topics_that_nobody_counted_are_all_ours() -> None:
    assert Shares().of(["a"]) == 1
