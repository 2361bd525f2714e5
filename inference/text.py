"""Text from outside is data: it is made harmless for a prompt, and split where it is too long for one."""

import re
from collections.abc import Iterator, Sequence
from unicodedata import normalize

# Control characters, and halves of surrogate pairs, which no encoding has.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
# What shows nothing and a tokenizer may drop: Unicode's Default_Ignorable_Code_Point and interlinear annotation. Only
# joiners and a few variation selectors stay: they shape emoji and the words of several scripts.
_PRINTABLE_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\U000e0100-\U000e01ef"
_UNSEEN = re.compile(
    f"[{_PRINTABLE_UNSEEN}\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_JOINER = re.compile("[\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f]")

# How special tokens begin: <|im_end|>, </s>, <<SYS>>, >>TITLE<<, <0x0A>, <\uff5cUser\uff5c>, but no heart, arrow or
# comparison with a number; [INST], [/INST], [gMASK], [control_8], [|endofturn|], [@BOS@], [e~[, ]~b], |||EMAIL|||.
_SPECIAL = re.compile(
    r"<(?=[^\s\d=>()*.,:;!?'\"+\-]|0x)"
    r"|\[(?=/?(?:[|@]|[a-z]?[A-Z_]{2}|[a-z]+[_~]|multimodal\]))"
    r"|\](?=~|![a-z]~)"
    r"|\|(?=\|\|[A-Z])"
)
_LONGEST_BEGINNING = 16  # characters that _SPECIAL reads, at least
_MARKERS = ("label", "message", "earlier")
_MARKER = re.compile(r":(?:(?<=label:)|(?<=message:)|(?<=earlier:))", re.IGNORECASE)

# The characters that NFKC makes a bracket, a bar or a colon of, beside those themselves.
_DISGUISED_BRACKETS = "\uff1c\ufe64\uff3b\ufe47\uff3d\ufe48\uff5c"
_DISGUISED_COLONS = "\uff1a\ufe55\ufe13\u2a74"
_BRACKET = re.compile(rf"[<\[\]|{_DISGUISED_BRACKETS}](?=\S)")
_COLON = re.compile(rf"(?<=\S)[:{_DISGUISED_COLONS}]")
_SUSPECT = re.compile(rf"[<\[\]|:{_DISGUISED_BRACKETS}{_DISGUISED_COLONS}{_PRINTABLE_UNSEEN}]")

# After a sentence's last mark: white space, or nothing in scripts that write none there, but for a closing quote.
_SENTENCE_END = re.compile(r"(?<=[.!?…؟۔।])\s+|(?<=[。！？｡])(?![。！？｡…”’」』）)\]\"'])\s*")


def one_line(text: str) -> str:
    """The text as one line in which a tokenizer finds nothing but text.

    A prompt gives each message a line of its own, so text without line breaks cannot pretend to be the next line. In a
    special token a space after its first character is enough to make it ordinary text, and in a marker of the prompt
    ("Label:") one before the colon. Both are also found in the variants of letters and brackets that tokenizers which
    normalise to NFKC (Unicode Standard Annex 15) turn into plain ones. What shows nothing is dropped.
    """
    line = text if _is_plain(text) else _plain(text)
    if line.isascii():
        if "<" in line or "[" in line or "]" in line or "|||" in line:
            line = _SPECIAL.sub(r"\g<0> ", line)
        return _MARKER.sub(" :", line) if ":" in line else line
    if not _SUSPECT.search(line):
        return line
    return _COLON.sub(_colon, _BRACKET.sub(_bracket, " ".join(_UNSEEN.sub("", line).split())))


def _is_plain(text: str) -> bool:
    """Whether the text is one line, without white space that could go, and printable.

    This is for speed: most rows are.
    """
    return text.isprintable() and "  " not in text and text[:1] != " " and text[-1:] != " "


def _plain(text: str) -> str:
    """One line without control characters and without most of what shows nothing."""
    line = " ".join(text.split())
    return line if line.isprintable() else " ".join(_UNSEEN.sub("", _CONTROL.sub(" ", line)).split())


def _bracket(found: re.Match[str]) -> str:
    """The bracket, and a space if a special token may begin with it."""
    beginning = found.string[found.start() : found.start() + _LONGEST_BEGINNING]
    special = _JOINER.search(beginning) or _SPECIAL.match(normalize("NFKC", beginning))
    return f"{found[0]} " if special else found[0]


def _colon(found: re.Match[str]) -> str:
    """The colon, after a space if a marker may end with it."""
    before = found.string[max(0, found.start() - max(map(len, _MARKERS))) : found.start()]
    marker = _JOINER.search(before) or normalize("NFKC", before).lower().endswith(_MARKERS)
    return f" {found[0]}" if marker else found[0]


def sentences(text: str) -> list[str]:
    """The text cut after sentence ends and line breaks; joined with spaces it reads as before."""
    return [sentence for turn in turns(text) for sentence in _sentences(turn)]


def turns(text: str) -> list[str]:
    """The lines of the text, without blank ones and without white space that shows nothing."""
    return [turn for line in text.splitlines() if (turn := " ".join(line.split()))]


def split(text: str, characters: int, overlap: int = 0) -> list[str]:
    """Parts of at most `characters` characters, cut between turns (lines) where that is possible.

    A turn that fits into one part is never cut in two. One that does not is cut between sentences, a sentence that
    does not fit between words, and a word that does not, anywhere. Nothing is left out but white space.

    overlap: a part repeats the last of these pieces of the part before it, whole ones, as many as have `overlap`
    characters together at most. So turns that fit are repeated whole or not at all.

    Raises ValueError unless 0 <= overlap < characters.
    """
    if not 0 <= overlap < characters:
        raise ValueError(f"overlap must be from 0 to less than {characters}, not {overlap}")
    parts: list[str] = []
    part: list[tuple[str, str]] = []
    length = 0
    for before, piece in _pieces(text, characters):
        if part and length + 1 + len(piece) > characters:
            parts.append(_join(part))
            part = _tail(part, min(overlap, characters - len(piece) - 1))
            length = len(_join(part))
        length += len(piece) + bool(part)
        part.append((before, piece))
    if part:
        parts.append(_join(part))
    return parts


def _pieces(text: str, characters: int) -> Iterator[tuple[str, str]]:
    """What stands before each piece that is not the first of its part, and the piece, of at most `characters`."""
    for turn in turns(text):
        before = "\n"
        for sentence in [turn] if len(turn) <= characters else _sentences(turn):
            rest = sentence
            while rest:
                cut = characters if len(rest) > characters else len(rest)
                if cut < len(rest) and (space := rest.rfind(" ", 1, characters + 1)) > 0:
                    cut = space
                yield before, rest[:cut]
                before, rest = " ", rest[cut:].lstrip()


def _sentences(turn: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(turn) if sentence]


def _join(part: Sequence[tuple[str, str]]) -> str:
    return "".join(before + piece for before, piece in part)[1:]


def _tail(part: Sequence[tuple[str, str]], characters: int) -> list[tuple[str, str]]:
    """The last pieces that fit into `characters` together."""
    first = len(part)
    while first and (characters := characters - len(part[first - 1][1])) >= 0:
        first -= 1
        characters -= 1
    return list(part[first:])
