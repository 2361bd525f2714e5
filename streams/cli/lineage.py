"""`weir lineage`: from a row to what it was made from, or on to what it led to."""

from typing import Annotated, Any
from uuid import UUID

import orjson
import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table

from sinks import lineage, versions
from sinks.clickhouse import KEYS_A_QUERY
from sinks.influence import Influence, influence
from sinks.lineage import LineageNode
from sinks.lineage_costs import costs, total
from sinks.reviews import reviews_of
from streams.cli.common import ask_store, load_settings
from streams.cli.lineage_tree import shown
from streams.cli.terminal import inert, plain_json
from streams.errors import WorkerMisconfigured


def lineage_command(
    row_id: Annotated[UUID | None, typer.Argument(help="Row id of a verdict, an event, a document.")] = None,
    down: Annotated[
        bool, typer.Option("--down", help="What was made from it, instead of what it was made from.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="With --down: hash or version of a prompt, in place of a row.")] = "",
    model: Annotated[str, typer.Option(help="With --down: name of a model, in place of a row.")] = "",
    stage: Annotated[str, typer.Option(help="With --prompt or --model: only of this stage, or pipeline/stage.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="With --prompt or --model: rows to name.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a tree.")] = False,
) -> None:
    """Show what a row was made from; with --down what a row, a prompt or a model led to."""
    if prompt or model:
        if row_id is not None or not down:
            raise WorkerMisconfigured("--prompt and --model stand in place of a row, and need --down")
        found = ask_store(
            load_settings("clickhouse").store, lambda client: influence(client, prompt, model, stage, limit)
        )
        _show_influence(found, " and ".join(filter(None, [prompt and f"prompt {prompt}", model])), as_json)
        return
    if row_id is None or stage:
        raise WorkerMisconfigured("name a row: weir lineage ROW_ID; or what led to rows: --down --prompt or --model")
    node = ask_store(load_settings("clickhouse").store, lambda client: _tree(client, row_id, down))
    if node is None:
        typer.echo(f"weir: no row {row_id}", err=True)
        raise typer.Exit(1)
    if as_json:
        stages = costs(node)
        taken = {"stages": [each.as_dict() for each in stages], "total": total(stages).as_dict()}
        _echo_json(node.as_dict() | taken)
    else:
        Console().print(shown(node))


def _tree(client: Client, row_id: UUID, down: bool) -> LineageNode | None:
    node = (lineage.descendants if down else lineage.ancestors)(client, row_id)
    if node is not None and node.kind == "verdict":
        node.facts["versions"] = versions.older(client, row_id, node.facts)
    if node is not None:
        _add_reviews(client, node)
    return node


def _add_reviews(client: Client, node: LineageNode) -> None:
    """Say of each verdict of the tree what people said of it."""
    verdicts = {UUID(one.row_id).int: one for one in node.walk() if one.kind == "verdict"}
    rows = sorted(verdicts)
    for start in range(0, len(rows), KEYS_A_QUERY):
        for row, reviews in reviews_of(client, rows[start : start + KEYS_A_QUERY]).items():
            verdicts[row].facts["reviews"] = reviews


def _show_influence(found: Influence, meant: str, as_json: bool) -> None:
    if as_json:
        _echo_json({"counts": found.counts, "rows": found.rows})
    elif found.counts:
        Console().print(_counts(found), *([_rows(found)] if found.rows else []), sep="\n")
    if not found.counts:
        typer.echo(f"weir: no verdict of {meant}", err=True)
        raise typer.Exit(1)


def _counts(found: Influence) -> Table:
    table = Table("pipeline", "stage", "prompt", "model", "decision")
    for title in ("verdicts", "replaced since", "reused", "USD"):
        table.add_column(title, justify="right")
    for count in found.counts:
        table.add_row(
            *(inert(str(count[name])) for name in ("pipeline", "stage")),
            inert(f"{count['prompt_version']} {count['prompt_hash'][:8]}".lstrip()),
            *(inert(str(count[name])) for name in ("model", "decision")),
            f"{count['verdicts']:,}",
            f"{count['verdicts'] - count['current']:,}",
            f"{count['reused']:,}",
            f"{count['cost_usd']:.6f}",
        )
    return table


def _rows(found: Influence) -> Table:
    table = Table()
    table.add_column("row", no_wrap=True, min_width=len(str(UUID(int=0))))  # to be copied: never cut
    for title in ("stage", "decision", "label", "judged", ""):
        table.add_column(title)
    for row in found.rows:
        table.add_row(
            row["row_id"],
            inert(f"{row['pipeline']}/{row['stage']}"),
            inert(row["decision"]),
            inert(row["label"]),
            f"{row['judged_at']:%Y-%m-%d %H:%M:%S}",
            "" if row["current"] else "replaced",
        )
    return table


def _echo_json(document: Any) -> None:
    typer.echo(plain_json(orjson.dumps(document).decode()))
