"""Dead letters as messages: what their headers say, that a replay keeps the identity, and which are open."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faust.types.tuples import ConsumerMessage
from hypothesis import given
from hypothesis import strategies as st

from streams import dlq
from streams.asyncapi import document
from streams.decode import decode
from streams.dlq import Action, Letter, Position, Resolution
from streams.dlq_entries import Filter, Fold
from streams.errors import DeadLetter, Reason
from streams.origin import Origin
from streams.pipeline import load_all

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
NOW_MS = 1_772_600_767_089
ERROR = DeadLetter(Reason.NOT_JSON, "no JSON")

GetMessage = Callable[..., ConsumerMessage]


def dead(message: ConsumerMessage, **fields: Any) -> Any:
    error = DeadLetter(ERROR.reason, ERROR.detail, fields.pop("attempts", 0))
    return dlq.headers(message, error, fields.pop("stage", "moderation/judge"), fields.pop("now", NOW), **fields)


def letter(message: ConsumerMessage, **fields: Any) -> Letter:
    found = dlq.read(message.topic, dead(message, **fields))
    assert isinstance(found, Letter)
    return found


def replayed(message: ConsumerMessage, get: GetMessage, value: Any = None, **fields: Any) -> ConsumerMessage:
    """The message as Kafka has it after it was dead-lettered and replayed, somewhere else and later."""
    headers = dead(message)
    found = dlq.read(message.topic, headers)
    assert isinstance(found, Letter)
    given: dict[str, Any] = {"offset": message.offset + 100, "timestamp": NOW.timestamp() + 3600, "partition": 0}
    return get(
        message.value if value is None else value,
        topic=message.topic,
        key=message.key,
        headers=dlq.replay_headers(found, headers),
        **(given | fields),
    )


def test_a_dead_letter_has_its_own_headers_and_then_the_reason(message: GetMessage) -> None:
    own = [("ce_id", b"e-1"), ("twice", b"1"), ("twice", b"\xff"), ("none", None)]
    assert dead(message(b"{", headers=own), attempts=3) == [
        *own,
        ("weir_dlq_reason", b"not_json"),
        ("weir_dlq_detail", b"no JSON"),
        ("weir_dlq_topic", b"messages"),
        ("weir_dlq_partition", b"3"),
        ("weir_dlq_offset", b"41"),
        ("weir_dlq_timestamp", str(NOW_MS).encode()),
        ("weir_dlq_pipeline", b"moderation/judge"),
        ("weir_dlq_time", b"2026-03-04T05:06:07.089Z"),
        ("weir_dlq_attempts", b"3"),
    ]


def test_what_is_not_known_is_left_out(message: GetMessage) -> None:
    for timestamp in (None, -0.001, float("nan"), float("inf"), 2.0**63):
        names = [name for name, _ in dead(message(b"{", timestamp=timestamp, headers=None))]
        assert names == [f"weir_dlq_{name}" for name in ("reason", "detail", *PLACE, "pipeline", "time")]


PLACE = ("topic", "partition", "offset")


def test_headers_are_read_as_they_were_written(message: GetMessage) -> None:
    assert letter(message(b"{"), attempts=2) == Letter(
        Origin("messages", 3, 41, NOW_MS), "not_json", "no JSON", "moderation/judge", NOW, 2
    )


def test_a_detail_that_is_no_text_does_not_stop_the_worker(message: GetMessage) -> None:
    headers = dlq.headers(message(b"{"), DeadLetter(Reason.PROMPT_REJECTED, "engine: \ud800"), "a/b", NOW)
    assert dict(headers)["weir_dlq_detail"] == b"engine: \\ud800"


def test_headers_that_a_producer_made_up_are_not_carried_along(message: GetMessage) -> None:
    forged = [
        ("weir_dlq_action", b"dropped"),
        ("weir_dlq_entry", b"0:0"),
        ("weir_dlq_topic", b"secrets"),
        ("weir_dlq_replays", b"7"),
        ("weir_origin_topic", b"secrets"),
        ("weir_origin_partition", b"1"),
        ("weir_origin_offset", b"2"),
        ("own", b"1"),
    ]
    honest = dead(message(b"{", headers=[("own", b"1")]))
    assert dead(message(b"{", headers=forged)) == honest


def test_a_replay_names_its_origin(message: GetMessage) -> None:
    first = message(b"{", headers=[("ce_id", b"e-1")], key=b"k")
    again = replayed(first, message)
    assert list(again.headers) == [
        ("ce_id", b"e-1"),
        ("weir_origin_topic", b"messages"),
        ("weir_origin_partition", b"3"),
        ("weir_origin_offset", b"41"),
        ("weir_origin_timestamp", str(NOW_MS).encode()),
        ("weir_dlq_replays", b"1"),
    ]


def test_a_replay_that_dies_again_is_told_by_its_count_only(message: GetMessage) -> None:
    first = message(b"{", headers=[("ce_id", b"e-1")])
    second = replayed(first, message)
    third = replayed(second, message)
    origins = [letter(found).origin for found in (first, second, third)]
    assert origins == [Origin("messages", 3, 41, NOW_MS, count) for count in range(3)]
    assert [name for name, _ in third.headers] == [name for name, _ in second.headers]


def test_a_replay_of_a_message_without_a_timestamp_has_none_either(message: GetMessage) -> None:
    """Else it would have another row id each time."""
    first = message({"text": "hello"}, timestamp=None)
    again = replayed(first, message)
    with pytest.raises(DeadLetter, match="time_out_of_range"):
        decode(again, now=NOW)


values = st.fixed_dictionaries(
    {"text": st.text(min_size=1).map(lambda text: f"a{text}")},
    optional={
        "id": st.text(max_size=20),
        "time": st.datetimes(datetime(2001, 1, 1), datetime(2026, 1, 1)).map(lambda time: f"{time.isoformat()}Z"),  # noqa: DTZ001
        "thread": st.text(max_size=5),
    },
)
own_headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_source", "traceparent", "x", "weir_dlq_offset", "weir_origin_offset"]),
        st.none() | st.binary(max_size=10) | st.sampled_from([b"/forum", b"e-1", b"7"]),
    ),
    max_size=5,
)


@given(
    value=values,
    headers=own_headers,
    topic=st.sampled_from(["messages", "a.b-c_d"]),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 101),
    timestamp_ms=st.integers(946_684_800_000, NOW_MS),
    again=st.integers(1, 3),
)
def test_a_replay_is_the_same_event(
    message: GetMessage,
    value: Any,
    headers: Any,
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
    again: int,
) -> None:
    first = message(
        value, headers=headers, topic=topic, partition=partition, offset=offset, timestamp=timestamp_ms / 1000
    )
    last = first
    for _ in range(again):
        last = replayed(last, message, offset=5)
    event = decode(first, now=NOW)
    assert decode(last, now=NOW) == event
    assert (event.topic, event.partition, event.offset) == (topic, partition, offset)


@pytest.mark.parametrize(
    ("text", "expected"), [("0:0", Position(0, 0)), ("3:1041", Position(3, 1041)), ("7:9007199254740993", None)]
)
def test_positions(text: str, expected: Position | None) -> None:
    found = Position.parse(text)
    assert str(found) == text
    assert expected in (None, found)


@pytest.mark.parametrize(
    "text", ["", ":", "3", "3:", ":3", "a:1", "-1:2", "1:-2", "1:2:3", "01:2", "1: 2", "٣:1", "1:9" * 9]
)
def test_no_positions(text: str) -> None:
    with pytest.raises(ValueError, match="is no position"):
        Position.parse(text)


@pytest.mark.parametrize(("given", "source"), [("messages", "messages"), ("messages.dlq", "messages"), ("a.b", "a.b")])
def test_both_names_of_a_topic(given: str, source: str) -> None:
    assert dlq.source_of(given) == source


@pytest.mark.parametrize(
    "changed",
    [
        {"topic": b"other"},
        {"topic": None},
        {"partition": b"x"},
        {"offset": b"-1"},
        {"offset": str(2**63).encode()},
        {"action": b"eaten", "entry": b"0:1"},
        {"action": b"dropped", "entry": b"here"},
        {"action": b"dropped"},
        {"action": None},
    ],
)
def test_a_record_of_somebody_else(message: GetMessage, changed: dict[str, bytes | None]) -> None:
    headers = dict(dead(message(b"{"))) | {f"weir_dlq_{name}": value for name, value in changed.items()}
    assert dlq.read("messages", headers.items()) is None


def test_headers_that_nobody_can_read_are_told_as_they_are(message: GetMessage) -> None:
    headers = dict(dead(message(b"{"))) | {
        "weir_dlq_reason": b"\xff",
        "weir_dlq_time": b"noon",
        "weir_dlq_attempts": b"many",
        "weir_dlq_replays": b"-1",
    }
    found = dlq.read("messages", headers.items())
    assert isinstance(found, Letter)
    assert (found.reason, found.time, found.attempts, found.origin.replays) == ("\\xff", None, 0, 0)


def test_a_resolution_says_what_it_settles() -> None:
    settled = Resolution(Position(3, 1041), Action.REPLAYED)
    headers = dlq.resolution_headers(settled, NOW)
    assert headers == [
        ("weir_dlq_action", b"replayed"),
        ("weir_dlq_entry", b"3:1041"),
        ("weir_dlq_time", b"2026-03-04T05:06:07.089Z"),
    ]
    assert dlq.read("messages", headers) == settled


def test_the_described_headers_are_those_that_are_sent(message: GetMessage, shipped: Path) -> None:
    described = document(load_all([shipped]))["components"]["messages"]

    def names(kind: str) -> set[str]:
        return {name for name in described[kind]["headers"]["properties"] if name.startswith("weir_")}

    again = replayed(message(b"{"), message)
    assert names("deadLetter") == {name for name, _ in dead(again, attempts=1) if name.startswith("weir_")}
    assert names("textMessage") == {name for name, _ in again.headers}
    resolution = dlq.resolution_headers(Resolution(Position(0, 0), Action.DROPPED), NOW)
    assert names("resolution") == {name for name, _ in resolution}


class Topic:
    """Records of a dead-letter topic, put where the test says."""

    def __init__(self) -> None:
        self.fold = Fold("messages")

    def die(self, position: str, message: ConsumerMessage, **fields: Any) -> None:
        self.fold.add(Position.parse(position), dead(message, **fields), message.value)

    def settle(self, position: str, entry: str, action: Action = Action.DROPPED) -> None:
        self.fold.add(
            Position.parse(position), dlq.resolution_headers(Resolution(Position.parse(entry), action), NOW), None
        )

    def states(self) -> dict[str, str | None]:
        return {str(entry.position): entry.action for entry in self.fold.entries()}


def test_what_has_no_resolution_is_open(message: GetMessage) -> None:
    topic = Topic()
    for offset in range(3):
        topic.die(f"0:{offset}", message(b"{", offset=offset))
    topic.die("1:0", message(None, offset=3))
    topic.settle("0:3", "0:1", Action.REPLAYED)
    topic.settle("1:1", "1:0")
    topic.settle("1:2", "1:77")
    assert topic.states() == {"0:0": None, "0:1": "replayed", "0:2": None, "1:0": "dropped"}
    assert topic.fold.strangers == 0


def test_copies_are_one_entry_and_settled_together(message: GetMessage) -> None:
    topic = Topic()
    once = message(b"{")
    topic.die("1:5", once, now=NOW + timedelta(seconds=2))
    topic.die("0:1", once, now=NOW)
    topic.die("0:2", message(b"{", offset=42), now=NOW + timedelta(seconds=1))
    topic.die("0:3", once, now=NOW + timedelta(seconds=1))
    assert topic.states() == {"0:1": None, "0:2": None}
    assert topic.fold.entries()[0].copies == (Position(0, 1), Position(0, 3), Position(1, 5))
    topic.settle("0:4", "0:3")
    assert topic.states() == {"0:1": "dropped", "0:2": None}
    topic.die("0:5", once)  # the worker had not committed
    assert topic.states() == {"0:1": "dropped", "0:2": None}


def test_each_stage_that_gave_a_message_up_has_an_entry(message: GetMessage) -> None:
    topic = Topic()
    topic.die("0:0", message(b"{"), stage="moderation/judge")
    topic.settle("0:1", "0:0")
    topic.die("0:2", message(b"{"), stage="triage/sort")
    assert topic.states() == {"0:0": "dropped", "0:2": None}


def test_a_replay_that_dies_again_is_open_again(message: GetMessage) -> None:
    topic = Topic()
    first = message(b"{")
    topic.die("0:0", first)
    topic.settle("0:1", "0:0", Action.REPLAYED)
    again = replayed(first, message)
    topic.die("0:2", again)
    topic.die("0:3", replayed(first, message, offset=900))  # the replay was interrupted, and done again
    assert topic.states() == {"0:0": "replayed", "0:2": None}


def test_records_of_others_are_counted(message: GetMessage) -> None:
    topic = Topic()
    topic.fold.add(Position(0, 0), [("own", b"1")], b"{}")
    topic.die("0:1", message(b"{", topic="other"))
    assert topic.states() == {}
    assert topic.fold.strangers == 2


@pytest.mark.parametrize(
    ("value", "headers", "ids"),
    [
        (b'{"id": "b-1"}', [("ce_id", b"h-1")], ("b-1", "h-1")),
        (b'{"id": "b-1"}', [("ce_id", b"b-1")], ("b-1",)),
        (b'{"id": 17}', [], ("17",)),
        (b'{"id": ["x"]}', [], ()),
        (b'{"id": "b-1"', [("ce_id", b"h-1")], ("h-1",)),
        (b"[1]", [("ce_id", b"\xff")], ()),
        (b"[" * 100_000, [], ()),
        (None, [], ()),
        (json.dumps({"id": "i" * 1000}).encode(), [], ("i" * 256,)),
    ],
)
def test_ids_of_the_event(message: GetMessage, value: bytes | None, headers: Any, ids: tuple[str, ...]) -> None:
    topic = Topic()
    topic.die("0:0", message(value, headers=headers))
    assert topic.fold.entries()[0].event_ids == ids


def test_filters(message: GetMessage) -> None:
    topic = Topic()
    topic.die("0:0", message({"id": "e-1"}, headers=[("ce_id", b"h-1")]))
    entry = topic.fold.entries()[0]
    second = timedelta(seconds=1)
    for meant in (
        Filter(),
        Filter(reasons=frozenset({"not_json", "no_value"})),
        Filter(ids=frozenset({"e-1"})),
        Filter(ids=frozenset({"h-1", "x"})),
        Filter(since=NOW),
        Filter(until=NOW + second),
        Filter(frozenset({"not_json"}), NOW - second, NOW + second, frozenset({"h-1"})),
    ):
        assert meant.meets(entry), meant
        assert meant.empty == (meant == Filter())
    for other in (
        Filter(reasons=frozenset({"no_value"})),
        Filter(ids=frozenset({"e"})),
        Filter(since=NOW + second),
        Filter(until=NOW),
        Filter(frozenset({"not_json"}), ids=frozenset({"x"})),
    ):
        assert not other.meets(entry), other
    timeless = replace(entry, letter=replace(entry.letter, time=None))
    assert Filter().meets(timeless)
    assert not Filter(since=NOW).meets(timeless)
