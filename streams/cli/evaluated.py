"""From judgements to what is measured and stored."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from inference.operators import AnySettings
from inference.operators.extract import ExtractSettings
from inference.operators.guard import GuardSettings
from inference.operators.moderate import ModerateSettings
from inference.operators.summarize import SummarizeSettings
from sinks.rows import EvaluatedRow, EvaluationRow
from streams.cli.journal import JudgedRow
from streams.cli.labelled import Row

if TYPE_CHECKING:
    from inference.evaluation.answers import Answers, Task

OPERATORS = ("moderate", "guard", "classify", "check")  # that give one label of several

_ALLOWED = "allow"


def task_of(settings: AnySettings, coarse: Iterable[str] = ()) -> "Task":
    """What a right answer of the operator is. coarse: labels of the data that say only "against the rules"."""
    from inference.evaluation.answers import Task

    assert not isinstance(settings, ExtractSettings | SummarizeSettings)
    labels = tuple(settings.labels())
    fine = labels.index(settings.allowed.name) if isinstance(settings, ModerateSettings | GuardSettings) else None
    return Task(labels, fine, frozenset(coarse))


def task_of_run(run: EvaluationRow) -> "Task":
    """The same, of a stored run."""
    from inference.evaluation.answers import Task

    return Task(tuple(run.labels), run.labels.index(run.fine) if run.fine else None, frozenset(run.coarse))


def evaluated(run: str, row: Row, judged: JudgedRow, task: "Task") -> EvaluatedRow:
    """One row as it is measured and stored."""
    scores = [judged.scores.get(label, 0.0) for label in task.labels]
    return EvaluatedRow(
        run,
        row.key,
        row.id,
        row.label,
        row.lang,
        judged.decision,
        _predicted(judged, task),
        task.fine is not None and judged.decision != _ALLOWED,
        scores,
        judged.confidence,
        judged.seconds,
        judged.engine_seconds,
        judged.cost_usd,
        judged.input_tokens,
        judged.cached_tokens,
        judged.output_tokens,
        judged.judged_at,
    )


def _predicted(judged: JudgedRow, task: "Task") -> str:
    """The label that the decision stands for: of a flagged text the most probable category, even where the allowed
    label is more probable than any single one of them.
    """
    if task.fine is None:
        return judged.label
    fine = task.labels[task.fine]
    if judged.decision == _ALLOWED:
        return fine
    return max((label for label in task.labels if label != fine), key=lambda label: judged.scores.get(label, 0.0))


def answers_of(name: str, task: "Task", rows: Sequence[EvaluatedRow]) -> "Answers":
    """Rows of one run, to be measured."""
    import numpy as np

    from inference.evaluation.answers import Answers

    def column(values: Iterable[float]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        return np.array(list(values), dtype=np.float64)

    return Answers(
        name,
        tuple(row.row_key for row in rows),
        tuple(row.truth for row in rows),
        tuple(row.lang for row in rows),
        tuple(row.predicted for row in rows),
        np.array([row.flagged for row in rows], dtype=bool),
        np.array([row.scores for row in rows], dtype=np.float64).reshape(-1, len(task.labels)),
        column(row.seconds for row in rows),
        column(row.engine_seconds for row in rows),
        column(row.cost_usd for row in rows),
        column(row.input_tokens + row.output_tokens for row in rows),
    )


def rows_hash(rows: Sequence[Row]) -> str:
    """SHA-256 of rows with their labels, in whatever order they stand."""
    lines = sorted(f"{row.key} {row.label}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def names_told_apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """Names, with more behind those that several have."""
    counted: Mapping[str, int] = {name: names.count(name) for name in names}
    return [f"{name} {add}" if counted[name] > 1 else name for name, add in zip(names, more, strict=True)]
