"""What is measured: the answers of a subject to labelled rows, and what a right answer is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Task:
    """labels: of the stage, in the order of its scores. fine: index of the label of text with which nothing is wrong,
    where there is one: then rows are flagged or passed, and that is what counts first. coarse: labels of the data that
    say that something is wrong, and not what.
    """

    labels: tuple[str, ...]
    fine: int | None = None
    coarse: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one subject: an engine with a prompt. One entry a row in everything but the name.

    keys: what tells rows apart, the same for all subjects. truth: labels of people. predicted: the label that the
    decision stands for. flagged: whether the decision is against the text; of no meaning where the task has no fine
    label. scores: probabilities, rows by labels. seconds: of the slowest prompt. engine_seconds, cost_usd, tokens: of
    all prompts together.
    """

    name: str
    keys: tuple[str, ...]
    truth: tuple[str, ...]
    langs: tuple[str, ...]
    predicted: tuple[str, ...]
    flagged: Flags
    scores: Vector
    seconds: Vector
    engine_seconds: Vector
    cost_usd: Vector
    tokens: Vector

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> "Answers":
        """These rows only, in this order."""
        chosen = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            keys=tuple(self.keys[row] for row in chosen),
            truth=tuple(self.truth[row] for row in chosen),
            langs=tuple(self.langs[row] for row in chosen),
            predicted=tuple(self.predicted[row] for row in chosen),
            flagged=self.flagged[chosen],
            scores=self.scores[chosen],
            seconds=self.seconds[chosen],
            engine_seconds=self.engine_seconds[chosen],
            cost_usd=self.cost_usd[chosen],
            tokens=self.tokens[chosen],
        )


@dataclass(frozen=True, slots=True)
class Binary:
    """One question of yes or no. score: probability of yes. chosen: what was decided. outcome: what is true."""

    score: Vector
    chosen: Flags
    outcome: Flags

    def __len__(self) -> int:
        return len(self.outcome)


def side(task: Task, answers: Answers) -> Binary:
    """Is the text against the rules? Of tasks with a fine label."""
    assert task.fine is not None
    fine = task.labels[task.fine]
    outcome = np.array([label != fine for label in answers.truth], dtype=bool)
    return Binary(1 - answers.scores[:, task.fine], answers.flagged, outcome)


def of_label(task: Task, answers: Answers, label: str) -> Binary:
    """Is it this label? Rows with a coarse label are left out, unless the fine label is asked for: whether they are of
    another one is not known.
    """
    index = task.labels.index(label)
    rows = [row for row, true in enumerate(answers.truth) if true not in task.coarse or index == task.fine]
    known = answers.take(rows)
    return Binary(
        known.scores[:, index],
        np.array([each == label for each in known.predicted], dtype=bool),
        np.array([each == label for each in known.truth], dtype=bool),
    )


def right(task: Task, answers: Answers) -> Flags:
    """Which decisions are right: of tasks with a fine label, the side; of others, the label."""
    if task.fine is not None:
        asked = side(task, answers)
        return np.equal(asked.chosen, asked.outcome)
    return np.array([a == b for a, b in zip(answers.predicted, answers.truth, strict=True)], dtype=bool)


def confidence(task: Task, answers: Answers) -> Binary:
    """The probability whose calibration counts, and what came of it: that the text is against the rules, or that the
    most probable label is right.
    """
    if task.fine is not None:
        return side(task, answers)
    rows = right(task, answers)
    return Binary(answers.scores.max(axis=1) if len(answers) else np.zeros(0), np.ones(len(rows), dtype=bool), rows)
