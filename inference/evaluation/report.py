"""All figures of one subject: in all, by label, by language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from inference.evaluation.answers import Answers, Binary, Task, confidence, of_label, right, side
from inference.evaluation.intervals import UNKNOWN, Measured, bootstrapped, f1, share
from inference.evaluation.statistics import of_binary, of_task
from inference.fit import Bin, quality, reliability

FEW = 30  # rows of an outcome, below which a note says so

_LEAST = 10  # rows for a calibration error
_POINTS = 200  # of a curve, at most

Curve = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are measured together. positives: rows for which the answer is yes; of groups that are asked no such
    question, 0. metrics: figure by name. by_chance: calibration error that perfect scores stay below in 95 of 100
    cases.
    """

    rows: int
    positives: int
    metrics: Mapping[str, Measured]
    by_chance: float | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What the answers took. Seconds: p50, p95, p99 of a row's slowest prompt; engine_seconds of all rows. tokens: of
    all rows, prompt and answer. asked: rows that took any; a screen decides the others.
    """

    seconds: tuple[float, float, float]
    engine_seconds: float
    cost_usd: float
    tokens: int
    asked: int

    def cost_of_a_thousand(self, rows: int) -> float:
        """US dollars for a thousand rows like these."""
        return 1000 * self.cost_usd / rows if rows else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """overall, labels, languages: figures. flagged: share of rows that was flagged, by label of the data, for tasks
    with a fine label. confusion: rows by label of the data (`truths`) and predicted label. roc, precision_recall:
    points of the curves. bins: of a reliability diagram.
    """

    name: str
    overall: Group
    labels: Mapping[str, Group]
    languages: Mapping[str, Group]
    flagged: Mapping[str, Measured]
    truths: Sequence[str]
    confusion: Sequence[Sequence[int]]
    roc: Curve
    precision_recall: Curve
    bins: Sequence[Bin]
    work: Work
    notes: Sequence[str]


def report(task: Task, answers: Answers) -> Report:
    """Measure the answers. What is not defined is None, and a note says why."""
    truths = [label for label in (*task.labels, *sorted(task.coarse)) if label in set(answers.truth)]
    columns = [*truths, *(label for label in task.labels if label not in truths)]
    counted = (
        confusion_matrix(answers.truth, answers.predicted, labels=columns) if len(answers) else np.zeros((0, 0), int)
    )
    chosen = [columns.index(label) for label in task.labels]
    roc, precision_recall = _curves(side(task, answers)) if task.fine is not None else ([], [])
    asked = confidence(task, answers)
    return Report(
        answers.name,
        _in_all(task, answers),
        {label: _of_label(task, answers, label) for label in task.labels if label in truths},
        {lang: _in_all(task, answers.take(rows)) for lang, rows in _by(answers.langs).items() if lang},
        _flagged(answers, truths) if task.fine is not None else {},
        truths,
        counted[: len(truths)][:, chosen].tolist() if len(answers) else [],
        roc,
        precision_recall,
        reliability(asked.score, asked.outcome.astype(float)) if len(answers) else [],
        _work(answers),
        _notes(task, answers, truths),
    )


def _in_all(task: Task, answers: Answers) -> Group:
    correct = right(task, answers)
    accuracy = share(int(correct.sum()), len(correct))
    calibration, by_chance = _calibration(confidence(task, answers))
    if task.fine is not None:
        asked = side(task, answers)
        metrics = {**_of_binary(asked), "accuracy": accuracy, "ece": calibration}
        return Group(len(answers), int(asked.outcome.sum()), metrics, by_chance)
    rarest = min(_by(answers.truth).values(), key=len, default=[])
    others = {name: each for name, each in of_task(task, answers).items() if name != "accuracy"}
    metrics = {"accuracy": accuracy, **bootstrapped(others, len(answers), len(rarest)), "ece": calibration}
    return Group(len(answers), 0, metrics, by_chance)


def _of_label(task: Task, answers: Answers, label: str) -> Group:
    asked = of_label(task, answers, label)
    calibration, by_chance = _calibration(asked)
    return Group(len(asked), int(asked.outcome.sum()), {**_of_binary(asked), "ece": calibration}, by_chance)


def _of_binary(asked: Binary) -> dict[str, Measured]:
    hits = int((asked.chosen & asked.outcome).sum())
    chosen, true = int(asked.chosen.sum()), int(asked.outcome.sum())
    areas = {name: each for name, each in of_binary(asked).items() if name in ("auroc", "auprc")}
    return {
        "precision": share(hits, chosen),
        "recall": share(hits, true),
        "f1": f1(hits, chosen + true - 2 * hits),
        **bootstrapped(areas, len(asked), min(true, len(asked) - true) or true),
    }


def _calibration(asked: Binary) -> tuple[Measured, float | None]:
    if len(asked) < _LEAST:
        return UNKNOWN, None
    found = quality(asked.score, asked.outcome.astype(float))
    low, high = found.interval
    return Measured(found.ece, min(low, found.ece), max(high, found.ece), found.rows, "bootstrap"), found.by_chance


def _flagged(answers: Answers, truths: Sequence[str]) -> dict[str, Measured]:
    rows = _by(answers.truth)
    return {label: share(int(answers.flagged[rows[label]].sum()), len(rows[label])) for label in truths}


def _by(names: Sequence[str]) -> dict[str, list[int]]:
    """Rows by name, names in order."""
    found: dict[str, list[int]] = {name: [] for name in sorted(set(names))}
    for row, name in enumerate(names):
        found[name].append(row)
    return found


def _curves(asked: Binary) -> tuple[Curve, Curve]:
    if asked.outcome.all() or not asked.outcome.any():
        return [], []
    false, true, _ = roc_curve(asked.outcome, asked.score)
    precision, recall, _ = precision_recall_curve(asked.outcome, asked.score, drop_intermediate=True)
    return _thinned(false, true), _thinned(recall[::-1], precision[::-1])


def _thinned(x: np.ndarray, y: np.ndarray) -> Curve:
    kept = np.unique(np.linspace(0, len(x) - 1, min(_POINTS, len(x))).astype(int))
    return [(float(x[each]), float(y[each])) for each in kept]


def _work(answers: Answers) -> Work:
    p50, p95, p99 = np.percentile(answers.seconds, [50, 95, 99]) if len(answers) else (0.0, 0.0, 0.0)
    return Work(
        (float(p50), float(p95), float(p99)),
        float(answers.engine_seconds.sum()),
        float(answers.cost_usd.sum()),
        int(answers.tokens.sum()),
        int((answers.tokens > 0).sum()),
    )


def _notes(task: Task, answers: Answers, truths: Sequence[str]) -> list[str]:
    notes = []
    if task.fine is not None:
        true = int(side(task, answers).outcome.sum())
        other = len(answers) - true
        if not true or not other:
            which = "against the rules" if not true else "allowed"
            notes.append(f"No row is {which}: AUROC is not defined, and the figures tell of one side only.")
        elif min(true, other) < FEW:
            notes.append(
                f"Few rows: {true} against the rules, {other} allowed. Intervals are wide below {FEW} of each."
            )
    elif len(truths) < 2:
        notes.append("All rows have the same label: nothing shows whether labels are told apart.")
    else:
        few = [label for label, rows in _by(answers.truth).items() if len(rows) < FEW]
        notes += [f"Less than {FEW} rows of: {', '.join(few)}. Their intervals are wide."] if few else []
    if task.coarse & set(truths):
        names = ", ".join(sorted(task.coarse & set(truths)))
        notes.append(
            f"Rows labelled {names} are known to be against the rules and not against which: they count for that, and "
            "for no category."
        )
    repeated = len(answers) - len({key.partition("-")[0] for key in answers.keys})
    if repeated:
        notes.append(f"{repeated} rows repeat the text of another one; intervals take rows for independent.")
    return notes
