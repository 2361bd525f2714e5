"""Ranks that claim no more than the rows show: a range for each subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.evaluation.intervals import Measured
from inference.evaluation.paired import SIGNIFICANT, Comparison

LOWER_IS_BETTER = frozenset({"ece"})


@dataclass(frozen=True, slots=True)
class Rank:
    """best, worst: the ranks that the subject may have. ties: subjects that it cannot be told apart from."""

    name: str
    best: int
    worst: int
    ties: tuple[str, ...]


def ranks(metric: str, figures: Mapping[str, Measured], compared: Sequence[Comparison] = ()) -> list[Rank]:
    """Subjects by their figure, best first; those without one last.

    Two subjects differ if their paired difference does, for as many comparisons as were made. Where they were not
    compared by this metric, they differ if their intervals do not overlap, which is the harder test.
    """
    order = sorted(figures, key=lambda name: _worth(metric, figures[name]), reverse=True)
    differ = {
        frozenset((pair.first, pair.second)): pair.differences[metric].adjusted < SIGNIFICANT
        for pair in compared
        if metric in pair.differences
    }
    found = []
    for place, name in enumerate(order):
        apart = {
            other: differ.get(frozenset((name, other)), _apart(figures[name], figures[other]))
            for other in order
            if other != name
        }
        better = sum(apart[other] for other in order[:place])
        worse = sum(apart[other] for other in order[place + 1 :])
        found.append(
            Rank(name, 1 + better, len(order) - worse, tuple(each for each in order if not apart.get(each, True)))
        )
    return found


def _worth(metric: str, figure: Measured) -> float:
    if figure.value is None:
        return float("-inf")
    return -figure.value if metric in LOWER_IS_BETTER else figure.value


def _apart(a: Measured, b: Measured) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low
