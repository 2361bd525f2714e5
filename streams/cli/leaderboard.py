"""`weir leaderboard`: what was evaluated on the same rows, ranked as far as the rows tell."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sinks import evaluations, migrate
from sinks.rows import EvaluatedRow, EvaluationRow
from streams.cli.common import ask_store, load_settings
from streams.cli.evaluated import answers_of, task_of_run
from streams.cli.judging import needs_extra
from streams.cli.terminal import inert, plain, plain_json
from streams.cloudevents import rfc3339
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.evaluation.ranks import Rank
    from inference.evaluation.report import Report

_METRICS = ("f1", "auroc", "auprc", "precision", "recall", "accuracy", "macro_f1", "macro_auroc", "ece")

Board = tuple[list[EvaluationRow], list["Rank"], dict[str, "Report"]]


def leaderboard_command(
    data: Annotated[Path | None, typer.Option("--data", help="Only runs on this file.")] = None,
    dataset: Annotated[str, typer.Option("--dataset", help="Only runs whose data has a hash that begins so.")] = "",
    metric: Annotated[
        str | None, typer.Option("--metric", help=f"Rank by: {', '.join(_METRICS)}; default: f1, or macro_f1.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Also runs that the same subject repeated since.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each set of rows.")] = False,
) -> None:
    """Rank stored runs, those on the same rows with each other. A rank is a range where the rows cannot tell more."""
    needs_extra("weir leaderboard")
    if metric is not None and metric not in _METRICS:
        raise WorkerMisconfigured(f"--metric {plain(metric)!r} is none of: {', '.join(_METRICS)}")
    store = load_settings("clickhouse").store
    migrate.check(store)
    wanted = _hash(data) if data is not None else dataset
    found = ask_store(store, lambda client: evaluations.runs(client, dataset=wanted))
    if not found:
        on = f" on {plain(str(data or dataset))}" if wanted else ""
        raise WorkerMisconfigured(f"the store has no run{on}; weir eval --store makes one")
    groups = defaultdict(list)
    for run in found:
        groups[run.rows_hash, tuple(sorted(run.labels)), run.fine, tuple(run.coarse)].append(run)
    for runs in groups.values():
        chosen = _told_apart(runs if every else _latest(runs))
        rows = ask_store(store, partial(evaluations.rows_of, wanted=[run.run for run in chosen]))
        by = metric or ("f1" if chosen[0].fine else "macro_f1")
        board = _board(chosen, rows, by)
        if as_json:
            typer.echo(plain_json(orjson.dumps(_as_dict(board, by)).decode()))
        else:
            _show(board, by)


def _hash(file: Path) -> str:
    import hashlib

    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WorkerMisconfigured(f"{file}: {error}") from error


def _latest(runs: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """The newest run of each subject; runs are oldest first."""
    return list(
        {(r.name, r.engine, r.model, r.pipeline, r.stage, r.prompt_hash, r.settings_hash): r for r in runs}.values()
    )


def _told_apart(runs: Sequence[EvaluationRow]) -> list[EvaluationRow]:
    """Subjects of the same name get the id of their run behind it."""
    names = [run.name for run in runs]
    return [run._replace(name=f"{run.name} {run.run[:8]}") if names.count(run.name) > 1 else run for run in runs]


def _board(runs: list[EvaluationRow], rows: Any, metric: str) -> Board:
    from inference.evaluation.paired import compare
    from inference.evaluation.ranks import ranks
    from inference.evaluation.report import report

    task = task_of_run(runs[0])
    answers = [answers_of(run.name, task, _in_order(run, task.labels, rows.get(run.run, []))) for run in runs]
    reports = {each.name: report(task, each) for each in answers}
    known = reports[answers[0].name].overall.metrics
    if metric not in known:
        raise WorkerMisconfigured(f"--metric {metric}: runs of {runs[0].operator} have: {', '.join(known)}")
    figures = {name: each.overall.metrics[metric] for name, each in reports.items()}
    return runs, ranks(metric, figures, compare(task, answers)), reports


def _in_order(run: EvaluationRow, labels: Sequence[str], rows: Sequence[EvaluatedRow]) -> list[EvaluatedRow]:
    """Rows with their scores in the order of these labels."""
    places = [run.labels.index(label) for label in labels]
    return [row._replace(scores=[row.scores[place] for place in places]) for row in rows]


def _show(board: Board, metric: str) -> None:
    from inference.evaluation.page import SHOWN, figure

    runs, ranked, reports = board
    by_name = {run.name: run for run in runs}
    first = runs[0]
    title = f"{inert(first.dataset)}, {first.rows:,} rows ({first.rows_hash[:12]})"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("rank", no_wrap=True)
    table.add_column("subject")
    table.add_column(SHOWN[metric], justify="right", no_wrap=True)
    table.add_column("ties with", max_width=10)
    table.add_column("p50,\nUSD a 1,000", justify="right", no_wrap=True)
    for rank in ranked:
        run, report = by_name[rank.name], reports[rank.name]
        prompt = f"{run.prompt_version} {run.prompt_hash[:8]}".strip()
        about = f"{inert(f'{run.pipeline} {run.pipeline_version}')}\n{inert(prompt)}, run {run.run[:8]}"
        table.add_row(
            str(rank.best) if rank.best == rank.worst else f"{rank.best}-{rank.worst}",
            f"{inert(rank.name)}\n[dim]{inert(run.model)}\n{about}[/]",
            escape(figure(report.overall.metrics[metric])).replace(" ", "\n", 1),
            inert(", ".join(rank.ties)),
            f"{report.work.seconds[0]:,.3f} s\n{report.work.cost_of_a_thousand(report.overall.rows):.4f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"A rank is a range: subjects differ if their {SHOWN[metric]} does on the same rows (paired bootstrap, 5%, "
        f"Holm over all pairs: {len(runs) * (len(runs) - 1) // 2}). p50: of a prompt; USD: of 1,000 rows.",
        highlight=False,
    )


def _as_dict(board: Board, metric: str) -> dict[str, Any]:
    runs, ranked, reports = board
    by_name = {run.name: run for run in runs}
    return {
        "dataset": runs[0].dataset,
        "dataset_hash": runs[0].dataset_hash,
        "rows_hash": runs[0].rows_hash,
        "rows": runs[0].rows,
        "metric": metric,
        "ranks": [
            {
                **asdict(rank),
                metric: asdict(reports[rank.name].overall.metrics[metric]),
                "run": by_name[rank.name].run,
                "model": by_name[rank.name].model,
                "pipeline": by_name[rank.name].pipeline,
                "pipeline_version": by_name[rank.name].pipeline_version,
                "prompt_hash": by_name[rank.name].prompt_hash,
                "evaluated_at": rfc3339(by_name[rank.name].evaluated_at),
            }
            for rank in ranked
        ],
    }
