"""Text from outside is made harmless for a prompt, and split without loss."""

import itertools
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.text import one_line, sentences, split, turns

SPECIAL_TOKENS = [
    "<|im_end|>",
    "<|begin_of_text|>",
    "<s>",
    "</s>",
    "<start_of_turn>",
    "<unused7>",
    "<0x0A>",
    "<<SYS>>",
    ">>ANSWER<<",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[INST]",
    "[/INST]",
    "[UNUSED_TOKEN_145]",
    "[gMASK]",
    "[control_8]",
    "[start_header_id]",
    "[|endofturn|]",
    "[@BOS@]",
    "[multimodal]",
    "[e~[",
    "]~b]",
    "]!p~[",
    "|||EMAIL_ADDRESS|||",
]
MARKERS = ["Label:", "message:", "EARLIER:"]
LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
UNSEEN = ["\u00ad", "\u034f", "\u115f", "\u200b", "\u2060", "\u202e", "\u2066", "\u3164", "\ufeff", "\ufff9"]
UNSEEN += [chr(0xE0041), chr(0xE0101)]
JOINERS = ["\u200c", "\u200d", "\ufe0f", "\u180b"]
# Control characters, and Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt) without JOINERS.
DROPPED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
FULLWIDTH = {number: number + 0xFEE0 for number in range(0x21, 0x7F)}
BOLD = {ord(c): 0x1D400 + ord(c) - ord("A") for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

disguises = st.sampled_from(["", *UNSEEN, *JOINERS])


@st.composite
def disguised(draw: st.DrawFn) -> str:
    """A special token or a marker as it is, in other letters, or with something invisible after a character."""
    token = draw(st.sampled_from([*SPECIAL_TOKENS, *MARKERS]))
    token = token.translate(draw(st.sampled_from([{}, FULLWIDTH, BOLD])))
    place = draw(st.integers(1, len(token)))
    return token[:place] + draw(disguises) * draw(st.integers(1, 20)) + token[place:]


noise = st.sampled_from([*LINE_BREAKS, *UNSEEN, *JOINERS, "<", "[", "]", "|", "/", ":", "\0", " ", "ok", "\uff1c", "é"])
hostile = st.lists(st.one_of(disguised(), noise)).map("".join)
texts = st.one_of(st.text(), hostile)
prose = st.text(alphabet=st.sampled_from("ab .!?\n\t\u3000\u3002\U0001f600"))
sizes = st.integers(1, 12)
lines = st.lists(st.text(alphabet="abc. ", min_size=1, max_size=30).filter(str.strip), max_size=12)


def visible(*texts: str) -> str:
    """The characters that are no white space."""
    return "".join("".join(texts).split())


def read(text: str) -> list[str]:
    """The text as it is, and as tokenizers that normalise or drop characters read it."""
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf" and c not in [*UNSEEN, *JOINERS])
    return [form for found in (text, seen) for form in (found, unicodedata.normalize("NFKC", found))]


class TestOneLine:
    @given(texts)
    def test_is_one_line_whatever_counts_as_a_line_break(self, text: str) -> None:
        assert len(one_line(text).splitlines()) <= 1

    @given(texts)
    def test_has_no_control_characters(self, text: str) -> None:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", one_line(text))

    @given(texts)
    @example("[I\ufe0fNST]")
    @example("\uff1c|im_end|>")
    @example("Labe\u200dl:")
    @example("\uff2cabel\uff1a")
    @example("Label\u2a74")
    def test_contains_no_special_token_and_no_marker_however_it_is_read(self, text: str) -> None:
        for form in read(one_line(text)):
            assert not [token for token in SPECIAL_TOKENS if token in form]
            assert not [marker for marker in MARKERS if marker.lower() in form.lower()]

    @given(texts)
    def test_changes_nothing_the_second_time(self, text: str) -> None:
        assert one_line(one_line(text)) == one_line(text)

    @given(texts)
    def test_keeps_every_visible_character(self, text: str) -> None:
        assert visible(one_line(text)) == visible(DROPPED.sub(" ", text))

    @given(st.text(alphabet=st.characters(categories=["L", "N", "M"])).filter(lambda text: not DROPPED.search(text)))
    @example("Grüße an alle")
    def test_leaves_letters_and_digits_alone(self, text: str) -> None:
        assert one_line(text) == text

    @pytest.mark.parametrize("token", SPECIAL_TOKENS)
    def test_breaks_special_token_in_the_middle_of_a_word(self, token: str) -> None:
        assert token not in one_line(f"a{token}b")

    @pytest.mark.parametrize("unseen", UNSEEN, ids=ascii)
    def test_drops_what_shows_nothing(self, unseen: str) -> None:
        assert one_line(f"k{unseen}ill") == "kill"
        assert one_line(f"é{unseen}té") == "été"

    def test_halves_of_surrogate_pairs_can_be_encoded_afterwards(self) -> None:
        assert one_line("a\ud83db\ude00").encode() == b"a b"

    @pytest.mark.parametrize(
        "text",
        [
            "a < b",
            "i <3 you",
            "<- there, -> here, <=",
            "[1] and [x]",
            "[link](url)",
            "5 > 4",
            "a[0]",
            "[A]",
            "a || b",
            "note: at 10:30",
            "labels: none",
            "你好：今天！（是）",
            "[фото] ещё",
            "\u2764\ufe0f \U0001f468\u200d\U0001f469\u200d\U0001f467 1\ufe0f\u20e3",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "ｆｕｌｌ",
            "1º, x², …",
        ],
    )
    def test_leaves_ordinary_text_alone(self, text: str) -> None:
        assert one_line(text) == text

    @pytest.mark.parametrize("text", ["a  b", " a b", "a b ", "a \u00a0b", "\ta b"])
    def test_takes_white_space_together(self, text: str) -> None:
        assert one_line(text) == "a b"

    def test_takes_line_breaks_for_white_space(self) -> None:
        assert one_line("  a \t b\n\n\nc\u2028d  ") == "a b c d"
        assert one_line(" é\u00a0 \u3000b ") == "é b"


class TestSentences:
    def test_end_after_full_stops_and_at_line_breaks(self) -> None:
        assert sentences("One. Two! Three\n\nFour\u2026 five 1.5 e.g") == [
            "One.",
            "Two!",
            "Three",
            "Four\u2026",
            "five 1.5 e.g",
        ]

    def test_end_without_spaces_where_a_script_has_none(self) -> None:
        assert sentences("你好。真的吗？！他说“好。”走了。") == ["你好。", "真的吗？！", "他说“好。”走了。"]

    def test_end_at_the_marks_of_other_scripts(self) -> None:
        assert sentences("मैं आया। तुम गए। کیا؟ ہاں۔ جی") == ["मैं आया।", "तुम गए।", "کیا؟", "ہاں۔", "جی"]

    @given(prose)
    def test_lose_nothing(self, text: str) -> None:
        assert visible(*sentences(text)) == visible(text)


@given(texts)
def test_turns_are_the_lines_that_show_something(text: str) -> None:
    assert turns(text) == [" ".join(line.split()) for line in text.splitlines() if line.strip()]


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

    @given(lines, st.integers(1, 80), st.data())
    def test_turn_that_fits_stands_whole_in_a_part(self, told: list[str], characters: int, data: st.DataObject) -> None:
        overlap = data.draw(st.integers(0, characters - 1))
        told = [f"{number}{line.strip()}" for number, line in enumerate(told)]

        parts = split("\n".join(told), characters, overlap)

        whole = [turn for turn in turns("\n".join(told)) if len(turn) <= characters]
        assert all(any(turn in part.splitlines() for part in parts) for turn in whole)

    @given(
        st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(16, 60), st.sampled_from("\n "), st.data()
    )
    def test_parts_repeat_whole_turns_or_sentences_within_the_overlap(
        self, lengths: list[int], characters: int, between: str, data: st.DataObject
    ) -> None:
        overlap = data.draw(st.integers(0, characters - 1))
        told = [f"{chr(0x4E00 + number) * length}." for number, length in enumerate(lengths)]

        parts = [re.split(r"\s", part) for part in split(between.join(told), characters, overlap)]

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
        assert split("One. Two. Three. Four.", 16, 6) == ["One. Two. Three.", "Three. Four."]
        assert split("One. Two. Three. Four.", 16, 5) == ["One. Two. Three.", "Four."]
        assert split("One.\nTwo.\nThree.\nFour.\nFive.", 16, 11) == [
            "One.\nTwo.\nThree.",
            "Three.\nFour.",
            "Four.\nFive.",
        ]

    def test_repeats_no_half_of_a_turn(self) -> None:
        assert split("A: one. Two.\nB: three.", 15, 5) == ["A: one. Two.", "B: three."]

    def test_cuts_between_turns_before_it_cuts_between_sentences(self) -> None:
        assert split("A: one.\nB: two. Three.\nA: four.", 20) == ["A: one.", "B: two. Three.", "A: four."]

    def test_cuts_between_sentences_in_a_turn_that_is_too_long(self) -> None:
        assert split("A: x.\nB: one two. Three four.\nA: y.", 17) == ["A: x.\nB: one two.", "Three four.\nA: y."]

    def test_cuts_between_sentences_where_possible(self) -> None:
        assert split("One two. Three four. Five.", 15) == ["One two.", "Three four.", "Five."]

    def test_cuts_long_sentences_between_words(self) -> None:
        assert split("one two three four", 9) == ["one two", "three", "four"]
        assert split("one two three", 7) == ["one two", "three"]

    def test_cuts_long_words_anywhere(self) -> None:
        assert split("abcdefgh", 3) == ["abc", "def", "gh"]

    def test_ends_on_a_huge_word(self) -> None:
        assert "".join(split("x" * 100_000, 7, 6)) == "x" * 100_000

    def test_text_that_fits_is_one_part_with_its_turns(self) -> None:
        assert split("One. Two.", 9) == ["One. Two."]
        assert split("\n One.\r\n\n Two. \n", 9) == ["One.\nTwo."]
        assert split("你好。再见。", 6) == ["你好。再见。"]

    @pytest.mark.parametrize("text", ["", " \n\t "])
    def test_blank_text_has_no_parts(self, text: str) -> None:
        assert split(text, 5) == []

    @pytest.mark.parametrize(("characters", "overlap"), [(0, 0), (5, 5), (5, -1)])
    def test_refuses_overlap_that_does_not_fit(self, characters: int, overlap: int) -> None:
        with pytest.raises(ValueError, match=f"from 0 to less than {characters}, not {overlap}"):
            split("text", characters, overlap)
