"""What `weir eval` shows: on a terminal, as JSON, as a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sinks.rows import EvaluatedRow, EvaluationRow
from streams.cli.evaluated import answers_of
from streams.cli.labelled import rows_told
from streams.cli.terminal import inert, plain

if TYPE_CHECKING:
    from inference.evaluation.answers import Answers, Task
    from inference.evaluation.intervals import Measured
    from inference.evaluation.page import Mistake
    from inference.evaluation.paired import Comparison
    from inference.evaluation.report import Group, Report

_MISTAKES = 10
_TEXT = 300  # characters of a mistake
_NUMBERS = 20  # of rows that were left out, in JSON

Run = tuple[EvaluationRow, list[EvaluatedRow]]


@dataclass(frozen=True, slots=True)
class About:
    """The data. left_out: numbers of rows, by why."""

    file: Path
    sha256: str
    rows_hash: str
    rows: int
    left_out: Mapping[str, Sequence[int]]
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """runs and reports: of each subject, in the same order. mistakes: of each, surest first."""

    task: "Task"
    runs: Sequence[EvaluationRow]
    reports: Sequence["Report"]
    compared: Sequence["Comparison"]
    mistakes: Sequence[Sequence["Mistake"]]


def measure(task: "Task", runs: Sequence[Run], texts: Mapping[str, str]) -> Found:
    """All figures. texts: words of rows by key, for the mistakes."""
    from inference.evaluation.paired import compare
    from inference.evaluation.report import report

    answers = [answers_of(run.name, task, rows) for run, rows in runs]
    return Found(
        task,
        [run for run, _ in runs],
        [report(task, each) for each in answers],
        compare(task, answers),
        [_mistakes(task, each, texts) for each in answers],
    )


def _mistakes(task: "Task", answers: "Answers", texts: Mapping[str, str]) -> list["Mistake"]:
    from inference.evaluation.answers import confidence, right
    from inference.evaluation.page import Mistake

    asked, correct = confidence(task, answers), right(task, answers)
    sure = asked.score if task.fine is None else [s if c else 1 - s for s, c in zip(asked.score, asked.chosen)]  # noqa: B905
    wrong = sorted((row for row in range(len(answers)) if not correct[row]), key=lambda row: -sure[row])
    return [
        Mistake(
            plain(texts.get(answers.keys[row], ""))[:_TEXT],
            answers.truth[row],
            answers.predicted[row],
            float(sure[row]),
        )
        for row in wrong[:_MISTAKES]
    ]


def show(about: About, found: Found) -> None:
    """Tables on standard output."""
    console = Console()
    console.print(f"{inert(str(about.file))}: {about.rows:,} rows, SHA-256 {about.sha256[:12]}")
    for why, numbers in about.left_out.items():
        console.print(f"left out: {rows_told(numbers)}: {inert(why)}", highlight=False)
    metrics = list(found.reports[0].overall.metrics)
    console.print(_table("subject", {report.name: report.overall for report in found.reports}, metrics))
    console.print(_work(found))
    for report in found.reports:
        name = f" of {inert(report.name)}" if len(found.reports) > 1 else ""
        if report.flagged:
            console.print(_flagged(report, name))
        if report.labels:
            names = [each for each in next(iter(report.labels.values())).metrics]  # noqa: C416
            console.print(_table("label", report.labels, names, f"by label{name}", of=True))
        if len(report.languages) > 1:
            console.print(_table("language", report.languages, metrics, f"by language{name}"))
    if found.compared:
        console.print(_compared(found))
        console.print(
            "p: McNemar's exact test of who is right; adjusted (Holm) for all pairs. Differences: first less second, "
            "paired bootstrap; * significant after adjustment.",
            highlight=False,
        )
    for report, run in zip(found.reports, found.runs, strict=True):
        name = f"{inert(report.name)}: " if len(found.reports) > 1 else ""
        notes = [
            *report.notes,
            *([f"The engine gave up {run.given_up} rows; they are not in the figures."] if run.given_up else []),
        ]
        console.print(*[f"{name}{inert(note)}" for note in notes], sep="\n", highlight=False) if notes else None


def _table(
    first: str, groups: Mapping[str, "Group"], metrics: Sequence[str], title: str = "", *, of: bool = False
) -> Table:
    from inference.evaluation.page import SHOWN, figure

    table = Table(first, title=title or None)
    for name in ("rows", *(["of it"] if of else []), *(SHOWN[metric] for metric in metrics)):
        table.add_column(name, justify="right")
    for name, group in groups.items():
        cells = [f"{group.rows:,}", *([f"{group.positives:,}"] if of else [])]
        table.add_row(inert(name), *cells, *(_cell(figure(group.metrics.get(metric))) for metric in metrics))
    return table


def _cell(text: str) -> str:
    """The interval under the figure: tables are wide."""
    value, _, interval = text.partition(" [")
    return f"{value}\n{interval.removesuffix(']').replace(', ', '-')}" if interval else value


def _flagged(report: "Report", name: str) -> Table:
    from inference.evaluation.page import figure

    table = Table("label of the data", title=f"share flagged, by label of the data{name}")
    table.add_column("rows", justify="right")
    table.add_column("flagged", justify="right")
    for label, measured in report.flagged.items():
        table.add_row(inert(label), f"{measured.rows:,}", figure(measured).replace("[", r"\["))
    return table


def _work(found: Found) -> Table:
    table = Table("subject", "model", "prompt")
    for name in ("p50 of a prompt", "p95", "rows an engine second", "USD a 1,000 rows", "tokens a row"):
        table.add_column(name, justify="right")
    for run, report in zip(found.runs, found.reports, strict=True):
        work, rows = report.work, report.overall.rows
        rate = f"{rows / work.engine_seconds:,.1f}" if work.engine_seconds else "–"
        table.add_row(
            inert(report.name),
            inert(run.model),
            inert(f"{run.prompt_version} {run.prompt_hash[:8]}".strip()),
            f"{work.seconds[0] * 1000:,.0f} ms",
            f"{work.seconds[1] * 1000:,.0f} ms",
            rate,
            f"{work.cost_of_a_thousand(rows):.4f}",
            f"{work.tokens / rows:,.0f}" if rows else "–",
        )
    return table


def _compared(found: Found) -> Table:
    from inference.evaluation.page import SHOWN
    from inference.evaluation.paired import SIGNIFICANT

    metrics = [name for name in ("f1", "auroc", "accuracy", "macro_f1") if name in found.compared[0].differences]
    table = Table("first", "second", title="compared row by row")
    for name in ("only first right", "only second right", "p", "adjusted", *(SHOWN[each] for each in metrics)):
        table.add_column(name, justify="right")
    for pair in found.compared:
        cells = []
        for name in metrics:
            each = pair.differences[name]
            star = " *" if each.adjusted < SIGNIFICANT else ""
            cells.append(
                "–" if math.isnan(each.value) else f"{each.value:+.3f}{star}\n{each.low:+.3f} to {each.high:+.3f}"
            )
        counts = (str(pair.only_first), str(pair.only_second), f"{pair.p:.2g}", f"{pair.adjusted:.2g}")
        table.add_row(inert(pair.first), inert(pair.second), *counts, *cells)
    return table


def page_of(about: About, found: Found) -> str:
    """The HTML page."""
    from inference.evaluation.page import Subject, page

    facts = {"data": str(about.file), "SHA-256": about.sha256, "rows": f"{about.rows:,} (seed {about.seed})"}
    facts |= {f"left out: {why}": rows_told(numbers) for why, numbers in about.left_out.items()}
    subjects = [
        Subject(report, {name: str(value) for name, value in _identity(run).items() if value not in ("", 0)}, mistakes)
        for run, report, mistakes in zip(found.runs, found.reports, found.mistakes, strict=True)
    ]
    return page(f"Evaluation on {about.file.name}", found.task, facts, subjects, found.compared)


def as_dict(about: About, found: Found) -> dict[str, Any]:
    """The report for programs."""
    return {
        "data": {
            "file": str(about.file),
            "sha256": about.sha256,
            "rows_hash": about.rows_hash,
            "rows": about.rows,
            "seed": about.seed,
            "left_out": {
                why: {"rows": len(numbers), "first": sorted(numbers)[:_NUMBERS]}
                for why, numbers in about.left_out.items()
            },
        },
        "labels": list(found.task.labels),
        "fine": None if found.task.fine is None else found.task.labels[found.task.fine],
        "coarse": sorted(found.task.coarse),
        "subjects": [
            {**_identity(run), **figures_of(report)} for run, report in zip(found.runs, found.reports, strict=True)
        ],
        "comparisons": [asdict(pair) for pair in found.compared],
    }


def figures_of(report: "Report") -> dict[str, Any]:
    """A report as plain values."""
    return {
        "overall": _group(report.overall),
        "by_label": {name: _group(group) for name, group in report.labels.items()},
        "by_language": {name: _group(group) for name, group in report.languages.items()},
        "flagged": {name: asdict(each) for name, each in report.flagged.items()},
        "confusion": {"truths": list(report.truths), "counts": [list(line) for line in report.confusion]},
        "reliability": [asdict(each) for each in report.bins],
        "work": {
            **asdict(report.work),
            "cost_of_a_thousand_rows_usd": report.work.cost_of_a_thousand(report.overall.rows),
        },
        "notes": list(report.notes),
    }


def _group(group: "Group") -> dict[str, Any]:
    metrics: dict[str, Measured] = dict(group.metrics)
    return {
        "rows": group.rows,
        "positives": group.positives,
        "ece_by_chance": group.by_chance,
        "metrics": {name: asdict(each) for name, each in metrics.items()},
    }


def _identity(run: EvaluationRow) -> dict[str, Any]:
    names = (
        "name run pipeline pipeline_version stage operator prompt_version prompt_hash settings_hash model engine "
        "engine_url engine_version weir_version rows given_up"
    )
    return {name: getattr(run, name) for name in names.split()}
