"""The shipped prompt injections, and what a text does to a prompt whatever the model makes of it."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

FILE = Path(__file__).with_name("attacks.jsonl")
TOKENS_FILE = Path(__file__).with_name("special_tokens.json")

_MARKER = re.compile(r"(?:message|label|earlier):", re.IGNORECASE)
# Invisible characters that are in other categories than Cf: fillers, the grapheme joiner, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")


@dataclass(frozen=True, slots=True)
class Attack:
    """A text against the rules that tries to be allowed.

    kind: how it tries. lang: ISO 639-1 code of the language in which it does. host: the text without the attack.
    """

    id: str
    lang: str
    kind: str
    host: str
    text: str


def shipped() -> list[Attack]:
    """The set that Weir ships. Its texts are ours."""
    return [Attack(**orjson.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]


def special_tokens() -> Mapping[str, list[str]]:
    """Special tokens of model families, a sample of each; the file names the source."""
    families = orjson.loads(TOKENS_FILE.read_bytes())
    return {family: found["tokens"] for family, found in families.items()}


def readings(text: str) -> Iterator[str]:
    """The text as tokenizers may read it: as it is, normalised to NFKC, and both without invisible characters."""
    for form in (text, unicodedata.normalize("NFKC", text)):
        yield form
        seen = "".join(c for c in form if unicodedata.category(c) != "Cf")
        yield unicodedata.normalize("NFKC", _INVISIBLE.sub("", seen)) if form is not text else _INVISIBLE.sub("", seen)


def forges_lines(text: str) -> bool:
    """Whether the text is more than one line for anything that breaks lines."""
    return len(text.splitlines()) > 1


def forges_markers(text: str) -> bool:
    """Whether the text has a marker of the prompt in one of its readings."""
    return any(_MARKER.search(reading) for reading in readings(text))


def forged_tokens(text: str, tokens: list[str]) -> list[str]:
    """Which of these special tokens the text has in one of its readings."""
    forms = list(readings(text))
    return [token for token in tokens if any(token in form for form in forms)]
