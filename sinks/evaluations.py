"""Evaluations: what was measured, and each row's judgement, so that runs can be compared later."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import ask
from sinks.rows import TABLES, EvaluatedRow, EvaluationRow

_BATCH = 20_000  # rows an insert

_RUNS = f"SELECT {', '.join(EvaluationRow._fields)} FROM evaluations_raw FINAL"  # noqa: S608
_ROWS = (
    f"SELECT {', '.join(EvaluatedRow._fields)} FROM evaluation_rows_raw FINAL "  # noqa: S608
    "WHERE run IN {runs:Array(String)} ORDER BY run, row_key"
)


def save(client: Client, evaluation: EvaluationRow, rows: Sequence[EvaluatedRow]) -> None:
    """Store a run. The rows go first, so that a run that can be found has all of them. Raises as the client does."""
    for start in range(0, len(rows), _BATCH):
        client.insert(TABLES[EvaluatedRow], rows[start : start + _BATCH], column_names=EvaluatedRow._fields)
    client.insert(TABLES[EvaluationRow], [evaluation], column_names=EvaluationRow._fields)


def runs(client: Client, dataset: str = "", run: str = "") -> list[EvaluationRow]:
    """Stored runs, oldest first. dataset: how the hash of their file, or of their rows, begins; run: how their id
    begins.
    """
    wanted = (
        " WHERE (startsWith(dataset_hash, {dataset:String}) OR startsWith(rows_hash, {dataset:String}))"
        " AND startsWith(run, {run:String}) ORDER BY evaluated_at, run"
    )
    return [EvaluationRow(*row) for row in ask(client, _RUNS + wanted, dataset=dataset, run=run)]


def rows_of(client: Client, wanted: Sequence[str]) -> Mapping[str, list[EvaluatedRow]]:
    """The judged rows of runs, in the order of their keys."""
    each = [EvaluatedRow(*row) for row in ask(client, _ROWS, runs=list(wanted))]
    return {run: list(group) for run, group in groupby(each, lambda row: row.run)}
