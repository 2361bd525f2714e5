"""Text from outside is data: it is made harmless for a prompt, and split where it is too long for one."""

import re
import unicodedata

# What chat templates use as special tokens: <|im_end|>, <s>, </s>, <start_of_turn>, [INST], <<SYS>>, [gMASK],
# [UNUSED_TOKEN_145], [control_8].
_SPECIAL_ANGLE = re.compile(r"<(?=[|/<A-Za-z_\u2581\uff5c])")
_SPECIAL_SQUARE = re.compile(r"\[(?=/?(?:[a-z]?[A-Z_]{2}[A-Z_0-9]*|control_[0-9]+)\])")
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？؟])\s+|\n+")


def one_line(text: str) -> str:
    """The text as one line without control characters and without anything that a tokenizer takes for its own.

    A prompt gives each message a line of its own, so text without line breaks cannot pretend to be the next line. In a
    special token a space after its first character is enough to make it ordinary text.
    """
    visible = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    line = " ".join(visible.split())
    return _SPECIAL_SQUARE.sub("[ ", _SPECIAL_ANGLE.sub("< ", line))


def sentences(text: str) -> list[str]:
    """The text cut after sentence ends and line breaks; joined with spaces it reads as before."""
    return [piece for piece in _SENTENCE_END.split(text) if piece.strip()]


def split(text: str, characters: int, overlap: int = 0) -> list[str]:
    """Parts of at most `characters` characters, cut between sentences where that is possible.

    overlap: how many characters of whole sentences a part repeats from the end of the part before it, at most. A
    sentence that is too long for one part is cut between words, and a word that is too long, anywhere. Nothing is left
    out. Raises ValueError unless 0 <= overlap < characters.
    """
    if not 0 <= overlap < characters:
        raise ValueError(f"overlap must be from 0 to less than {characters}, not {overlap}")
    parts: list[str] = []
    part: list[str] = []
    for piece in _pieces(text, characters):
        if part and _joined(part) + 1 + len(piece) > characters:
            parts.append(" ".join(part))
            part = _tail(part, min(overlap, characters - len(piece) - 1))
        part.append(piece)
    if part:
        parts.append(" ".join(part))
    return parts


def _joined(pieces: list[str]) -> int:
    """Length of the pieces joined with spaces."""
    return sum(map(len, pieces)) + len(pieces) - 1


def _pieces(text: str, characters: int) -> list[str]:
    """Sentences; those longer than `characters` in words or, at worst, in slices."""
    pieces: list[str] = []
    for sentence in sentences(text):
        rest = sentence.strip()
        while len(rest) > characters:
            space = rest.rfind(" ", 1, characters + 1)
            cut = space if space > 0 else characters
            pieces.append(rest[:cut])
            rest = rest[cut:].lstrip()
        if rest:
            pieces.append(rest)
    return pieces


def _tail(part: list[str], characters: int) -> list[str]:
    """The last pieces that fit into `characters` together."""
    tail: list[str] = []
    for piece in reversed(part):
        characters -= len(piece) + 1
        if characters < 0:
            break
        tail.insert(0, piece)
    return tail
