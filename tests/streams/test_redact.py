"""Addresses and numbers of people leave a text, and nothing else does."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline
from streams.redact import Redactor, redactor_of

ALL = Redactor(["email", "phone", "card"], ["US", "DE"])
CARDS = ["4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "3530111333300000"]
PIECES = st.sampled_from(
    [*CARDS, "ann@example.org", "+1 202-555-0143", "@", ".", "-", " ", "+", "(", "4", "１", "x", "é"]
)


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to ann.b+c@mail.example.org.", "write to [email]."),
        ("<ANN@EXAMPLE.CO.UK>,bob@a.de", "<[email]>,[email]"),
        ("jürgen@müller.de", "[email]"),
        ("call +49 30 901820 or +1 (202) 555-0143!", "call [phone] or [phone]!"),
        ("ring me: (202) 555-0143", "ring me: [phone]"),
        ("Tel. 030 901820", "Tel. [phone]"),
        ("card 4111 1111 1111 1111, thanks", "card [card], thanks"),
        ("3782-822463-10005", "[card]"),
        ("on 2026-11-23 4111 1111 1111 1111", "on 2026-11-23 [card]"),
        ("４１１１１１１１１１１１１１１１", "[card]"),
        ("5555555555554444 and 6011111111111117", "[card] and [card]"),
        ("ann@example.org +4930901820 4111111111111111", "[email] [phone] [card]"),
    ],
)
def test_found(text: str, redacted: str) -> None:
    assert ALL.text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "at 10:30 on 2026-11-23, or 23.11.2026",
        "order 4111111111111112",  # the check digit is wrong
        "order 1234567890123452",  # it is right, but nobody issues such cards
        "41111111111111111111111111",  # a card in the middle of a longer number
        "invoice 20261123-0042, 17 items, 1,299.00 USD",
        "me@home, @ann, a@b, price@1.99, user@localhost",
        "pi is 3.14159265358979",
        "192.168.10.254 and 10.0.0.1:8080",
        "v1.2.3-rc.4, 100 000 000 km",
        "uuid 019cb73d-3271-7597-86b6-da06e2c252b7",
        "",
    ],
)
def test_left_alone(text: str) -> None:
    assert ALL.text(text) == text


def test_only_what_is_asked_for() -> None:
    text = "ann@example.org +4930901820 4111111111111111"
    assert Redactor(["card"]).text(text) == "ann@example.org +4930901820 [card]"
    assert Redactor(["phone"]).text("030 901820, +49 30 901820") == "030 901820, [phone]"


@settings(max_examples=50, deadline=None)
@given(st.text() | st.lists(PIECES, max_size=200).map("".join))
def test_any_text_twice_is_as_once(text: str) -> None:
    once = ALL.text(text)
    assert ALL.text(once) == once or "[" in text
    for card in CARDS:
        assert f" {card} " not in f" {once} "


@pytest.mark.parametrize(
    "piece", ["a", "a.", "@", "a@", "a@b.", "1", "1 ", "+1", "(1", "1-", "a1@", "4 1-", "１", "+1 202 555 0143 "]
)
def test_hostile_text_takes_no_longer_than_its_length(piece: str) -> None:
    """A quadratic step would take hours for this."""
    ALL.text(piece * (200_000 // len(piece)))


def test_past_a_number_of_numbers_what_looks_like_one_is_one() -> None:
    text = "+1 202 555 0143, " * 600
    counts: Counter[str] = Counter()
    assert ALL.text(text, counts) == "[phone], " * 600
    assert counts == {"phone": 600}


def test_an_event_is_redacted_with_what_stands_beside_it(event: Callable[..., Any]) -> None:
    counts: Counter[str] = Counter()
    turns = [{"text": "ann@example.org", "speaker": "ann"}, {"text": "fine", "speaker": "bob"}]
    redacted = ALL.event(event("", turns=turns, context=["b@c.de"], author="ann@example.org"), counts)
    assert redacted.text == "ann: [email]\nbob: fine"
    assert redacted.context == ("[email]",)
    assert [turn.text for turn in redacted.turns] == ["[email]", "fine"]
    assert redacted.author == "ann@example.org"
    assert counts["email"] == 2
    plain = event("nothing here")
    assert ALL.event(plain, counts) is plain


def test_what_a_pipeline_says() -> None:
    made = {"name": "a", "version": "1", "source": "b", "sla": "1s"}
    made |= {"stages": [{"name": "s", "writes": "c", "cut": {"into": "claims", "answers": ["x"]}}]}
    assert redactor_of(Pipeline.model_validate(made)) is None
    chosen = redactor_of(Pipeline.model_validate(json.loads(json.dumps(made | {"redact": ["email"]}))))
    assert chosen is not None
    assert chosen.text("a@b.de") == "[email]"
    with pytest.raises(ValueError, match="phone_regions"):
        Pipeline.model_validate(made | {"redact": ["email"], "phone_regions": ["US"]})
    with pytest.raises(ValueError, match="redact"):
        Pipeline.model_validate(made | {"redact": ["names"]})
    with pytest.raises(WorkerMisconfigured, match="XX"):
        Redactor(["phone"], ["XX"])
