"""The community sets as a cascade sees them: risks of the shipped screen, and what the annotators flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inference.screen.model import load
from inference.screen.train import held_out

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"en": "community_en.jsonl", "pt": "community_pt.jsonl"}
SCREEN = Path(__file__).resolve().parents[1] / "deploy" / "screens" / "community-1.safetensors"
ABSENT = "the community sets are not beside this checkout (../shared/data): nothing to measure\n"

_ALLOWED = ("neither", "clean")
_SEED = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows that the screen has never seen. risk: the screen's; flagged: by the annotators' label."""

    texts: NDArray[np.object_]
    risk: NDArray[np.float64]
    flagged: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.risk)

    def take(self, rows: NDArray[np.intp] | slice) -> "Scored":
        """These rows."""
        return Scored(self.texts[rows], self.risk[rows], self.flagged[rows])


def read(language: str, data: Path = DATA) -> list[dict[str, Any]]:
    """The rows of a set. Raises FileNotFoundError."""
    return [orjson.loads(line) for line in (data / SETS[language]).read_bytes().splitlines()]


def scored(language: str, data: Path = DATA) -> Scored:
    """All rows of a set that no screen with the shipped split was fitted to, in an order by chance.

    Raises FileNotFoundError.
    """
    found = [row for row in read(language, data) if held_out(row["text"])]
    texts = np.array([row["text"] for row in found], dtype=object)
    flagged = np.array([row["label"] not in _ALLOWED for row in found])
    rows = Scored(texts, load(SCREEN).risks(texts.tolist()), flagged)
    return rows.take(np.random.default_rng(_SEED).permutation(len(found)))


def thinned(rows: Scored, share: float) -> Scored:
    """All rows that are fine, and the first flagged ones, so many that their share is this one."""
    fine, flagged = np.flatnonzero(~rows.flagged), np.flatnonzero(rows.flagged)
    kept = round(len(fine) * share / (1 - share))
    return rows.take(np.sort(np.concatenate([fine, flagged[:kept]])))
