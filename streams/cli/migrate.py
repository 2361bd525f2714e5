"""`weir migrate`: the ClickHouse schema, up, down, and where it stands. Without a command: up."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC
from typing import Annotated

import typer

from sinks import migrate
from sinks.clickhouse import StoreSettings
from sinks.migration_files import Migration
from streams.cli.common import load_settings
from streams.cloudevents import rfc3339
from streams.errors import WorkerMisconfigured

migrate_app = typer.Typer(help="The ClickHouse schema: up (also without a command), down, and where it stands.")

ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="NAME", help="Instead of WEIR_CLICKHOUSE_CLUSTER: replicated and sharded."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the statements, and change nothing.")]


@migrate_app.callback(invoke_without_command=True)
def default_command(context: typer.Context) -> None:
    """The ClickHouse schema: up (also without a command), down, and where it stands."""
    if context.invoked_subcommand is None:
        up_command()


@migrate_app.command("up")
def up_command(
    to: Annotated[int | None, typer.Option("--to", metavar="N", help="Up to this migration; default: all.")] = None,
    dry_run: DryRunOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was applied, for example for servers that a cluster got since.")
    ] = False,
    cluster: ClusterOption = None,
) -> None:
    """Apply what the schema lacks."""
    store = _store(cluster)
    if dry_run:
        _print(store, migrate.plan_up(store, to=to, again=again))
        return
    _tell("applied", migrate.migrate(store, to=to, again=again))


@migrate_app.command("down")
def down_command(
    to: Annotated[
        int | None, typer.Option("--to", metavar="N", help="The last one that stays; default: one less.")
    ] = None,
    dry_run: DryRunOption = False,
    delete: Annotated[bool, typer.Option("--delete", help="Also where rows or columns are deleted with it.")] = False,
    cluster: ClusterOption = None,
) -> None:
    """Take back what was applied. Stop workers of this version before."""
    store = _store(cluster)
    target = _one_less(store) if to is None else to
    if dry_run:
        _print(store, migrate.plan_down(store, to=target))
        return
    try:
        _tell("took back", migrate.down(store, to=target, delete=delete))
    except migrate.WouldDelete as error:
        raise WorkerMisconfigured(f"{error}; if that is meant, say --delete") from error


@migrate_app.command("status")
def status_command() -> None:
    """Say where each migration stands. Exit status 1 unless the schema is the one that this version writes."""
    states = migrate.status(_store(None))
    width = max(len(f"{state.version:04}_{state.name}") for state in states)
    for state in states:
        label = f"{state.version:04}_{state.name}".ljust(width)
        since = f" {rfc3339(state.since.astimezone(UTC))}" if state.since else ""
        typer.echo(f"{label}  {state.state}{since}{_about(state)}")
    if any(state.state != "applied" for state in states):
        raise typer.Exit(1)


def _about(state: migrate.State) -> str:
    match state.state:
        case "missing" | "begun":
            return f": {state.migration.up.about}" if state.migration else ""
        case "changed":
            return ": its file has other statements now"
        case "unknown":
            return ": this version of Weir does not know it"
    return ""


def _store(cluster: str | None) -> StoreSettings:
    store = load_settings("clickhouse").store
    return store if cluster is None else replace(store, cluster=cluster)


def _one_less(store: StoreSettings) -> int:
    there = [state.version for state in migrate.status(store) if state.state != "missing"]
    return max(there, default=1) - 1


def _print(store: StoreSettings, steps: Iterable[migrate.Step]) -> None:
    """A script that does what the steps would, for people and for clickhouse-client."""
    steps = list(steps)
    for step in steps:
        typer.echo(f"-- {step.migration.label} {step.way}: {step.migration.script(step.way).about}")
    if not steps:
        typer.echo("-- nothing to do")
        return
    for statement in migrate.script(store, steps):
        typer.echo(f"{statement};\n")


def _tell(done: str, migrations: Iterable[Migration]) -> None:
    labels = [migration.label for migration in migrations]
    for label in labels:
        typer.echo(f"{done} {label}")
    if not labels:
        typer.echo("the schema is up to date" if done == "applied" else "nothing to take back")
