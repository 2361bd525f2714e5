"""A screen: a linear model over hashed character n-grams, kept in a file that holds numbers and no code.

Needs the extra `screen`. The file is of the safetensors format: `weights` (scores by features, half precision) and
`biases`, and under `screen` in its metadata a JSON object that says what it is.
"""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
import orjson
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from sklearn.feature_extraction.text import HashingVectorizer

from inference.screen.errors import ScreenUnusable
from inference.screen.normalize import normalized

Scores = NDArray[np.float64]

_METADATA = "screen"
_WORDS = 1 << 16  # remembered, of how many characters together:
_CHARACTERS = 4_000_000
_FAR = 500.0  # evidence beyond which a probability is 0 or 1 in any case
_HEADER_LENGTH = 8  # bytes, little-endian; then the header, JSON


class Features(BaseModel):
    """Which features of a text the screen reads: n-grams of characters inside words, hashed (Weinberger et al. 2009).

    low, high: shortest and longest n-gram, in characters. bits: there are 2 ** bits features. normalization: version of
    `inference.screen.normalize`; 0 leaves texts as they are, but for capitals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Annotated[int, Field(ge=1, le=8)] = 3
    high: Annotated[int, Field(ge=1, le=8)] = 5
    bits: Annotated[int, Field(ge=10, le=22)] = 18
    normalization: Literal[0, 1] = 1

    def vectorizer(self) -> HashingVectorizer:
        """What counts the n-grams of texts that are normalised. It has learned nothing, so nothing of it is kept."""
        return HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(self.low, self.high),
            n_features=1 << self.bits,
            alternate_sign=False,
            norm=None,
            lowercase=False,
            dtype=np.float32,
        )

    def words(self, text: str) -> list[str]:
        """The words of the text, normalised. No n-gram spans two of them."""
        return (normalized(text) if self.normalization else text.lower()).split()


class Card(BaseModel):
    """What a screen says of itself.

    categories: of which it gives probabilities beside the risk. held_out: share of texts, chosen by `split`, that no
    screen with this split was trained on. trained_on: data and their licences. rows: texts it was fitted to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    features: Features
    categories: tuple[str, ...] = ()
    trained_on: tuple[str, ...] = ()
    licence: str = ""
    rows: int = 0
    split: str = ""
    seed: int = 0


class Screen:
    """Says of texts how probable it is that they are to be flagged. May be used by several threads at once.

    The evidence of a text is the sum over its words' n-grams, divided by the square root of how many these are. So a
    word's part of it is always the same, and is remembered: most words of a stream are old acquaintances.
    """

    def __init__(self, card: Card, weights: NDArray[np.float32], biases: NDArray[np.float32], sha256: str = "") -> None:
        """weights: one row for the risk and one for each category, by features. sha256: of the file."""
        self.card = card
        self.sha256 = sha256
        self._vectorizer = card.features.vectorizer()
        self._weights = np.ascontiguousarray(weights.T, dtype=np.float32)
        self._biases = biases.astype(np.float64)
        self._known: dict[str, int] = {}
        self._characters = 0  # of the words known
        self._words = np.empty((_WORDS, weights.shape[0] + 1))  # evidence of each word, and its n-grams
        self._lock = Lock()

    def scores(self, texts: Sequence[str]) -> Scores:
        """Probabilities, texts by 1 + categories: of being flagged, then of each category of the card."""
        words = [self.card.features.words(text) for text in texts]
        owners = np.repeat(np.arange(len(texts)), list(map(len, words)))
        found = self._of_words(list(chain.from_iterable(words)))
        sums = [np.bincount(owners, column, len(texts)) for column in found.T]
        evidence = np.stack(sums[:-1], axis=1) / np.sqrt(np.maximum(sums[-1], 1))[:, None] + self._biases
        scores: Scores = 1 / (1 + np.exp(-np.clip(evidence, -_FAR, _FAR)))
        return scores

    def risks(self, texts: Sequence[str]) -> Scores:
        """The probability of each text that it is to be flagged. Batches of some hundred are the fastest."""
        risks: Scores = self.scores(texts)[:, 0]
        return risks

    def _of_words(self, words: Sequence[str]) -> Scores:
        """What each word adds to the evidence for each score, and how many n-grams it has."""
        with self._lock:
            new = {word for word in words if word not in self._known}
            if len(self._known) + len(new) > _WORDS or self._characters > _CHARACTERS:
                self._known.clear()
                self._characters = 0
                new = set(words)
            if len(new) > _WORDS:
                return self._ask(words)
            if new:
                first = len(self._known)
                ordered = sorted(new)
                self._words[first : first + len(new)] = self._ask(ordered)
                self._known |= zip(ordered, range(first, first + len(new)), strict=True)
                self._characters += sum(map(len, new))
            found: Scores = self._words[[self._known[word] for word in words]]
            return found

    def _ask(self, words: Sequence[str]) -> Scores:
        grams = self._vectorizer.transform(words)
        return np.column_stack([grams @ self._weights, np.asarray(grams.sum(axis=1))])

    def dump(self) -> bytes:
        """The bytes of its file. The same screen gives the same bytes."""
        tensors: dict[str, NDArray[Any]] = {
            "weights": np.ascontiguousarray(self._weights.T, dtype=np.float16),
            "biases": self._biases.astype(np.float32),
        }
        return safetensors.numpy.save(tensors, {_METADATA: self.card.model_dump_json()})


def load(file: Path, sha256: str | None = None) -> Screen:
    """The screen of a file. sha256: what the file must hash to, in hexadecimal; None: anything.

    Raises ScreenUnusable.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ScreenUnusable(f"the screen {file} cannot be read: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ScreenUnusable(
            f"{file} is not the screen that was pinned: its SHA-256 is {found}, not {sha256}; restore the file, or pin "
            "the new one once it has been evaluated"
        )
    try:
        return _parse(content, found)
    except (SafetensorError, ValidationError, ValueError, KeyError) as error:
        raise ScreenUnusable(f"{file} holds no screen that this version can use: {error}") from error


def _parse(content: bytes, sha256: str) -> Screen:
    tensors = safetensors.numpy.load(content)
    card = Card.model_validate_json(_metadata(content)[_METADATA])
    weights, biases = tensors["weights"], tensors["biases"]
    shape = (1 + len(card.categories), 1 << card.features.bits)
    if weights.shape != shape or biases.shape != shape[:1]:
        raise ValueError(f"weights of shape {weights.shape}, biases of {biases.shape}; the card says {shape}")
    if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
        raise ValueError("weights that are no numbers")
    return Screen(card, weights.astype(np.float32), biases.astype(np.float32), sha256)


def _metadata(content: bytes) -> dict[str, str]:
    """Free metadata of a safetensors file; its library gives them only of a path, which may be another file by then."""
    length = int.from_bytes(content[:_HEADER_LENGTH], "little")
    header: dict[str, dict[str, str]] = orjson.loads(content[_HEADER_LENGTH : _HEADER_LENGTH + length])
    return header["__metadata__"]
