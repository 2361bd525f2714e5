"""CloudEvents as Kafka headers, both ways."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.cloudevents import attributes, headers, rfc3339

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)


def test_an_event_has_the_headers_of_the_binding() -> None:
    assert headers(id="e-1", source="/forum", type="t.v1", time=NOW, subject="s", extra={"traceparent": "00-1"}) == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e-1"),
        ("ce_source", b"/forum"),
        ("ce_type", b"t.v1"),
        ("ce_time", b"2026-03-04T05:06:07.089Z"),
        ("ce_subject", b"s"),
        ("traceparent", b"00-1"),
        ("content-type", b"application/json"),
    ]


def test_an_empty_subject_is_left_out() -> None:
    """The specification says that a subject must not be empty."""
    names = [name for name, _ in headers(id="e-1", source="/forum", type="t.v1", time=NOW)]
    assert names == ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"]


def test_attributes_lose_their_prefix_and_others_are_left_out() -> None:
    found = attributes(
        [
            ("ce_id", b"e-1"),
            ("ce_subject", "é".encode()),
            ("traceparent", b"00-1"),
            ("content-type", b"application/json"),
            ("id", b"other"),
            ("CE_time", b"now"),
            ("ce_source", b"\xff"),
            ("ce_type", None),
        ]
    )
    assert found == {"id": "e-1", "subject": "é", "traceparent": "00-1"}


def test_of_two_headers_the_last_counts() -> None:
    assert attributes([("ce_id", b"one"), ("ce_id", b"two")]) == {"id": "two"}


def test_no_headers() -> None:
    assert attributes(None) == attributes([]) == {}


@given(st.text(), st.text(), st.text(min_size=1))
def test_what_is_written_can_be_read(id: str, source: str, subject: str) -> None:
    found = attributes(headers(id=id, source=source, type="t.v1", time=NOW, subject=subject))
    assert (found["id"], found["source"], found["subject"]) == (id, source, subject)


@given(st.lists(st.tuples(st.text(), st.none() | st.binary())))
def test_whatever_headers_hold_can_be_read(given: list[tuple[str, bytes | None]]) -> None:
    assert all(isinstance(value, str) for value in attributes(given).values())


def test_times_have_milliseconds_and_a_z() -> None:
    assert rfc3339(datetime(2026, 11, 22, 9, 30, tzinfo=UTC)) == "2026-11-22T09:30:00.000Z"
    assert rfc3339(datetime(2026, 11, 22, 9, 30, 0, 999_999, tzinfo=UTC)) == "2026-11-22T09:30:00.999Z"


@pytest.mark.parametrize("order", [1, -1])
def test_who_sent_a_message_goes_before_where_its_trace_began(order: int) -> None:
    both = [("traceparent", b"00-sent"), ("ce_traceparent", b"00-began")][::order]
    assert attributes(both) == {"traceparent": "00-sent"}
    assert attributes([("ce_traceparent", b"00-began")]) == {"traceparent": "00-began"}
