"""Which of a text's neighbours matter most for it."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from unicodedata import normalize

_GRAM = 3  # characters; long enough to tell words apart, short enough for inflection and for scripts without spaces
_FORGETTING = 0.25  # recency beside that of the next neighbour: one that shares words goes before the third last
_CHARACTERS = 4000  # of each text that are compared, so that a huge one costs no more
_WORD = re.compile(r"\w+")


def relevant(text: str, neighbours: Sequence[str]) -> list[int]:
    """Indexes of neighbouring messages, most relevant first. neighbours: oldest first.

    Relevance is likeness plus recency. Likeness, from 0 to 1, is the cosine between the texts' sets of character
    n-grams, each weighted with its inverse document frequency (Salton and Buckley 1988; n-grams instead of words need
    no rules for a language: McNamee and Mayfield 2004). Recency is 1 for the last neighbour, which most messages
    answer, and a quarter as much for each one before it. Of equally relevant ones the later comes first.
    """
    grams = [_grams(neighbour) for neighbour in neighbours]
    own = _grams(text)
    found_in = Counter(gram for found in (own, *grams) for gram in found)
    weight = {gram: math.log(1 + (len(neighbours) + 1) / count) ** 2 for gram, count in found_in.items()}
    last = len(neighbours) - 1

    def relevance(index: int) -> tuple[float, int]:
        shared = _norm(own & grams[index], weight)
        likeness = shared / math.sqrt(_norm(own, weight) * _norm(grams[index], weight)) if shared else 0.0
        return likeness + _FORGETTING ** (last - index), index

    return sorted(range(len(neighbours)), key=relevance, reverse=True)


def _grams(text: str) -> set[str]:
    """Character n-grams of the words, each with its borders, whatever their case and width."""
    words = _WORD.findall(normalize("NFKC", text[:_CHARACTERS]).casefold())
    bordered = [f" {word} " for word in words]
    return {word[start : start + _GRAM] for word in bordered for start in range(max(1, len(word) - _GRAM + 1))}


def _norm(grams: set[str], weight: dict[str, float]) -> float:
    """Sum of the squared weights. Exact, so the order of a set's elements does not matter."""
    return math.fsum(weight[gram] for gram in grams)
