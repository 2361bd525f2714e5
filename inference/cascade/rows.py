"""The calibration sample: what rows were scored, and what the reference said of them."""

from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]


def checked(scores: ArrayLike, flagged: ArrayLike) -> tuple[Scores, Flags]:
    """Scores, rows by tiers (or one of each row for one tier), and whether the reference flags each row.

    Raises ValueError, naming the first row that is wrong: no number, or outside 0..1, or no yes or no.
    """
    try:
        found = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores must be numbers from 0 to 1, as many for each row: {error}") from None
    flags: NDArray[Any] = np.asarray(flagged)
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or flags.ndim != 1 or len(found) != len(flags):
        raise ValueError(
            f"one answer of the reference is needed for each row of scores; shapes: {found.shape} and {flags.shape}"
        )
    if len(flags) and not np.isin(flags, [0, 1]).all():
        row = int(np.argmin(np.isin(flags, [0, 1])))
        raise ValueError(f"row {row}: the reference flags a row or not, but says {flags[row]!r}")
    wrong = ~((found >= 0) & (found <= 1)).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"row {row}: scores must be from 0 to 1, not {found[row].tolist()}; {wrong.sum()} rows are wrong"
        )
    return found, flags.astype(bool)


def halves(scores: Scores, flags: Flags) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of two halves by chance, whatever order the rows are in; the second has the odd one.

    The rows are the seed: the same sample is always halved alike, and two samples are not, which one seed for all would
    do to rows that are sorted.
    """
    seed = crc32(flags.tobytes(), crc32(scores.tobytes()))
    order = np.random.default_rng(seed).permutation(len(flags))
    return order[: len(flags) // 2], order[len(flags) // 2 :]
