"""Judging the rows of a file, without Kafka."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rich import progress as bars
from rich.console import Console

from deploy.embedded.process import ProcessFailed
from inference import operators
from inference.errors import AttemptsExhausted, PromptRejected
from inference.judgement import Judgement
from inference.openai import EngineSettings
from streams import logs, pipeline
from streams.cli.common import load_settings
from streams.cli.labelled import Row
from streams.errors import WorkerMisconfigured

ROWS_AT_ONCE = 256


def needs_extra(command: str) -> None:
    """Raises WorkerMisconfigured where the extra `eval` is not installed."""
    try:
        import inference.fit  # noqa: F401
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(f"{command} needs the extra `eval`: pip install 'weir[eval]' ({error})") from error


def stage_of(file: Path, name: str | None, operators_taken: Sequence[str], can: str) -> pipeline.Stage:
    """The stage of a pipeline file that has this name, or its only one that has one of these operators.

    can: what those operators can, for the message. Raises WorkerMisconfigured.
    """
    stages = {stage.name: stage for stage in pipeline.load(file).stages}
    known = ", ".join(stages)
    if name is None and len(stages) > 1:
        raise WorkerMisconfigured(f"{file} has several stages; name one with --stage: {known}")
    chosen = stages.get(name) if name is not None else next(iter(stages.values()))
    if chosen is None:
        raise WorkerMisconfigured(f"{file} has no stage {name!r}; there are: {known}")
    if chosen.task not in operators_taken:
        raise WorkerMisconfigured(f"stage {chosen.name!r} is of {chosen.task}; {can}")
    return chosen


@contextmanager
def engine_at(url: str | None, *, embedded: bool) -> Iterator[EngineSettings]:
    """Where the engine is: at a URL, or where WEIR_ENGINE_URL says. The embedded one runs as long as the block."""
    if not embedded:
        yield load_settings("engine").engine if url is None else replace(load_settings().engine, url=url)
        return
    from deploy.embedded.engine import LlamaEngine

    logs.configure("WARNING")
    with tempfile.TemporaryDirectory(prefix="weir-") as folder:
        try:
            server = LlamaEngine(Path(folder))
        except ProcessFailed as error:
            raise WorkerMisconfigured(str(error)) from error
        with server:
            yield EngineSettings(server.url)


async def judge_each(
    operator: operators.Operator,
    rows: Sequence[Row],
    told: Callable[[Row, Judgement], None] = lambda *_: None,
    title: str = "judging",
    done: int = 0,
    at_once: int = ROWS_AT_ONCE,
) -> list[Judgement | None]:
    """A judgement for each row, None where the engine gave it up. Shows how far it is.

    told: called with each judgement as it comes. done: rows that were judged before.
    """
    turn = asyncio.Semaphore(at_once)
    columns = (bars.TextColumn("{task.description}", markup=False), bars.BarColumn(), bars.MofNCompleteColumn())
    console = Console(stderr=True)
    quiet = not console.is_terminal
    shown = bars.Progress(*columns, bars.TimeRemainingColumn(), console=console, transient=True, disable=quiet)
    with shown as progress:
        task = progress.add_task(title, total=done + len(rows), completed=done)

        async def one(row: Row) -> Judgement | None:
            async with turn:
                judgement = None
                with suppress(PromptRejected, AttemptsExhausted):
                    judgement = await operator.judge(row.passage)
                    told(row, judgement)
                progress.advance(task)
                return judgement

        return list(await asyncio.gather(*map(one, rows)))
