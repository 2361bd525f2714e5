"""Written calls as their turns are published."""

from datetime import UTC, datetime
from typing import Any

import pytest

from streams.records import TextMessage
from streams.turns import turns_of

BEGAN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize("name", [{"call": "c-1", "id": 7}, {"id": "c-1"}])
def test_a_call_becomes_its_turns(name: dict[str, Any]) -> None:
    said = [{"speaker": "customer", "text": "How far?"}, {"speaker": "agent", "text": "15 miles."}]
    call = name | {"turns": said, "lang": "en", "tenant": "acme", "documents": ["page-1"], "labels": [1]}
    found = list(turns_of(call, BEGAN))
    both = {"thread": "c-1", "lang": "en", "tenant": "acme", "documents": ["page-1"]}
    assert found == [
        both
        | {
            "id": "c-1/0",
            "text": "How far?",
            "time": "2026-03-04T05:06:07.000Z",
            "author": "customer",
            "turn": 0,
            "final": False,
        },
        both
        | {
            "id": "c-1/1",
            "text": "15 miles.",
            "time": "2026-03-04T05:06:13.000Z",
            "author": "agent",
            "turn": 1,
            "final": True,
        },
    ]


def test_they_are_messages_of_the_topic() -> None:
    (only,) = turns_of({"id": "c-1", "turns": [{"speaker": "agent", "text": "Hello."}]}, BEGAN)
    message = TextMessage.model_validate({**only, "time": BEGAN, "documents": tuple(only["documents"])})
    assert (message.turn, message.final, message.documents, message.lang) == (0, True, (), "")


def test_a_call_without_turns_is_no_message() -> None:
    assert list(turns_of({"id": "c-1", "turns": []}, BEGAN)) == []
