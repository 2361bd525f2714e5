"""A call is what its turns say, in whatever order and however often they come."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.calls import StoredTurn
from streams.call import Call, digest, said, size_of

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)


def turn(number: int, text: str = "words", **changes: Any) -> StoredTurn:
    made = StoredTurn(
        number=number,
        row_id=changes.get("offset", number) + 1000,
        offset=number,
        final=False,
        documents=("page-1",),
        time=NOW + timedelta(seconds=number),
        speaker="agent" if number % 2 else "customer",
        lang="en",
        text=text,
    )
    return made._replace(**changes)


def call_of(*turns: StoredTurn) -> Call:
    call = Call()
    for one in turns:
        if not call.knows(one):
            call.add(one)
    return call


TURNS = [*(turn(number) for number in range(5)), turn(5, final=True)]


@given(st.permutations(TURNS), st.lists(st.sampled_from(TURNS), max_size=6))
def test_any_order_and_repetition_gives_the_same_call(order: list[StoredTurn], repeated: list[StoredTurn]) -> None:
    first, last = order[:3], order[3:]
    call = call_of(*first, *(one for one in repeated if one in first), *last, *repeated)
    assert call.turns() == TURNS
    assert digest("acme", "c", call.turns()) == digest("acme", "c", TURNS)
    assert call.complete(0)


CORRECTED = [
    turn(0),
    turn(0, offset=6),
    turn(1),
    turn(1, "other words", offset=7),
    turn(1, "words", offset=9),
    turn(2, final=True),
]


@given(st.permutations(CORRECTED))
def test_messages_that_are_stored_in_any_order_give_the_same_call(order: list[StoredTurn]) -> None:
    """As two workers may find them, who do not have to agree on who came first."""
    call = Call()
    for one in [*order, *order]:
        call.add(one)
    assert call.turns() == [turn(0), turn(1, "words", offset=9), turn(2, final=True)]
    assert len(call.messages) == 6


def test_of_two_messages_for_a_turn_the_last_that_says_more_counts() -> None:
    for text, standing in (("words", 1), ("other words", 4)):
        again = turn(1, text, offset=4)
        assert [one.offset for one in call_of(turn(0), turn(1), again).turns()] == [0, standing]
    assert call_of(turn(1)).knows(turn(1, offset=4))
    assert not call_of(turn(1)).knows(turn(1, offset=4, final=True))
    assert not call_of(turn(1)).knows(turn(1, offset=4, documents=("page-2",)))


@pytest.mark.parametrize(
    ("numbers", "final", "first", "complete"),
    [
        ([0, 1, 2], 2, 0, True),
        ([2, 0, 1], 2, 0, True),
        ([2], 2, 0, False),
        ([0, 2], 2, 0, False),
        ([0, 1], None, 0, False),
        ([1, 2], 2, 1, True),
        ([0], 0, 0, True),
        ([0, 1, 3], 1, 0, False),
    ],
    ids=["all", "final first", "only final", "a gap", "no final", "from one", "one", "one after the final"],
)
def test_a_call_is_complete_with_its_final_turn_and_all_before(
    numbers: list[int], final: int | None, first: int, *, complete: bool
) -> None:
    assert call_of(*(turn(number, final=number == final) for number in numbers)).complete(first) is complete


def test_other_words_or_another_call_is_another_transcript() -> None:
    ids = {
        digest("acme", "c", TURNS),
        digest("acme", "d", TURNS),
        digest("", "c", TURNS),
        digest("acme", "c", TURNS[1:]),
        digest("acme", "c", [*TURNS[:-1], turn(5, "else", offset=9)]),
    }
    assert len(ids) == 5


@given(st.text(), st.text(max_size=256))
def test_the_size_is_that_of_the_transcript(text: str, speaker: str) -> None:
    one = turn(1, text, speaker=speaker)
    assert size_of(one) == len(said(one).model_dump_json().encode()) + 1


def test_ten_thousand_turns_are_put_in_order() -> None:
    many = [turn(number, final=number == 9_999) for number in range(10_000)]
    call = call_of(*reversed(many))
    assert call.complete(0)
    assert call.turns() == many
