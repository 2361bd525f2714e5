"""The community sets as a cascade sees them: risks of a quick screen, and what the annotators flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"en": "community_en.jsonl", "pt": "community_pt.jsonl"}

_ALLOWED = ("neither", "clean")
_SEED = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows that the screen was not trained on. risk: the screen's; flagged: by the annotators' label; places: of the
    rows in the set.
    """

    risk: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    places: NDArray[np.intp]


def read(language: str, data: Path = DATA) -> list[dict[str, Any]]:
    """The rows of a set. Raises FileNotFoundError."""
    return [orjson.loads(line) for line in (data / SETS[language]).read_bytes().splitlines()]


def scored(language: str, train: int, data: Path = DATA, rows: int | None = None) -> Scored:
    """A logistic regression on character n-grams of `train` rows by chance, and what it says of the others.

    rows: of those that are scored, at most so many. Raises FileNotFoundError.
    """
    found = read(language, data)
    order = np.random.default_rng(_SEED).permutation(len(found))
    texts = np.array([row["text"] for row in found], dtype=object)
    flagged = np.array([row["label"] not in _ALLOWED for row in found])
    grams = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**18, alternate_sign=False)
    model = LogisticRegression(C=3, max_iter=300)
    model.fit(grams.transform(texts[order[:train]]), flagged[order[:train]])
    rest = order[train:] if rows is None else order[train : train + rows]
    return Scored(model.predict_proba(grams.transform(texts[rest]))[:, 1], flagged[rest], rest)
