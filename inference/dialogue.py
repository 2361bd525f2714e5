"""Conversations cut into what can be judged: questions with their answers, and the claims in an answer."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from unicodedata import normalize

from msgspec import Struct

from inference.text import sentences

_QUESTION = re.compile(r"[?？؟]\W*$")
_WORD = re.compile(r"\w+")
_NAMES = 2  # words beside small talk that may be a name: "Thank you, Mrs Silva."


class Turn(Struct, frozen=True):
    """What one speaker said before another spoke. number: its place in the conversation."""

    number: int
    speaker: str
    text: str


class Exchange(Struct, frozen=True):
    """Turns that belong together, and those before them that are needed to understand them."""

    turns: Sequence[Turn]
    before: Sequence[Turn]


def exchanges(turns: Iterable[Turn], answering: Collection[str], before: int = 0) -> list[Exchange]:
    """Questions with their answers: each run of turns of those who ask, and the run of those who answer after it.

    answering: the speakers who answer. before: how many turns before each are needed to understand it. Every turn is
    in one exchange: a call may begin with an answer or end with a question.
    """
    ordered = [turn for turn in turns if turn.text.strip()]
    runs = [list(run) for _, run in groupby(ordered, lambda turn: turn.speaker in answering)]
    if runs and runs[0][0].speaker in answering:
        runs.insert(0, [])
    paired = [[*asked, *answered] for asked, answered in zip(runs[::2], [*runs[1::2], []], strict=False)]
    found, start = [], 0
    for pair in paired:
        found.append(Exchange(pair, ordered[max(0, start - before) : start]))
        start += len(pair)
    return found


class SmallTalk:
    """Tells sentences that claim nothing: greetings, thanks, questions."""

    def __init__(self, phrases: Iterable[str]) -> None:
        """phrases: of any language; case, width and punctuation do not matter."""
        found = sorted({" ".join(_words(phrase)) for phrase in phrases} - {""}, key=len, reverse=True)
        self._phrase = re.compile(rf"\b(?:{'|'.join(map(re.escape, found))})\b") if found else None

    def is_claim(self, sentence: str) -> bool:
        """Whether the sentence may claim something.

        It does not if it is a question, or if small talk is all that it says, but for two words that may be a name.
        What has a digit always may.
        """
        words = _words(sentence)
        if not words or _QUESTION.search(sentence):
            return False
        if self._phrase is None or any(character.isdigit() for character in sentence):
            return True
        line = " ".join(words)
        left = self._phrase.sub(" ", line)
        return left == line or len(left.split()) > _NAMES

    def divide(self, text: str) -> tuple[list[str], list[str]]:
        """The sentences of the text that may claim something, and the others."""
        claims: list[str] = []
        others: list[str] = []
        for sentence in sentences(text):
            (claims if self.is_claim(sentence) else others).append(sentence)
        return claims, others


def _words(text: str) -> list[str]:
    return _WORD.findall(normalize("NFKC", text).casefold())
