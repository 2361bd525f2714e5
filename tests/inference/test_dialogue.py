"""Conversations are cut into exchanges and claims, and nothing is dropped but what claims nothing."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.dialogue import Exchange, SmallTalk, Turn, exchanges

AGENT = ["agent"]
PHRASES = ["thank you", "thank you so much", "good morning", "bom dia", "один момент", "ｏｋ", "", "!"]


def talk(*said: str) -> list[Turn]:
    """`talk("c: Hello?", "a: Hi.")`: turns of customer and agent."""
    speakers = {"c": "customer", "a": "agent", "x": ""}
    return [Turn(number, speakers[one[0]], one[3:]) for number, one in enumerate(said)]


def numbers(found: list[Exchange]) -> list[tuple[list[int], list[int]]]:
    return [([turn.number for turn in one.turns], [turn.number for turn in one.before]) for one in found]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], []),
        (["c: One?"], [[0]]),
        (["a: Welcome."], [[0]]),
        (["c: One?", "a: Yes."], [[0, 1]]),
        (["c: One?", "c: Hello?", "a: Yes.", "a: Sure.", "c: Two?", "a: No."], [[0, 1, 2, 3], [4, 5]]),
        (["a: Welcome.", "c: One?", "a: Yes.", "c: Bye."], [[0], [1, 2], [3]]),
        (["c: One?", "x: Three?", "a: Yes."], [[0, 1, 2]]),
        (["c: One?", "a:  \n", "c: Still there?", "a: Yes."], [[0, 2, 3]]),
    ],
    ids=["none", "no answer", "no question", "one", "runs", "ends", "a third speaker", "nothing said"],
)
def test_a_question_stands_with_its_answer(said: list[str], expected: list[list[int]]) -> None:
    assert [turns for turns, _ in numbers(exchanges(talk(*said), AGENT))] == expected


def test_what_was_said_before_stands_beside_it() -> None:
    said = talk("a: Hi.", "c: One?", "a: Yes.", "c: Two?", "a: No.")
    assert numbers(exchanges(said, AGENT, before=2)) == [([0], []), ([1, 2], [0]), ([3, 4], [1, 2])]


def test_several_may_answer() -> None:
    said = [Turn(0, "customer", "One?"), Turn(1, "agent", "Wait."), Turn(2, "expert", "Yes."), Turn(3, "customer", "?")]
    assert [turns for turns, _ in numbers(exchanges(said, {"agent", "expert"}))] == [[0, 1, 2], [3]]


@given(st.lists(st.sampled_from(["c: One?", "a: Yes.", "x: Hm", "a:  "])), st.integers(0, 5))
def test_every_turn_is_in_one_exchange_and_in_order(said: list[str], before: int) -> None:
    turns = talk(*said)
    found = exchanges(turns, AGENT, before)
    assert list(chain(*(one.turns for one in found))) == [turn for turn in turns if turn.text.strip()]
    for one in found:
        assert len(one.before) <= before
        speakers = [turn.speaker in AGENT for turn in one.turns]
        assert speakers == sorted(speakers)  # those who ask, then those who answer


@pytest.mark.parametrize(
    "sentence",
    [
        "Thank you.",
        "THANK YOU SO MUCH!!",
        "Thank you, Mrs Silva.",
        "Good morning, thank you",
        "Bom dia!",
        "Один момент…",
        "Ok.",
        "Towing is up to 50 miles?",
        "¿Cuántas millas son？",
        'He said "really?"',
        "…",
        "",
    ],
)
def test_what_claims_nothing(sentence: str) -> None:
    assert not SmallTalk(PHRASES).is_claim(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "Towing is covered.",
        "Yes.",  # not small talk unless the file says so: it answers something
        "Thank you, 15 miles.",
        "Thank you, towing is covered.",
        "Thankyou",
        "Is it covered? Yes it is.",
        "レッカー移動は二十四キロまでです。",
    ],
)
def test_what_may_claim_something(sentence: str) -> None:
    assert SmallTalk(PHRASES).is_claim(sentence)


def test_without_phrases_only_questions_are_dropped() -> None:
    """A language that nobody declared loses nothing."""
    nothing = SmallTalk([])
    assert nothing.divide("Dzień dobry! Holowanie do 50 km. Czy to wszystko?") == (
        ["Dzień dobry!", "Holowanie do 50 km."],
        ["Czy to wszystko?"],
    )
    assert nothing.divide("こんにちは。五十キロまでです。よろしいですか？") == (
        ["こんにちは。", "五十キロまでです。"],
        ["よろしいですか？"],
    )


def test_a_text_is_divided_at_its_sentences() -> None:
    found = SmallTalk(PHRASES).divide("Good morning. Towing is up to 15 miles. Anything else? Thank you!")
    assert found == (["Towing is up to 15 miles."], ["Good morning.", "Anything else?", "Thank you!"])


@given(st.text(), st.lists(st.text(max_size=5), max_size=3))
def test_no_character_is_lost(text: str, phrases: list[str]) -> None:
    claims, others = SmallTalk(phrases).divide(text)
    assert sorted("".join("".join([*claims, *others]).split())) == sorted("".join(text.split()))
