"""`weir retention`: how long tables keep their rows."""

from typing import Annotated

import typer

from sinks import retention
from streams.cli.common import ask_store, load_settings
from streams.errors import WorkerMisconfigured


def retention_command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be changed, and do nothing.")] = False,
) -> None:
    """Have ClickHouse delete rows that are older than WEIR_RETENTION_DAYS says."""
    settings = load_settings("clickhouse")
    days = retention.parse(settings.retention_days)
    if not days:
        raise WorkerMisconfigured("WEIR_RETENTION_DAYS names no table; for example source_rows=30,verdicts=400")
    found = ask_store(settings.store, lambda client: retention.changes(client, days))
    for change in found:
        if not dry_run:
            ask_store(settings.store, lambda client, change=change: retention.apply(client, change))  # type: ignore[misc]
        verb = "would change" if dry_run else "changed"
        typer.echo(f"{verb} {change.table}: {change.was or 'for ever'} -> {change.wanted or 'for ever'}")
    if not found:
        typer.echo("every table named keeps its rows as WEIR_RETENTION_DAYS says")
