"""Answers of which everything is known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from inference.evaluation.answers import Answers, Task

Make = Callable[..., Answers]


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(("ok", "insult", "spam"), 0, frozenset({"toxic"}))


@pytest.fixture(scope="session")
def sorting() -> Task:
    return Task(("bill", "parcel", "other"))


@pytest.fixture(scope="session")
def make() -> Make:
    """`make(task, truth, scores)`: answers that choose the most probable label, and flag from half the risk on."""

    def answers(
        task: Task,
        truth: Sequence[str],
        scores: Sequence[Sequence[float]],
        name: str = "a",
        langs: Sequence[str] = (),
        keys: Sequence[str] = (),
    ) -> Answers:
        table = np.array(scores, dtype=float).reshape(-1, len(task.labels))
        each = np.full(len(truth), 0.5)
        flagged = 1 - table[:, task.fine] >= 0.5 if task.fine is not None else np.zeros(len(truth), dtype=bool)
        return Answers(
            name,
            tuple(keys) or tuple(f"k{row}" for row in range(len(truth))),
            tuple(truth),
            tuple(langs) or ("en",) * len(truth),
            tuple(task.labels[each] for each in table.argmax(axis=1)) if len(truth) else (),
            flagged,
            table,
            each,
            each,
            each / 100,
            each * 100,
        )

    return answers


@pytest.fixture(scope="session")
def noisy(make: Make) -> Callable[..., Answers]:
    """`noisy(task, 200, 0.8, seed=1)`: answers to the same rows that lean to the truth by so much."""

    def answers(task: Task, rows: int, lean: float, seed: int = 1, name: str = "a") -> Answers:
        truth = [task.labels[row % len(task.labels)] for row in range(rows)]
        scores = np.random.default_rng(seed).dirichlet(np.ones(len(task.labels)), rows)
        for row, label in enumerate(truth):
            scores[row] *= 1 - lean
            scores[row, task.labels.index(label)] += lean
        return make(task, truth, scores, name=name)

    return answers
