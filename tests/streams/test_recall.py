"""The store is asked for the events that it may know, and for no others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from faust.types import TP
from msgspec.structs import replace

from sinks.judged import Known
from streams.decode import Event, decode
from streams.recall import Recall

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HERE = TP("community.messages", 0)


@pytest.fixture
def event(message: Callable[..., Any]) -> Event:
    body = {"text": "hello", "id": "e-1", "time": NOW.isoformat()}
    return decode(message(body, topic=HERE.topic, partition=0, offset=10))


def recall(*known: Known) -> tuple[Recall, list[tuple[TP, int]]]:
    """One that gets these answers, and the questions that it asked."""
    answers, asked = list(known), list[tuple[TP, int]]()

    async def ask(tp: TP, offset: int) -> Known:
        asked.append((tp, offset))
        return answers.pop(0)

    return Recall(ask), asked


@pytest.mark.parametrize(("last", "known"), [(9, False), (10, True), (11, True), (-1, False)])
async def test_what_has_a_verdict_is_at_or_before_the_last_offset(event: Event, last: int, known: bool) -> None:
    watch, asked = recall(Known(last, None))
    assert await watch.may_know(event, HERE, 10) is known
    assert asked == [(HERE, 10)]


@pytest.mark.parametrize(
    ("newest", "event_id", "known"),
    [
        (NOW, "e-1", True),
        (NOW - timedelta(milliseconds=1), "e-1", False),
        (NOW, "", False),
    ],
)
async def test_an_event_with_a_name_may_have_been_published_before(
    event: Event, newest: datetime, event_id: str, known: bool
) -> None:
    watch, _ = recall(Known(-1, newest))
    assert await watch.may_know(replace(event, event_id=event_id), HERE, 10) is known


async def test_times_finer_than_those_of_the_store_are_no_newer(event: Event) -> None:
    watch, _ = recall(Known(-1, NOW))
    assert await watch.may_know(replace(event, event_time=NOW + timedelta(microseconds=999)), HERE, 10)


async def test_a_replay_may_have_been_judged(event: Event) -> None:
    watch, asked = recall()
    assert await watch.may_know(event, HERE, 99)
    assert await watch.may_know(event, TP("elsewhere", 0), 10)
    assert not asked


async def test_a_partition_is_asked_for_once_each_time_that_it_comes(event: Event) -> None:
    watch, asked = recall(Known(-1, None), Known(12, None))
    assert not await watch.may_know(event, HERE, 10)
    assert not await watch.may_know(replace(event, offset=11), HERE, 11)
    assert asked == [(HERE, 10)]
    watch.assigned([HERE])
    assert await watch.may_know(replace(event, offset=12), HERE, 12)
    assert asked == [(HERE, 10), (HERE, 12)]
