"""Text from outside is made harmless for a prompt, and split without loss."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.text import one_line, sentences, split

SPECIAL_TOKENS = [
    "<|im_end|>",
    "<|begin_of_text|>",
    "<s>",
    "</s>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<unused7>",
    "<<SYS>>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[UNUSED_TOKEN_145]",
    "[gMASK]",
    "[control_8]",
]
LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]

hostile = st.lists(st.sampled_from([*SPECIAL_TOKENS, *LINE_BREAKS, "<", "[", "|", "/", "\0", " ", "ok"])).map("".join)
texts = st.one_of(st.text(), hostile)
prose = st.text(alphabet=st.sampled_from("ab .!?\n\t\u3000\u3002\U0001f600"))
sizes = st.integers(1, 12)


def visible(*texts: str) -> str:
    """The characters that are no white space."""
    return "".join("".join(texts).split())


class TestOneLine:
    @given(texts)
    def test_is_one_line_whatever_counts_as_a_line_break(self, text: str) -> None:
        assert len(one_line(text).splitlines()) <= 1

    @given(texts)
    def test_has_no_control_characters(self, text: str) -> None:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", one_line(text))

    @given(texts)
    def test_contains_no_special_token(self, text: str) -> None:
        assert not [token for token in SPECIAL_TOKENS if token in one_line(text)]

    @given(texts)
    def test_changes_nothing_the_second_time(self, text: str) -> None:
        assert one_line(one_line(text)) == one_line(text)

    @given(texts)
    def test_keeps_every_visible_character(self, text: str) -> None:
        assert visible(one_line(text)) == visible(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text))

    @pytest.mark.parametrize("token", SPECIAL_TOKENS)
    def test_breaks_special_token_in_the_middle_of_a_word(self, token: str) -> None:
        assert token not in one_line(f"a{token}b")

    @pytest.mark.parametrize("text", ["a < b", "i <3 you", "[1] and [x]", "[link](url)", "5 > 4", "a[0]", "[A]"])
    def test_leaves_ordinary_text_alone(self, text: str) -> None:
        assert one_line(text) == text

    def test_takes_white_space_together(self) -> None:
        assert one_line("  a \t b\n\n\nc\u2028d  ") == "a b c d"


class TestSentences:
    def test_end_after_full_stops_and_at_line_breaks(self) -> None:
        assert sentences("One. Two! Three\n\nFour\u2026 five 1.5 e.g") == [
            "One.",
            "Two!",
            "Three",
            "Four\u2026",
            "five 1.5 e.g",
        ]

    @given(prose)
    def test_lose_nothing(self, text: str) -> None:
        assert visible(*sentences(text)) == visible(text)


class TestSplit:
    @given(prose, sizes)
    def test_loses_nothing_and_repeats_nothing_without_overlap(self, text: str, characters: int) -> None:
        assert visible(*split(text, characters)) == visible(text)

    @given(prose, sizes, st.data())
    def test_parts_are_bounded(self, text: str, characters: int, data: st.DataObject) -> None:
        overlap = data.draw(st.integers(0, characters - 1))
        assert all(len(part) <= characters for part in split(text, characters, overlap))

    @given(prose, sizes)
    @example("      a", 3)
    def test_no_part_is_blank(self, text: str, characters: int) -> None:
        assert all(part.strip() for part in split(text, characters))

    @given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(16, 60), st.data())
    def test_parts_repeat_whole_sentences_within_the_overlap(
        self, lengths: list[int], characters: int, data: st.DataObject
    ) -> None:
        overlap = data.draw(st.integers(0, characters - 1))
        told = [f"{chr(0x4E00 + number) * length}." for number, length in enumerate(lengths)]

        parts = [part.split(" ") for part in split(" ".join(told), characters, overlap)]

        shared = [[piece for piece in after if piece in before] for before, after in itertools.pairwise(parts)]
        new = [[piece for piece in after if piece not in before] for before, after in itertools.pairwise(parts)]
        assert all(len(" ".join(pieces)) <= overlap for pieces in shared)
        assert all(new), "each part goes on"
        assert [*parts[0], *itertools.chain(*new)] == told
        assert all(
            before[-len(pieces) :] == after[: len(pieces)] == pieces
            for (before, after), pieces in zip(itertools.pairwise(parts), shared, strict=True)
            if pieces
        )

    def test_repeats_as_much_as_the_overlap_allows(self) -> None:
        assert split("One. Two. Three. Four.", 16, 12) == ["One. Two. Three.", "Three. Four."]

    def test_cuts_between_sentences_where_possible(self) -> None:
        assert split("One two. Three four. Five.", 15) == ["One two.", "Three four.", "Five."]

    def test_cuts_long_sentences_between_words(self) -> None:
        assert split("one two three four", 9) == ["one two", "three", "four"]
        assert split("one two three", 7) == ["one two", "three"]

    def test_cuts_long_words_anywhere(self) -> None:
        assert split("abcdefgh", 3) == ["abc", "def", "gh"]

    def test_ends_on_a_huge_word(self) -> None:
        assert "".join(split("x" * 100_000, 7, 6)) == "x" * 100_000

    def test_short_text_is_one_part(self) -> None:
        assert split("One. Two.", 9) == ["One. Two."]

    @pytest.mark.parametrize("text", ["", " \n\t "])
    def test_blank_text_has_no_parts(self, text: str) -> None:
        assert split(text, 5) == []

    @pytest.mark.parametrize(("characters", "overlap"), [(0, 0), (5, 5), (5, -1)])
    def test_refuses_overlap_that_does_not_fit(self, characters: int, overlap: int) -> None:
        with pytest.raises(ValueError, match=f"from 0 to less than {characters}, not {overlap}"):
            split("text", characters, overlap)
