"""Where the members of a JSON object stand in its text, and how probable the tokens are that wrote them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from inference.engine import Token

_BLANK = " \t\r\n"
_BYTES = 4  # of a character in UTF-8, at most


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object. start, end: of its value, in characters of the text."""

    name: str
    value: Any
    start: int
    end: int


def members(text: str) -> list[Member]:
    """The members of the first object in the text, as far as it is well-formed: a text may have been cut."""
    found: list[Member] = []
    at = text.find("{")
    try:
        while at >= 0 and text[at] in "{,":
            name, at = _DECODER.raw_decode(text, _visible(text, at + 1))
            at = _visible(text, at)
            if not isinstance(name, str) or text[at] != ":":
                break
            start = _visible(text, at + 1)
            value, end = _DECODER.raw_decode(text, start)
            at = _visible(text, end)
            if text[at] not in ",}":
                break
            found.append(Member(name, value, start, end))
    except (ValueError, IndexError, RecursionError):  # not JSON from here on, the end, or nested beyond all measure
        pass
    return found


def probability(text: str, tokens: Sequence[Token], start: int, end: int) -> float:
    """The product of the probabilities of all tokens of the text that overlap its characters from `start` to `end`.

    0 if there are none.
    """
    overlapping = [
        token.logprob
        for token, (first, last) in zip(tokens, _places(text, tokens), strict=True)
        if first < end and last > start
    ]
    return math.exp(min(0.0, math.fsum(overlapping))) if overlapping else 0.0


def _places(text: str, tokens: Sequence[Token]) -> list[tuple[int, int]]:
    """First character of each token and the one after its last.

    A server cannot show the bytes of a character that several tokens share. Tokens that are not found in the text where
    they should be are given everything up to the next one that is.
    """
    places: list[tuple[int, int]] = []
    at = lost = 0
    for token in tokens:
        found = text.find(token.text, at, at + len(token.text) + _BYTES * lost) if token.text else -1
        if found < 0:
            lost += 1
            continue
        places += [(at, found)] * lost
        at = found + len(token.text)
        lost = 0
        places.append((found, at))
    return places + [(at, len(text))] * lost


def _visible(text: str, at: int) -> int:
    while text[at] in _BLANK:
        at += 1
    return at


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)
