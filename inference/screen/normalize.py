"""Text as it was meant: what writers do to get words past a filter is undone before the filter looks.

The result is for a classifier, not for people: lower case, and Latin letters without accents. Words of other scripts
are left whole.
"""

import re
from unicodedata import category, is_normalized, name, normalize

VERSION = 1  # of what `normalized` does; a screen is trained on one version and refuses another

_PASSES = 5  # of Unicode's folding; two are enough for text that nobody built to need more

# Look-alikes of Latin letters among Cyrillic, Greek and Armenian ones, small ones and capitals made small, after
# Unicode Technical Standard 39.
_LOOK_ALIKES = {
    "a": "аα",
    "b": "вьβ",
    "c": "сς",
    "d": "ԁ",
    "e": "еεҽ",
    "g": "ց",
    "h": "нһհ",
    "i": "іι",
    "j": "јյ",
    "k": "кκ",
    "l": "ӏ",
    "m": "м",
    "n": "пոη",
    "o": "оοօσ",
    "p": "рρ",
    "q": "ԛ",
    "r": "г",
    "s": "ѕ",
    "t": "тτ",
    "u": "սυμ",
    "v": "ѵν",
    "w": "ԝшω",
    "x": "хχ",
    "y": "уүγ",
    "z": "ζ",
}
_LATIN_NAME = re.compile(
    r"(?:NEGATIVE (?:CIRCLED|SQUARED) |REGIONAL INDICATOR SYMBOL |MODIFIER )?(?:LATIN )?"
    r"(?:SMALL LETTER|CAPITAL LETTER|LETTER SMALL CAPITAL|LETTER|SYMBOL LETTER) (?:SMALL )?(?:DOTLESS |SCRIPT |OPEN )?"
    r"([A-Z])(?: WITH .*)?"
)
_LATIN_BLOCKS = (
    (0xC0, 0x2B0),
    (0x1D00, 0x1DC0),
    (0x1E00, 0x1F00),
    (0x2C60, 0x2C80),
    (0xA720, 0xA800),
    (0x1F100, 0x1F200),
)
_MARKS = ((0x300, 0x370), (0x1AB0, 0x1B00), (0x1DC0, 0x1E00), (0x20D0, 0x2100), (0xFE00, 0xFE10), (0xFE20, 0xFE30))
_FILLERS = "\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters by category, and nothing to see


def _table() -> dict[int, str]:
    """What becomes of a character: of Latin letters the plain ones, of what shows nothing, nothing."""
    found = {ord("ß"): "ss", ord("æ"): "ae", ord("œ"): "oe", ord("Æ"): "ae", ord("Œ"): "oe", ord("ẞ"): "ss"}
    for first, end in _LATIN_BLOCKS:
        for code in range(first, end):
            named = name(chr(code), "")
            if ("LATIN" in named or "REGIONAL" in named) and (letter := _LATIN_NAME.fullmatch(named)):
                found.setdefault(code, letter[1].lower())
    for first, end in _MARKS:
        found |= dict.fromkeys(range(first, end), "")
    unseen = (*range(0x10000), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000))
    found |= {code: "" for code in unseen if category(chr(code)) in {"Cf", "Cs"} or code >= 0xE0000}
    found |= {ord(filler): "" for filler in _FILLERS}
    for joiner in (0x200C, 0x200D):  # they shape the words of some scripts
        del found[joiner]
    return found


_FOLDED = _table()
_STRAY_JOINER = re.compile("(?<![\u0590-\u109f\u1780-\u18af\ua840-\uabff])[\u200c\u200d]+")

_WORD = re.compile(r"(?:[^\W_]|[$@!])++")
_LATIN = re.compile("[a-z]")
_ALIKE = str.maketrans({alike: letter for letter, all_alike in _LOOK_ALIKES.items() for alike in all_alike})

# Single letters with something between them: dots and the like between three, one space between four. Shorter ones are
# abbreviations, and words of one letter, of which Portuguese chats put three in a row.
_APART = re.compile(
    r"(?<![^\W_])[a-z](?:[._\-*|/]+[a-z013457@$!](?![^\W_])){2,}|(?<![^\W_])[a-z](?: [a-z](?![^\W_])){3,}"
)
_SINGLE = re.compile(r"[._\-*|/ ][a-z013457@$!][._\-*|/ ]+[a-z013457@$!](?![^\W_])")  # stands in each of them
_BETWEEN = str.maketrans("", "", "._-*|/ ")

_DIGIT_LETTERS = str.maketrans("013457@$!", "oieastasi")
_SIGN = re.compile("[013457@$!]")
_LEET = re.compile(r"[a-z][013457@$!]+[a-z]|\$[a-z]|[a-z]\$")
_LEET_WORD = re.compile(r"[a-z0-9@$!]++")
_REPEATED = re.compile(r"(.)\1\1+", re.DOTALL)


def normalized(text: str) -> str:
    """The text as it was meant, as far as its letters tell. Never raises; what is normalised already stays as it is.

    In this order: compatibility forms (NFKC, Unicode Standard Annex 15), characters that show nothing, accents and
    variants of Latin letters, lower case; look-alikes of Latin letters in words that have Latin letters too; letters
    set apart (`f.u.n.n.y`); digits and signs for letters inside words (`m0r3`); letters repeated more than twice, of
    which one stays, and two of other characters and of words of one letter.
    """
    text = text.lower() if text.isascii() else _unmasked(_folded(text))
    if _SINGLE.search(text):
        text = _APART.sub(_joined, text)
    if _SIGN.search(text) and _LEET.search(text):
        text = _LEET_WORD.sub(_spelled, text)
    return _REPEATED.sub(_shortened, text) if _REPEATED.search(text) else text


def _folded(text: str) -> str:
    for _ in range(_PASSES):
        before = text
        text = _STRAY_JOINER.sub("", text.translate(_FOLDED)).lower()
        if text.isascii():
            break
        if not is_normalized("NFKC", text):
            text = normalize("NFKC", text)
        elif text == before:
            break
    return text


def _unmasked(text: str) -> str:
    return text if text.isascii() else _WORD.sub(_latin, text)


def _latin(found: re.Match[str]) -> str:
    """The word in Latin letters, if it has some and all others look like some."""
    word = found[0]
    if word.isascii() or not _LATIN.search(word):
        return word
    plain = word.translate(_ALIKE)
    return plain if plain.isascii() else word


def _joined(found: re.Match[str]) -> str:
    return found[0].translate(_BETWEEN)


def _spelled(found: re.Match[str]) -> str:
    word = found[0]
    if word.isalpha() or not _LEET.search(word):
        return word
    spoken = word.rstrip("!")
    return spoken.translate(_DIGIT_LETTERS) + word[len(spoken) :]


def _shortened(found: re.Match[str]) -> str:
    start, end = found.span()
    inside = found.string[max(0, start - 1) : start].isalpha() or found.string[end : end + 1].isalpha()
    return found[1] if inside and found[1].isalpha() else found[1] * 2
