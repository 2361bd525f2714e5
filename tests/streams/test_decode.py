"""From a Kafka message to an event, or to a dead letter that says why."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from faust.types.tuples import ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from streams.decode import Event, decode
from streams.errors import DeadLetter, Reason
from streams.identity import event_row_id, offset_row_id

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GetMessage = Callable[..., ConsumerMessage]


def refused(message: ConsumerMessage) -> DeadLetter:
    with pytest.raises(DeadLetter) as caught:
        decode(message, now=NOW)
    return caught.value


BAD: dict[str, tuple[Reason, bytes | None]] = {
    "tombstone": (Reason.NO_VALUE, None),
    "nothing": (Reason.NOT_JSON, b""),
    "words": (Reason.NOT_JSON, b"hello"),
    "half": (Reason.NOT_JSON, b'{"text": "hel'),
    "two values": (Reason.NOT_JSON, b'{"text": "a"} {"text": "b"}'),
    "byte order mark": (Reason.NOT_JSON, b'\xef\xbb\xbf{"text": "a"}'),
    "raw control character": (Reason.NOT_JSON, b'{"text": "a\x00b"}'),
    "lone surrogate": (Reason.NOT_JSON, rb'{"text": "\ud800"}'),
    "lone low surrogate": (Reason.NOT_JSON, rb'{"text": "\udc00 and on"}'),
    "lone surrogate in an unknown field": (Reason.NOT_JSON, rb'{"text": "a", "mood": "\ud800"}'),
    "deep": (Reason.NOT_JSON, b"[" * 100_000),
    "a number of 5000 digits": (Reason.NOT_JSON, b'{"text": "a", "n": ' + b"1" * 5000 + b"}"),
    "Latin-1": (Reason.NOT_UTF8, '{"text": "é"}'.encode("latin-1")),
    "UTF-16": (Reason.NOT_UTF8, '{"text": "a"}'.encode("utf-16")),
    "surrogate in UTF-8": (Reason.NOT_UTF8, b'{"text": "\xed\xa0\x80"}'),
    "cut in a character": (Reason.NOT_UTF8, '{"text": "é'.encode()[:-1]),
    "array": (Reason.WRONG_FIELD, b'[{"text": "a"}]'),
    "number": (Reason.WRONG_FIELD, b"17"),
    "not a number": (Reason.WRONG_FIELD, b"NaN"),
    "null": (Reason.WRONG_FIELD, b"null"),
    "string": (Reason.WRONG_FIELD, b'"hello"'),
    "no text": (Reason.EMPTY_TEXT, b"{}"),
    "text is null": (Reason.WRONG_FIELD, b'{"text": null}'),
    "text is a number": (Reason.WRONG_FIELD, b'{"text": 5}'),
    "text is a list": (Reason.WRONG_FIELD, b'{"text": ["a"]}'),
    "Text": (Reason.EMPTY_TEXT, b'{"Text": "a"}'),
    "id is a number": (Reason.WRONG_FIELD, b'{"text": "a", "id": 17}'),
    "id is long": (Reason.WRONG_FIELD, json.dumps({"text": "a", "id": "i" * 257}).encode()),
    "thread is null": (Reason.WRONG_FIELD, b'{"text": "a", "thread": null}'),
    "thread is long": (Reason.WRONG_FIELD, json.dumps({"text": "a", "thread": "t" * 257}).encode()),
    "author is true": (Reason.WRONG_FIELD, b'{"text": "a", "author": true}'),
    "lang is long": (Reason.WRONG_FIELD, json.dumps({"text": "a", "lang": "l" * 36}).encode()),
    "time without offset": (Reason.WRONG_FIELD, b'{"text": "a", "time": "2026-03-04T05:06:07"}'),
    "time is a day": (Reason.WRONG_FIELD, b'{"text": "a", "time": "2026-03-04"}'),
    "time is a number": (Reason.WRONG_FIELD, b'{"text": "a", "time": 1772600767}'),
    "time is words": (Reason.WRONG_FIELD, b'{"text": "a", "time": "yesterday"}'),
    "month 13": (Reason.WRONG_FIELD, b'{"text": "a", "time": "2026-13-04T05:06:07Z"}'),
    "empty": (Reason.EMPTY_TEXT, b'{"text": ""}'),
    "blank": (Reason.EMPTY_TEXT, b'{"text": " \\n\\t\\u00a0\\u2003"}'),
    "year 9999": (Reason.TIME_OUT_OF_RANGE, b'{"text": "a", "time": "9999-12-31T23:59:59Z"}'),
    "beyond year 9999": (Reason.TIME_OUT_OF_RANGE, b'{"text": "a", "time": "9999-12-31T23:59:59-01:00"}'),
    "year 1970": (Reason.TIME_OUT_OF_RANGE, b'{"text": "a", "time": "1970-01-01T00:00:00Z"}'),
    "year 1": (Reason.TIME_OUT_OF_RANGE, b'{"text": "a", "time": "0001-01-01T00:00:00+01:00"}'),
}


@pytest.mark.parametrize(("reason", "value"), BAD.values(), ids=BAD)
def test_a_bad_message_is_dead_for_its_reason(message: GetMessage, reason: Reason, value: bytes | None) -> None:
    error = refused(message(value))
    assert error.reason == reason
    assert str(error) == f"{reason}: {error.detail}"
    assert len(error.detail) < 300


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"id": 17, "lang": 3}, ["id: Input should be a valid string", "lang: "]),
        ([], ["message: Input should be an object"]),
        ({"text": "a", "time": "2026-03-04T05:06:07"}, ["time: Input should have timezone info"]),
    ],
)
def test_the_detail_names_every_wrong_field(message: GetMessage, body: Any, detail: list[str]) -> None:
    found = refused(message(json.dumps(body).encode())).detail.split("; ")
    assert len(found) == len(detail)
    assert all(part.startswith(expected) for part, expected in zip(found, detail, strict=True))


def test_invalid_utf8_is_found_at_its_byte(message: GetMessage) -> None:
    assert refused(message(b'{"text": "a\xff"}')).detail == "invalid UTF-8 at byte 11"


@pytest.mark.parametrize(
    "value",
    [
        b'{"text": "hush" 1}',
        b'{"text": "hush"',
        b'{"hush": "hush"}',
        b'{"text": ["hush"]}',
        b'{"text": "hush", "time": "hush"}',
        b'{"text": "hush", "id": {"hush": 1}}',
        b'{"text": "hush", "lang": "hush' + b"h" * 50 + b'"}',
        b'{"text": "hush\xff"}',
        b'{"text": "hush", "time": "1980-01-01T00:00:00Z"}',
        b'"hush"',
    ],
)
def test_no_detail_quotes_the_message(message: GetMessage, value: bytes) -> None:
    assert "hush" not in str(refused(message(value)))


def test_everything_that_a_message_may_carry(message: GetMessage) -> None:
    body = {
        "text": "hello",
        "id": "e-1",
        "time": "2026-03-04T06:06:07.089+01:00",
        "thread": "t-1",
        "author": "ann",
        "lang": "pt-BR",
        "tenant": "acme",
    }
    headers = [("ce_source", b"/forum"), ("traceparent", b"00-1-2-01")]
    assert decode(message(body, headers=headers, key=b"t-1"), now=NOW) == Event(
        row_id=event_row_id(1_772_600_767_089, "/forum", "e-1"),
        identity=event_row_id(1_772_600_767_089, "/forum", "e-1"),
        text="hello",
        source="/forum",
        event_id="e-1",
        event_time=NOW,
        broker_time=NOW,
        topic="messages",
        partition=3,
        offset=41,
        key=b"t-1",
        thread="t-1",
        author="ann",
        lang="pt-BR",
        tenant="acme",
        traceparent="00-1-2-01",
    )


def test_text_is_all_that_a_message_needs(message: GetMessage) -> None:
    event = decode(message({"text": "hello"}), now=NOW)
    assert event.row_id == offset_row_id(1_772_600_767_089, "messages", 3, 41)
    assert (event.source, event.event_id, event.event_time) == ("messages", "", NOW)
    assert (event.thread, event.author, event.lang, event.tenant, event.traceparent) == ("", "", "", "", "")


@pytest.mark.parametrize("headers", [None, (), []])
def test_headers_may_be_missing(message: GetMessage, headers: Any) -> None:
    assert decode(message({"text": "hello"}, headers=headers), now=NOW).source == "messages"


def test_unknown_fields_are_ignored(message: GetMessage) -> None:
    body = {"text": "hello", "mood": "good", "nested": {"text": 5}, "": None}
    assert decode(message(body), now=NOW) == decode(message({"text": "hello"}), now=NOW)


@pytest.mark.parametrize("text", ["a\0b", "\x1b[31m\x07\x7f", " two \n lines ", "😀 שלום", "\u200b", "x" * 2**20])
def test_the_words_are_kept_as_they_are(message: GetMessage, text: str) -> None:
    assert decode(message({"text": text}), now=NOW).text == text


def test_a_pair_of_surrogates_is_a_character(message: GetMessage) -> None:
    assert decode(message(rb'{"text": "\ud83d\ude00"}'), now=NOW).text == "😀"


def test_headers_name_the_event(message: GetMessage) -> None:
    headers = [("ce_id", b"h-1"), ("ce_source", b"/forum"), ("ce_time", b"2026-03-04T05:06:00Z")]
    event = decode(message({"text": "hello"}, headers=headers), now=NOW)
    assert (event.event_id, event.source, event.event_time) == ("h-1", "/forum", NOW.replace(second=0, microsecond=0))
    assert event.row_id == event_row_id(1_772_600_760_000, "/forum", "h-1")
    assert event.broker_time == NOW


def test_the_body_wins_over_headers(message: GetMessage) -> None:
    headers = [("ce_id", b"h-1"), ("ce_time", b"2026-03-04T05:06:00Z")]
    body = {"text": "hello", "id": "e-1", "time": "2026-03-04T05:00:00Z"}
    event = decode(message(body, headers=headers), now=NOW)
    assert (event.event_id, event.event_time.minute) == ("e-1", 0)


def test_a_header_that_nobody_reads_may_be_anything(message: GetMessage) -> None:
    """The body has a time of its own, so that of the header does not matter."""
    body = {"text": "hello", "time": "2026-03-04T05:00:00Z"}
    assert decode(message(body, headers=[("ce_time", b"yesterday")]), now=NOW).event_time.minute == 0


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_id", b"\xff\xfe"), ("ce_source", b"\xff")],
        [("ce_id", None), ("ce_source", None), ("ce_time", None)],
        [("ce_id", b""), ("ce_source", b"")],
        [("id", b"h-1"), ("source", b"/forum"), ("CE_ID", b"h-1")],
        [("other", b"\xff\xfe"), ("", b"")],
    ],
)
def test_headers_that_say_nothing(message: GetMessage, headers: Any) -> None:
    event = decode(message({"text": "hello"}, headers=headers), now=NOW)
    assert event == decode(message({"text": "hello"}), now=NOW)


@pytest.mark.parametrize("time", [b"", b"yesterday", b"2026-03-04T05:06:07", b"nan", b"2026-03-04"])
def test_a_header_time_without_meaning(message: GetMessage, time: bytes) -> None:
    error = refused(message({"text": "hello"}, headers=[("ce_time", time)]))
    assert (error.reason, error.detail) == (
        Reason.WRONG_FIELD,
        "header ce_time is not an RFC 3339 time with offset",
    )


@pytest.mark.parametrize("time", [b"9999-12-31T23:59:59-01:00", b"0001-01-01T00:00:00+01:00", b"1970-01-01T00:00:00Z"])
def test_a_header_time_out_of_range(message: GetMessage, time: bytes) -> None:
    assert refused(message({"text": "hello"}, headers=[("ce_time", time)])).reason == Reason.TIME_OUT_OF_RANGE


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("time", "fits"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), True),
        (datetime(2000, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1), False),
        (NOW + DAY, True),
        (NOW + DAY + timedelta(milliseconds=1), False),
    ],
)
def test_the_range_of_times(message: GetMessage, time: datetime, fits: bool) -> None:
    sent = message({"text": "hello", "time": time.isoformat()})
    if fits:
        assert decode(sent, now=NOW).event_time == time
    else:
        assert refused(sent).reason == Reason.TIME_OUT_OF_RANGE


def test_now_is_the_clock(message: GetMessage) -> None:
    soon, late = datetime.now(UTC) + DAY / 2, datetime.now(UTC) + 2 * DAY
    assert decode(message({"text": "hello", "time": soon.isoformat()})).event_time == soon
    with pytest.raises(DeadLetter):
        decode(message({"text": "hello", "time": late.isoformat()}))


NO_TIMESTAMP = [None, -0.001, 2**62 / 1000, -(2**62) / 1000, float("nan"), float("inf")]


@pytest.mark.parametrize("timestamp", NO_TIMESTAMP)
def test_a_message_with_a_time_needs_no_timestamp(message: GetMessage, timestamp: Any) -> None:
    event = decode(message({"text": "hello", "time": NOW.isoformat()}, timestamp=timestamp), now=NOW)
    assert event.event_time == NOW
    assert event.broker_time == NOW


@pytest.mark.parametrize("timestamp", NO_TIMESTAMP)
def test_a_message_without_any_time_is_dead(message: GetMessage, timestamp: Any) -> None:
    assert refused(message({"text": "hello"}, timestamp=timestamp)).reason == Reason.TIME_OUT_OF_RANGE


@given(ms=st.integers(946_684_800_000, int(NOW.timestamp() * 1000)))
def test_an_id_has_the_very_millisecond_of_its_event(message: GetMessage, ms: int) -> None:
    time = EPOCH + timedelta(milliseconds=ms)
    by_broker = decode(message({"text": "hello"}, timestamp=ms / 1000), now=NOW)
    by_producer = decode(message({"text": "hello", "time": time.isoformat()}), now=NOW)
    assert by_broker.event_time == by_producer.event_time == time
    assert by_broker.row_id >> 80 == by_producer.row_id >> 80 == ms


def test_the_same_event_has_the_same_id_wherever_it_stands(message: GetMessage) -> None:
    body = {"text": "hello", "id": "e-1", "time": "2026-03-04T05:00:00Z"}
    source = [("ce_source", b"/forum")]
    first = decode(message(body, headers=source), now=NOW)
    again = decode(message(body | {"text": "edited"}, headers=source, topic="other", partition=0, offset=7), now=NOW)
    assert first.row_id == again.row_id
    assert first.identity == again.identity == first.row_id


def test_an_event_with_kafkas_time_is_known_by_its_name(message: GetMessage) -> None:
    first, again = (
        decode(message({"text": "hello", "id": "e-1"}, timestamp=NOW.timestamp() + late), now=NOW) for late in (0, 1)
    )
    assert first.row_id != again.row_id
    assert first.identity == again.identity == ("messages", "e-1")


@pytest.mark.parametrize("name", ["ce_id", "ce_source"])
def test_headers_that_would_make_every_verdict_long_are_refused(message: GetMessage, name: str) -> None:
    long = [(name, b"\x01" * 700_000)]
    assert refused(message({"text": "hello"}, headers=long)).reason == Reason.WRONG_FIELD
    assert decode(message({"text": "hello"}, headers=[(name, b"x" * 256)]), now=NOW)
    assert decode(message({"text": "hello"}, headers=[("traceparent", b"x" * 999)]), now=NOW).traceparent == ""


def test_other_events_have_other_ids(message: GetMessage) -> None:
    body = {"text": "hello", "id": "e-1"}
    events = [
        decode(message(body), now=NOW),
        decode(message(body | {"id": "e-2"}), now=NOW),
        decode(message(body, headers=[("ce_source", b"/forum")]), now=NOW),
        decode(message({"text": "hello"}), now=NOW),
        decode(message({"text": "hello"}, offset=42), now=NOW),
        decode(message({"text": "hello"}, partition=4), now=NOW),
        decode(message({"text": "hello"}, topic="other"), now=NOW),
    ]
    assert len({event.row_id for event in events}) == len(events)
    assert len({event.identity for event in events}) == len(events)


def origin(**fields: bytes | None) -> list[tuple[str, bytes | None]]:
    """Headers of a replay of the message at messages[1]@7, but for the fields given; None: left out."""
    said = {"topic": b"messages", "partition": b"1", "offset": b"7", "timestamp": b"1772600000000"} | fields
    return [(f"weir_origin_{name}", value) for name, value in said.items() if value is not None]


def test_a_replay_stands_where_the_first_one_stood(message: GetMessage) -> None:
    first = message({"text": "hello"}, partition=1, offset=7, timestamp=1_772_600_000.0)
    again = message({"text": "hello"}, headers=origin())
    event = decode(again, now=NOW)
    assert event == decode(first, now=NOW)
    assert (event.partition, event.offset, event.broker_time) == (1, 7, datetime(2026, 3, 4, 4, 53, 20, tzinfo=UTC))
    assert event.identity == event.row_id
    assert event.row_id == offset_row_id(1_772_600_000_000, "messages", 1, 7)


def test_a_replay_with_an_id_and_no_time_has_the_first_time(message: GetMessage) -> None:
    event = decode(message({"text": "hello", "id": "e-1"}, headers=origin()), now=NOW)
    assert event.row_id == event_row_id(1_772_600_000_000, "messages", "e-1")


def test_a_replay_of_a_message_without_timestamp_has_none(message: GetMessage) -> None:
    headers = origin(timestamp=None)
    assert refused(message({"text": "hello"}, headers=headers)).reason == Reason.TIME_OUT_OF_RANGE
    event = decode(message({"text": "hello", "time": "2026-03-04T05:00:00Z"}, headers=headers), now=NOW)
    assert (event.offset, event.broker_time) == (7, event.event_time)


@pytest.mark.parametrize(
    "fields",
    [
        {"topic": None},
        {"topic": b"other"},
        {"topic": b"\xff"},
        {"partition": None},
        {"partition": b"-1"},
        {"partition": str(2**31).encode()},
        {"partition": b"1.0"},
        {"offset": None},
        {"offset": b""},
        {"offset": b"007"},
        {"offset": b"7\n"},
        {"offset": str(2**63).encode()},
        {"offset": b"9" * 5000},
        {"timestamp": b"-1"},
        {"timestamp": b"now"},
        {"timestamp": b"1e3"},
    ],
)
def test_an_origin_that_is_none_is_ignored(message: GetMessage, fields: dict[str, bytes | None]) -> None:
    event = decode(message({"text": "hello"}, headers=origin(**fields)), now=NOW)
    assert event == decode(message({"text": "hello"}), now=NOW)


headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_source", "ce_time", "traceparent", "x", *(name for name, _ in origin())]),
        st.none()
        | st.sampled_from([value for _, value in origin()])
        | st.binary()
        | st.datetimes(timezones=st.timezones()).map(lambda time: time.isoformat().encode()),
    ),
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
bodies = st.dictionaries(
    st.sampled_from(["text", "id", "time", "thread", "author", "lang", "tenant", "x"]),
    st.text() | json_values | st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
)
values = st.binary() | bodies.map(lambda body: json.dumps(body).encode())
timestamps = st.none() | st.integers(-(2**63), 2**63 - 1).map(lambda ms: ms / 1000)


@given(value=st.none() | values, headers=headers, timestamp=timestamps)
def test_whatever_comes_is_an_event_or_a_dead_letter(
    message: GetMessage, value: bytes | None, headers: Any, timestamp: float | None
) -> None:
    try:
        event = decode(message(value, headers=headers, timestamp=timestamp), now=NOW)
    except DeadLetter as error:
        assert error.detail  # noqa: PT017  nothing else may be raised, and either way is fine
        error.detail.encode()
    else:
        assert uuid.UUID(int=event.row_id).version == 7
        assert event.text.strip()
        assert event.event_time.tzinfo is event.broker_time.tzinfo is UTC
