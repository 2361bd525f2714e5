"""`weir rerun`: a better prompt looks again at what an older one judged."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from sinks.session import Session
from streams import pipeline, rerun
from streams.cli.common import ask_store, load_settings, point_in_time, run_async
from streams.cli.terminal import inert, plain
from streams.cloudevents import rfc3339
from streams.errors import WorkerMisconfigured
from streams.pipeline import seconds_of
from streams.publisher import Publisher
from streams.rerun import Plan, Progress

_COUNTS = ("verdicts", "input_tokens", "output_tokens")


def rerun_command(
    pipelines: Annotated[list[Path], typer.Option("--pipelines", "-p", help="Pipeline file with the new prompt.")],
    stage: Annotated[str, typer.Option(help="Stage to judge anew: pipeline/stage, or its name.")],
    prompt: Annotated[str, typer.Option(help="Version of the prompt that is to judge, as the file names it.")],
    since: Annotated[str, typer.Option(help="Judged since: RFC 3339, or how long ago, for example 2d.")],
    until: Annotated[str | None, typer.Option(help="Judged before: likewise; default: now.")] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Rows that wait for a new verdict, at most.")] = 1000,
    patience: Annotated[str, typer.Option(help="Give up when no new verdict has come for so long.")] = "10m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Judge anew, with the prompt that is deployed now, what other prompts of the stage judged; the old is kept."""
    meant = rerun.stage_of(pipeline.load_all(pipelines), stage, prompt)
    now = datetime.now(UTC)
    begin = point_in_time("--since", since)
    end = min(now, point_in_time("--until", until)) if until is not None else now
    try:
        seconds = seconds_of(patience)
    except ValueError as error:
        raise WorkerMisconfigured(f"--patience {patience!r}: {error}") from error
    if begin >= end:
        span = f"from {rfc3339(begin.astimezone(UTC))} to {rfc3339(end.astimezone(UTC))}"
        raise WorkerMisconfigured(f"nothing can have been judged {span}: --since is not before --until, or not past")
    settings = load_settings("kafka", "clickhouse")
    found = ask_store(settings.store, lambda client: rerun.plan(client, *meant, begin, end))
    if not as_json:
        Console().print(_told(found), *([_replaced(found.replaced)] if found.replaced else []), sep="\n")
    done = Progress()

    async def work() -> None:
        async with AsyncExitStack() as stack:
            session = Session(settings.store, "clickhouse-rerun")
            stack.callback(session.close)
            publisher = Publisher(settings)
            stack.push_async_callback(publisher.close)
            await publisher.start()
            bar = stack.enter_context(_bar())
            task = bar.add_task(found.name, total=None)

            def show(progress: Progress) -> None:
                nonlocal done
                done = progress
                bar.update(task, total=progress.chosen, completed=progress.chosen - progress.open)

            await rerun.judge_anew(found, session, publisher, in_flight, seconds, show)

    if found.replaced and not dry_run:
        try:
            run_async(work())
        except typer.Exit:
            typer.echo(f"{_count(done)}; run it again to go on", err=True)
            raise
    if as_json:
        typer.echo(orjson.dumps(_report(found, done, dry_run)).decode())
    elif not found.replaced:
        typer.echo("nothing to do")
    elif not dry_run:
        typer.echo(_count(done))
    if done.open:
        typer.echo(
            f"weir: {done.open:,} have no new verdict, and none came for {patience}. Does every worker have prompt "
            f"{plain(prompt)}? Are there dead letters (weir dlq list {plain(found.topic)})? Is a tenant past its "
            "limits? Run it again to go on",
            err=True,
        )
        raise typer.Exit(1)


def _bar() -> bars.Progress:
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn())
    return bars.Progress(*columns, bars.TimeRemainingColumn(), console=Console(stderr=True))


def _told(found: Plan) -> str:
    outdated, verdicts = found.outdated, sum(group["verdicts"] for group in found.replaced)
    prompt = f"{found.prompt.prompt_version} ({found.prompt.prompt_hash})"
    times = f"from {rfc3339(outdated.since.astimezone(UTC))} to {rfc3339(outdated.until.astimezone(UTC))}"
    return inert(f"{found.name}, prompt {prompt}: {verdicts:,} verdicts of other prompts, judged {times}")


def _replaced(groups: Sequence[dict[str, Any]]) -> Table:
    """What there is, by prompt."""
    table = Table("prompt", "model")
    for title in ("verdicts", "tokens in", "tokens out", "USD", "engine"):
        table.add_column(title, justify="right")
    for group in groups:
        table.add_row(
            inert(f"{group['prompt_version']} {group['prompt_hash'][:8]}".lstrip()),
            inert(group["model"]),
            *(f"{group[name]:,}" for name in _COUNTS),
            f"{group['cost_usd']:.6f}",
            f"{group['engine_seconds']:,.1f} s",
        )
    return table


def _count(done: Progress) -> str:
    lost = f", {done.without_words:,} without words in the store" if done.without_words else ""
    return f"{done.done:,} of {done.chosen:,} judged anew{lost}"


def _report(found: Plan, done: Progress, dry_run: bool) -> dict[str, Any]:
    return {
        "pipeline": found.pipeline.name,
        "stage": found.stage.name,
        "prompt_version": found.prompt.prompt_version,
        "prompt_hash": found.prompt.prompt_hash,
        "since": rfc3339(found.outdated.since.astimezone(UTC)),
        "until": rfc3339(found.outdated.until.astimezone(UTC)),
        "replaced": found.replaced,
        "dry_run": dry_run,
        "chosen": sum(group["verdicts"] for group in found.replaced),
        "done": done.done,
        "without_words": done.without_words,
        "left": 0 if dry_run else done.open,
    }
