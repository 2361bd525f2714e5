"""What `weir eval` shows: on a terminal, as JSON, as a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
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
_BESIDE = 2  # subjects whose intervals stand beside the figures
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
        console.print(f"left out of the file: {inert(why)}: {rows_told(numbers)}", highlight=False)
    console.print(_overall(found))
    for report in found.reports:
        name = f" of {inert(report.name)}" if len(found.reports) > 1 else ""
        if report.flagged:
            console.print(_flagged(report, name))
        if report.labels:
            console.print(_groups("label", report.labels, f"by label{name}", of=True))
        if len(report.languages) > 1:
            console.print(_groups("language", report.languages, f"by language{name}"))
    if found.compared:
        console.print(_compared(found))
        console.print(
            "Right alone: rows on which only the first, or only the second, was right; p: McNemar's exact test of "
            "them, adjusted (Holm) for all pairs. Differences: first less second, paired bootstrap; * significant "
            "after adjustment.",
            highlight=False,
        )
    for report, run in zip(found.reports, found.runs, strict=True):
        notes = list(report.notes)
        if run.given_up:
            notes.append(f"The engine gave up {run.given_up} rows; they are not in the figures.")
        for note in notes:
            console.print(f"{report.name}: {note}" if len(found.reports) > 1 else note, highlight=False, markup=False)


def _overall(found: Found) -> Table:
    """Subjects side by side: figures, and what they took."""
    from inference.evaluation.page import SHOWN, figure

    table = Table("", box=box.SIMPLE_HEAD)
    for report in found.reports:
        table.add_column(inert(report.name), justify="right")
    pairs = list(zip(found.runs, found.reports, strict=True))

    def broken(told: str) -> str:
        return told if len(found.reports) <= _BESIDE else told.replace(" [", "\n[")

    rows: dict[str, list[str]] = {
        SHOWN[metric]: [broken(figure(report.overall.metrics[metric])) for report in found.reports]
        for metric in found.reports[0].overall.metrics
    }
    rows["rows"] = [f"{report.overall.rows:,}" for report in found.reports]
    if any(report.work.asked < report.overall.rows for report in found.reports):
        rows["calls saved"] = [f"{1 - r.work.asked / max(1, r.overall.rows):.0%}" for r in found.reports]
    rows["p50, p95 of a prompt"] = [f"{r.work.seconds[0]:,.2f}, {r.work.seconds[1]:,.2f} s" for r in found.reports]
    rows["rows an engine second"] = [
        f"{r.overall.rows / r.work.engine_seconds:,.1f}" if r.work.engine_seconds else "–" for r in found.reports
    ]
    rows["tokens a row"] = [f"{r.work.tokens / max(1, r.overall.rows):,.0f}" for r in found.reports]
    rows["USD a 1,000 rows"] = [f"{r.work.cost_of_a_thousand(r.overall.rows):.4f}" for r in found.reports]
    rows["model"] = [plain(run.model) for run, _ in pairs]
    rows["pipeline"] = [plain(f"{run.pipeline} {run.pipeline_version}") for run, _ in pairs]
    rows["prompt"] = [plain(f"{run.prompt_version} {run.prompt_hash[:8]}".strip()) for run, _ in pairs]
    for name, cells in rows.items():
        table.add_row(name, *map(escape, cells))
    return table


def _groups(first: str, groups: Mapping[str, "Group"], title: str, *, of: bool = False) -> Table:
    """A row for each group, in 80 columns: the page and JSON have all figures."""
    from inference.evaluation.page import SHOWN

    known = next(iter(groups.values())).metrics
    metrics = [name for name in ("accuracy", "precision", "recall", "f1", "auroc", "macro_f1", "ece") if name in known]
    metrics = [name for name in metrics if name != "accuracy" or "precision" not in known]
    table = Table(first, title=title, box=box.SIMPLE_HEAD)
    for name in ("of rows" if of else "rows", *(SHOWN[metric] for metric in metrics)):
        table.add_column(name, justify="right")
    for name, group in groups.items():
        count = f"{group.positives:,}/{group.rows:,}" if of else f"{group.rows:,}"
        table.add_row(inert(name), count, *(_cell(group.metrics[metric]) for metric in metrics))
    return table


def _cell(measured: "Measured") -> str:
    """The interval under the figure."""
    if measured.value is None:
        return "–"
    if measured.low is None or measured.high is None:
        return f"{measured.value:.3f}"
    low, high = (f"{bound:.2f}".removeprefix("0") for bound in (measured.low, measured.high))
    return f"{measured.value:.3f}\n{low}-{high}"


def _flagged(report: "Report", name: str) -> Table:
    from inference.evaluation.page import figure

    table = Table("label of the data", title=f"share flagged{name}", box=box.SIMPLE_HEAD)
    table.add_column("rows", justify="right")
    table.add_column("flagged", justify="right")
    for label, measured in report.flagged.items():
        table.add_row(inert(label), f"{measured.rows:,}", escape(figure(measured)))
    return table


def _compared(found: Found) -> Table:
    from inference.evaluation.page import SHOWN
    from inference.evaluation.paired import SIGNIFICANT

    metrics = [name for name in ("f1", "auroc", "macro_f1", "macro_auroc") if name in found.compared[0].differences]
    table = Table("first, second", title="compared row by row", box=box.SIMPLE_HEAD)
    for name in ("right alone", "p", *(SHOWN[each] for each in metrics)):
        table.add_column(name, justify="right")
    for pair in found.compared:
        cells = []
        for each in (pair.differences[name] for name in metrics):
            star = " *" if each.adjusted < SIGNIFICANT else ""
            told = f"{each.value:+.3f}{star}\n{each.low:+.3f}, {each.high:+.3f}"
            cells.append("–" if math.isnan(each.value) else told)
        table.add_row(
            f"{inert(pair.first)}\n{inert(pair.second)}",
            f"{pair.only_first:,}\n{pair.only_second:,}",
            f"{pair.adjusted:.2g}",
            *cells,
        )
    return table


def page_of(about: About, found: Found) -> str:
    """The HTML page."""
    from inference.evaluation.page import Subject, page

    facts = {"data": str(about.file), "SHA-256": about.sha256, "rows": f"{about.rows:,} (seed {about.seed})"}
    facts |= {f"left out: {why}": rows_told(numbers) for why, numbers in about.left_out.items()}
    subjects = [
        Subject(report, _facts(run), mistakes)
        for run, report, mistakes in zip(found.runs, found.reports, found.mistakes, strict=True)
    ]
    return page(f"Evaluation on {about.file.name}", found.task, facts, subjects, found.compared)


def _facts(run: EvaluationRow) -> dict[str, str]:
    """What a run is of, for people."""
    return {
        name.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in _identity(run).items()
        if value not in ("", 0)
    }


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
