"""Which texts speak of what a question asks."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from unicodedata import normalize

_GRAM = 3  # characters; long enough to tell words apart, short enough for inflection and for scripts without spaces
_WORD = re.compile(r"\w+")


def retrieve(question: str, texts: Sequence[str]) -> list[int]:
    """Indexes of the texts, those that have most of the question first; of equal ones the earlier.

    Words are compared by their character n-grams, which need no rules for a language (McNamee and Mayfield 2004). Each
    that a text shares with the question counts by its inverse document frequency: what all texts have tells none apart.
    """
    asked = _grams(question)
    shared = [asked & _grams(text) for text in texts]
    found_in = Counter(gram for grams in shared for gram in grams)
    weight = {gram: math.log(1 + len(texts) / count) for gram, count in found_in.items()}
    score = [math.fsum(weight[gram] for gram in grams) for grams in shared]
    return sorted(range(len(texts)), key=lambda index: (-score[index], index))


def _grams(text: str) -> set[str]:
    words = (f" {word} " for word in _WORD.findall(normalize("NFKC", text).casefold()))
    return {word[start : start + _GRAM] for word in words for start in range(len(word) - _GRAM + 1)}
