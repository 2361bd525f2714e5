"""`weir erase`: what an author wrote is erased, wherever it can be, and the rest is told."""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from sinks import erase
from sinks.erase import Author
from streams import erase_topics, pipeline, topics
from streams.cli.common import ask_store, load_settings, run_async
from streams.cli.terminal import plain
from streams.erase_topics import Outcome
from streams.erased import LOOK_SECONDS
from streams.errors import WorkerMisconfigured
from streams.pipeline import seconds_of


def erase_command(
    author: Annotated[str, typer.Option(help="As messages have it in `author`; - to read it from standard input.")],
    tenant: Annotated[
        str | None, typer.Option(help="Only of this tenant; without it, of every one. '' is no tenant.")
    ] = None,
    pipelines: Annotated[
        list[Path] | None,
        typer.Option("--pipelines", "-p", help="Pipeline files: their dead letters and compacted topics too."),
    ] = None,
    wait: Annotated[
        str, typer.Option(help="How long to wait for workers to learn of it, and for their rows in flight.")
    ] = "30s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase what an author wrote until now, and what quotes it. It cannot be undone."""
    name = sys.stdin.readline().rstrip("\n") if author == "-" else author
    if not name:
        raise WorkerMisconfigured("--author is empty: rows without an author are nobody's")
    try:
        seconds = seconds_of(wait)
    except ValueError as error:
        raise WorkerMisconfigured(f"--wait {wait!r}: {error}") from error
    meant = topics.topics_of(pipeline.load_all(pipelines)) if pipelines else []
    settings = load_settings("clickhouse", "kafka") if meant else load_settings("clickhouse")
    whose, now = Author(name, tenant), datetime.now(UTC)
    counts = ask_store(settings.store, lambda client: erase.found(client, whose, now))
    _tell(counts, "found")
    if dry_run:
        _tell_topics(run_async(erase_topics.clean(settings, meant, whose, dry_run=True)), "would be")
        typer.echo("nothing was changed")
        return
    if not yes:
        typer.confirm("Erase all of it, for ever?", abort=True)
    ask_store(settings.store, lambda client: erase.record(client, whose, now))
    done = ask_store(settings.store, lambda client: erase.sweep(client, whose, now))
    outcomes = run_async(erase_topics.clean(settings, meant, whose, dry_run=False)) if meant else []
    if seconds:
        typer.echo(f"waiting {wait} for workers, which look every {LOOK_SECONDS:.0f} s")
        time.sleep(seconds)
    again = ask_store(settings.store, lambda client: erase.sweep(client, whose, now))
    _tell({name: count + again[name] for name, count in done.items()}, "erased")
    _tell_topics(outcomes, "were")
    if not meant:
        typer.echo("Kafka was not looked at: name the pipelines with -p to drop dead letters and write tombstones")


def _tell(counts: Mapping[str, int], verb: str) -> None:
    told = [f"{verb} {count:,} {what}" for what, count in counts.items() if count]
    for line in told or [f"{verb} nothing in the store"]:
        typer.echo(line)


def _tell_topics(outcomes: Sequence[Outcome], verb: str) -> None:
    for outcome in outcomes:
        parts = []
        if outcome.dropped:
            parts.append(f"{outcome.dropped} dead letters {verb} dropped")
        if outcome.tombstones:
            parts.append(f"{outcome.tombstones} tombstones {verb} written")
        if outcome.forever:
            parts.append("keeps messages for ever: give it a retention.ms")
        elif outcome.kept_until is not None:
            parts.append(f"what it has of the author is gone by {outcome.kept_until:%Y-%m-%d} at the latest")
        elif not outcome.tombstones:
            parts.append("the broker does not say how long it keeps messages")
        typer.echo(plain(f"{outcome.topic}: {'; '.join(parts)}"))
