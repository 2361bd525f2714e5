"""For how many rows of the traffic one stands that the model judged.

Once a cascade decides rows, those that the model judged are no random sample: it was asked about the doubtful ones, and
about few of the others. Whether it was asked depends on the row's risk, on whether the cascade was open then, and on
chance; not on the row's words beyond their risk. So within a narrow band of risks those that were judged stand for all
of it (propensity score strata: Rosenbaum and Rubin 1984), each with the inverse of the share that was judged (Horvitz
and Thompson 1952).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

BANDS = 100  # of risks from 0 to 1


def weights(bands: Sequence[tuple[int, int]]) -> list[float]:
    """The weight of a judged row in each band of the risks of one screen.

    bands: from the lowest risk on, how many rows it has and how many of them were judged. A band in which none was
    judged is taken together with those after it, up to one that has some; the last ones with those before them.
    """
    found: list[float] = []
    first, rows, judged = 0, 0, 0
    groups: list[tuple[int, int, int]] = []  # bands, rows, judged
    for place, (more, of_them) in enumerate(bands, 1):
        rows, judged = rows + more, judged + of_them
        if judged:
            groups.append((place - first, rows, judged))
            first, rows, judged = place, 0, 0
    if first < len(bands) and groups:
        size, before, of_them = groups.pop()
        groups.append((size + len(bands) - first, before + rows, of_them))
    for size, rows, judged in groups:
        found += [rows / judged] * size
    return found or [1.0] * len(bands)


def effective(values: ArrayLike) -> float:
    """How many rows of one weight tell as much as rows of these weights (Kish 1965)."""
    found = np.asarray(values, dtype=np.float64)
    return float(found.sum() ** 2 / (found**2).sum()) if found.size else 0.0
