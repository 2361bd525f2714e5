"""A row that waits keeps its identity and everything that it came with."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from streams import deferral
from streams.decode import decode
from streams.deferral import Deferral

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TOMORROW = Deferral("watch/judge", datetime(2026, 3, 5, tzinfo=UTC))

GetMessage = Callable[..., Any]


def test_a_row_that_waited_is_the_row_that_it_was(message: GetMessage) -> None:
    first = message({"text": "hello"}, headers=[("own", b"x"), ("traceparent", b"00-1-2-01")])
    again = message(
        {"text": "hello"},
        topic="messages.deferred",
        partition=7,
        offset=900,
        timestamp=NOW.timestamp() + 3600,
        headers=deferral.headers(first, TOMORROW),
    )
    assert decode(again, NOW) == decode(first, NOW)
    assert ("own", b"x") in again.headers
    assert deferral.read(again.headers) == TOMORROW


def test_a_row_that_waits_again_says_only_until_when_now(message: GetMessage) -> None:
    first = message({"text": "hello"})
    once = message({"text": "hello"}, topic="messages.deferred", offset=1, headers=deferral.headers(first, TOMORROW))
    later = Deferral("watch/judge", datetime(2026, 3, 6, tzinfo=UTC))
    twice = deferral.headers(once, later)
    assert deferral.read(twice) == later
    assert sorted(name for name, _ in twice) == sorted({name for name, _ in twice})
    assert dict(twice)["weir_origin_topic"] == b"messages"
    assert dict(twice)["weir_deferred_until"] == b"2026-03-06T00:00:00.000Z"


def test_the_topic_of_rows_that_wait_speaks_for_its_own_source_only(message: GetMessage) -> None:
    headers = deferral.headers(message({"text": "hello"}), TOMORROW)
    forged = message({"text": "hello"}, topic="tickets.deferred", offset=900, headers=headers)
    assert (decode(forged, NOW).topic, decode(forged, NOW).offset) == ("tickets.deferred", 900)


@pytest.mark.parametrize("until", [None, b"", b"soon", b"2026-03-05T00:00:00", b"\xff"])
def test_what_no_deferral_says_is_none(until: bytes | None) -> None:
    assert deferral.read([("weir_deferred_stage", b"watch/judge"), ("weir_deferred_until", until)]) is None
    assert deferral.read(None) is None
