"""Neighbours are ordered by what they share with the text and by how recent they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.relevance import relevant

CHATTER = ["good morning", "fine, thanks", "lunch?", "not yet", "rain again"]


@given(st.text(), st.lists(st.text(), max_size=8))
def test_names_each_neighbour_once(text: str, neighbours: list[str]) -> None:
    assert sorted(relevant(text, neighbours)) == list(range(len(neighbours)))


@given(st.text(), st.integers(0, 8))
def test_equally_alike_neighbours_come_latest_first(text: str, count: int) -> None:
    assert relevant(text, ["the same"] * count) == list(reversed(range(count)))


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("what did you say about my bicycle?", "your bicycle is a wreck"),
        ("¿qué dijiste de mi bicicleta?", "tu bicicleta es una ruina"),
        ("wem gehören die Fahrräder?", "das Fahrrad im Flur stört"),
        ("что ты сказал про мой велосипед?", "твой велосипед ужасен"),
        ("你刚才说我的自行车什么？", "你的自行车太破了"),
        ("私の自転車について何と言った？", "あの自転車は邪魔だ"),
        ("मेरी साइकिल के बारे में क्या कहा?", "तुम्हारी साइकिल पुरानी है"),
        ("ماذا قلت عن دراجتي؟", "دراجتي أفضل من دراجتك"),
        ("\uff22\uff29\uff2b\uff25 \uff33\uff28\uff2f\uff30 open?", "the bike shop is nice"),
    ],
    ids=["en", "es", "de inflected", "ru", "zh", "ja", "hi", "ar", "fullwidth capitals"],
)
def test_what_shares_words_goes_before_what_is_nearer(text: str, about: str) -> None:
    order = relevant(text, [about, *CHATTER])

    assert order[0] == 5, "the last one"
    assert order.index(0) < order.index(3)
    assert [index for index in order if index] == [5, 4, 3, 2, 1]


def test_last_one_goes_before_what_is_a_little_alike() -> None:
    assert relevant("no, you are wrong", ["are we there yet, or is it still a long way?", "you lie"])[0] == 1


def test_the_same_words_go_before_the_last_one_only_with_more_than_recency() -> None:
    assert relevant("who took the key?", ["who took the key?", "hello"]) == [0, 1]


def test_rare_words_count_more_than_common_ones() -> None:
    assert relevant("the cat sat and zep", ["zep", *["the cat sat and"] * 8]).index(0) == 2


def test_long_neighbour_is_not_alike_for_its_length_alone() -> None:
    everything = " ".join(["my bicycle", *(f"word{number} thing{number}" for number in range(100))])

    assert relevant("my bicycle", ["a bicycle", everything, "x", "y", "z"]).index(0) == 1


def test_order_of_words_makes_no_neighbour_more_alike() -> None:
    words = [f"word{number}" for number in range(40)]
    same = [" ".join(words[number:] + words[:number]) for number in range(40)]
    rest = [" ".join(words[:number]) for number in range(10)]

    order = relevant("word1 word2 word3", [*same, *rest])

    assert [index for index in order if index < len(same)] == list(reversed(range(len(same))))


def test_only_the_beginning_of_a_huge_text_is_compared() -> None:
    assert relevant("needle", ["a " * 4000 + "needle", "b", "c", "d"]) == [3, 2, 1, 0]
    assert relevant("needle", ["needle" + " a" * 4000, "b", "c", "d"])[:2] == [3, 0]
