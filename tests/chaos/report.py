"""Tables for people, one line of JSON for programs."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import orjson
from experiment import Result
from rich.console import Console
from rich.table import Table

_COLUMNS = {
    "run": 4,
    "seed": 6,
    "about": 8,
    "broker": 6,
    "workers": 7,
    "events": 6,
    "calls": 5,
    "faults": 44,
    "lost": 4,
    "dup": 4,
    "order": 5,
    "corr": 4,
    "again": 5,
    "recovery": 8,
    "seconds": 7,
    "exits": 5,
}


def head(console: Console) -> None:
    """The names of the columns."""
    console.print("  ".join(f"{name:<{width}}" for name, width in _COLUMNS.items()), style="bold")


def line(console: Console, number: int, result: Result) -> None:
    """One run, as it ends; with what is wrong below it."""
    found = result.findings
    numbers = (len(found.lost), len(found.duplicated), len(found.out_of_order), found.corrections, result.judged_again)
    values = (
        *(number, result.seed, result.about, result.broker, result.workers, result.events, result.calls),
        " ".join(result.faults) or "-",
        *(*numbers, f"{result.recovery:.1f}", f"{result.seconds:.1f}", len(result.worker_exits)),
    )
    text = "  ".join(f"{value!s:<{width}}" for value, width in zip(values, _COLUMNS.values(), strict=True))
    console.print(text, style="red" if result.failed else "yellow" if result.remarkable else "", highlight=False)
    for problem in [result.error, *found.broken, *result.remarkable]:
        if problem:
            console.print(f"      {problem}", style="red", markup=False, highlight=False)
    if result.folder:
        console.print(f"      logs: {result.folder}", highlight=False)


def by_fault(console: Console, results: Sequence[Result]) -> None:
    """What each kind of fault came with. A run with two kinds counts for both.

    recovery: seconds from the end of the last fault of the run until every message had its verdict.
    """
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        for kind in set(result.faults) or {"none"}:
            groups[kind].append(result)
    table = Table(
        "fault",
        "runs",
        "lost",
        "duplicated",
        "out of order",
        "corrections",
        "judged again",
        "exits",
        "recovery s",
        "seconds",
    )
    for kind, runs in sorted(groups.items()):
        table.add_row(
            kind,
            str(len(runs)),
            *(str(sum(map(len, column))) for column in zip(*(_lists(r) for r in runs), strict=True)),
            str(sum(r.findings.corrections for r in runs)),
            str(sum(r.judged_again for r in runs)),
            str(sum(len(r.worker_exits) for r in runs)),
            f"{_mean([r.recovery for r in runs]):.1f}, most {max(r.recovery for r in runs):.1f}",
            f"{_mean([r.seconds for r in runs]):.1f}",
        )
    console.print(table)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _lists(result: Result) -> tuple[list[str], list[str], list[str]]:
    return result.findings.lost, result.findings.duplicated, result.findings.out_of_order


def summary(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The numbers of all runs together."""
    lost, duplicated, out_of_order = (sum(len(_lists(r)[n]) for r in results) for n in range(3))
    return {
        "runs": len(results),
        "events": sum(r.events for r in results),
        "calls": sum(r.calls for r in results),
        "faults": dict(sorted(Counter(kind for r in results for kind in r.faults).items())),
        "lost": lost,
        "duplicated": duplicated,
        "out_of_order": out_of_order,
        "committed_early": sum(len(r.findings.early) for r in results),
        "corrections": sum(r.findings.corrections for r in results),
        "judged_again": sum(r.judged_again for r in results),
        "worker_exits": sum(len(r.worker_exits) for r in results),
        "unclean_stops": sum(len(r.unclean) for r in results),
        "uncommitted": sum(len(r.findings.uncommitted) for r in results),
        "tracebacks": sum(r.tracebacks for r in results),
        "errors": sum(bool(r.error) for r in results),
        "longest_recovery_seconds": round(max((r.recovery for r in results), default=0), 1),
        "seconds": round(seconds, 1),
        "failed_seeds": [r.name for r in results if r.failed],
        "remarkable_seeds": [r.name for r in results if r.remarkable and not r.failed],
    }


def as_json(results: Sequence[Result], seconds: float) -> str:
    """The summary on one line."""
    return orjson.dumps(summary(results, seconds)).decode()
