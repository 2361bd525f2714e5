"""A message that is judged anew is the event that it was."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import asdict

from sinks.judged_messages import StoredMessage
from streams import deferral, dlq
from streams.decode import Event, decode
from streams.errors import DeadLetter, Reason
from streams.rerun_message import Rebuilt, rebuild
from streams.verdicts import source_row

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
ASKED = NOW + timedelta(days=3)

GetMessage = Callable[..., Any]


def stored(event: Event) -> StoredMessage:
    row = source_row(event, NOW)._asdict()
    return StoredMessage(verdict=7, **{name: row[name] for name in StoredMessage.__slots__ if name in row})


def again(get_message: GetMessage, rebuilt: Rebuilt, **fields: Any) -> Any:
    """The message as Kafka gives it."""
    place = {"offset": 99, "partition": rebuilt.partition, "timestamp": ASKED.timestamp()} | fields
    return get_message(rebuilt.value, key=rebuilt.key, headers=rebuilt.headers, **place)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({"text": "words"}, {}),
        ({"text": "words", "id": "e-1"}, {}),
        ({"text": "words", "id": "e-1", "time": NOW.isoformat()}, {"headers": [("ce_source", b"/forum")]}),
        ({"text": "words"}, {"headers": [("ce_id", "é".encode()), ("ce_time", b"2026-03-04T05:06:07.001Z")]}),
        ({"text": "w\x1bé\n", "thread": "t", "author": "ann", "lang": "pt-BR", "tenant": "acme"}, {"key": b"t"}),
        ({"text": "words", "thread": "t"}, {"key": b"another"}),
        ({"text": "words", "thread": "t"}, {"key": b"\xff\x00"}),
        ({"text": "words", "thread": "t"}, {"key": None}),
        ({"text": "words"}, {"key": b"alone"}),
        ({"text": "words", "documents": ["d-1", "d-2"], "context": ["before", "that"], "turn": 0}, {}),
    ],
)
def test_it_has_the_identity_and_the_words(message: GetMessage, value: Any, fields: Any) -> None:
    event = decode(message(value, **fields), now=NOW)
    found = decode(again(message, rebuild(stored(event), "watch/judge", ())), now=ASKED)
    assert found.rerun is not None
    assert (found.rerun.stage, found.rerun.asked, found.rerun.read_with) == ("watch/judge", ASKED, ())
    of_the_message = {"rerun", "identity", "traceparent"}
    told, before = ({k: v for k, v in asdict(each).items() if k not in of_the_message} for each in (found, event))
    assert told == before
    assert source_row(found, NOW) == source_row(event, NOW)


def test_what_was_read_with_it_comes_along(message: GetMessage) -> None:
    event = decode(message({"text": "words", "context": ["own"]}), now=NOW)
    found = decode(again(message, rebuild(stored(event), "watch/judge", [(5, "first"), (6, "then")])), now=ASKED)
    assert found.rerun is not None
    assert found.context == ("own",)
    assert found.rerun.read_with == ((5, "first"), (6, "then"))


@pytest.mark.parametrize("rows", [b"no rows", b"\xff", b"," * 10, b""])
def test_headers_that_say_nothing(message: GetMessage, rows: bytes) -> None:
    event = decode(message({"text": "words", "context": ["own"]}), now=NOW)
    rebuilt = rebuild(stored(event), "watch/judge", ())
    made = again(message, rebuilt, timestamp=float("nan"))
    made.headers = [*rebuilt.headers, ("weir_rerun_context", rows)]
    found = decode(made, now=ASKED)
    assert found.rerun is not None
    assert (found.context, found.rerun.read_with) == (("own",), ())
    assert found.rerun.asked.tzinfo is not None


def test_a_message_of_a_producer_names_no_stage(message: GetMessage) -> None:
    assert decode(message({"text": "words"}, headers=[("weir_rerun", b"watch/judge")]), now=NOW).rerun is None


def test_a_message_that_waits_or_dies_is_still_for_that_stage(message: GetMessage) -> None:
    event = decode(message({"text": "words"}), now=NOW)
    made = again(message, rebuild(stored(event), "watch/judge", [(5, "before")]))
    waits = deferral.headers(made, deferral.Deferral("watch/judge", ASKED))
    waited = decode(message(made.value, topic="messages.deferred", headers=waits), now=ASKED)
    letter = dlq.letter(made, DeadLetter(Reason.PROMPT_REJECTED, "no"), "watch/judge", ASKED)
    found = dlq.read("messages", letter.headers)
    assert isinstance(found, dlq.Letter)
    replayed = decode(message(made.value, headers=dlq.replay_headers(found, letter.headers)), now=ASKED)
    for each in (waited, replayed):
        assert each.rerun is not None
        assert (each.rerun.stage, each.rerun.read_with) == ("watch/judge", ((5, "before"),))
        assert (each.row_id, each.offset) == (event.row_id, event.offset)
