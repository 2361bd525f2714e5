"""`weir calibrate`: fit a stage's confidence to rows that people labelled, and say what it is worth."""

import asyncio
import math
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from deploy.embedded.process import ProcessFailed
from inference import operators
from inference.cost import Prices
from inference.errors import AttemptsExhausted, PromptRejected
from inference.judgement import Judgement, Passage
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.classify import ClassifySettings
from inference.operators.moderate import ModerateSettings
from streams import logs, pipeline
from streams.cli import labelled
from streams.cli.common import load_settings, run_async
from streams.cli.terminal import inert, plain, plain_json
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.fit import Bin, Fit, LabelledRows, Method, Quality

_ROWS_AT_ONCE = 256
_LEAST = 1e-300  # a probability of which there is a logarithm
_TITLES = {"none": "without a fit", "file": "as in the file"}
_WORTHLESS = 0.9  # of the highest temperature

Choice = Literal["temperature", "isotonic", "auto"]
Settings = ModerateSettings | ClassifySettings


@dataclass(frozen=True, slots=True)
class _Row:
    passage: Passage
    label: str


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the engine said. left_out: rows that it gave up, or that were judged in parts: a fit is for each part."""

    rows: "LabelledRows"
    left_out: int
    model: str
    prompt_hash: str


@dataclass(frozen=True, slots=True)
class _Report:
    """found: how good the probabilities are, and their bins, by how they were calibrated: `none` without a fit,
    `file` as the file has it, others by their method. chosen: of these, the one to use.
    """

    stage: pipeline.Stage
    judged: _Judged
    fits: Mapping[str, "Fit"]
    found: Mapping[str, tuple["Quality", list["Bin"]]]
    chosen: str


def calibrate_command(
    file: Annotated[Path, typer.Argument(metavar="PIPELINE", help="Pipeline file.")],
    data: Annotated[Path, typer.Option("--data", help="JSON lines with a text and its label; thread where known.")],
    name: Annotated[str | None, typer.Option("--stage", help="Stage; default: the only one.")] = None,
    method: Annotated[Choice, typer.Option("--method", help="auto: the one of the lower log loss.")] = "auto",
    url: Annotated[str | None, typer.Option("--engine-url", help="Instead of WEIR_ENGINE_URL.")] = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Use the engine of `weir demo`.")] = False,
    text_field: Annotated[str, typer.Option("--text-field", help="Field that has the text.")] = "text",
    label_field: Annotated[str, typer.Option("--label-field", help="Field that has the label.")] = "label",
    mapping: Annotated[
        str, typer.Option("--map", help="Labels of the rows to those of the stage: neither=ok,offensive=harassment.")
    ] = "",
    count: Annotated[int, typer.Option("--rows", min=0, help="A random sample of so many; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the bins of a diagram.")] = False,
) -> None:
    """Fit a stage's confidence to labelled rows, report calibration error, and print the lines for the pipeline file.

    The figures are of rows that no fit has seen (cross-validation). Rows should be a random sample of the traffic: the
    fit learns how frequent labels are among them.
    """
    _needs_extra()
    if embedded and url is not None:
        raise WorkerMisconfigured("--embedded brings an engine of its own: leave out --engine-url, or --embedded")
    stage = _stage(file, name)
    labels = list(_settings(stage).labels())
    known = labelled.mapping(mapping)
    rows = labelled.sample(_rows(data, stage, text_field, label_field, known, labels), count)
    with _engine(embedded, url) as settings:
        judged = run_async(_judge(stage, settings, rows))
    report = _evaluate(stage, judged, method)
    if as_json:
        typer.echo(plain_json(orjson.dumps(_as_dict(report)).decode()))
    else:
        _show(report)


def _needs_extra() -> None:
    try:
        import inference.fit  # noqa: F401
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"weir calibrate needs the extra `eval`: pip install 'weir[eval]' ({error})"
        ) from error


def _stage(file: Path, name: str | None) -> pipeline.Stage:
    stages = {stage.name: stage for stage in pipeline.load(file).stages}
    known = ", ".join(stages)
    if name is None and len(stages) > 1:
        raise WorkerMisconfigured(f"{file} has several stages; name one with --stage: {known}")
    chosen = stages.get(name) if name is not None else next(iter(stages.values()))
    if chosen is None:
        raise WorkerMisconfigured(f"{file} has no stage {name!r}; there are: {known}")
    if not isinstance(chosen.judge, Settings):
        raise WorkerMisconfigured(f"stage {chosen.name!r} is of {chosen.task}; moderate and classify can be calibrated")
    return chosen


def _settings(stage: pipeline.Stage) -> Settings:
    assert isinstance(stage.judge, Settings)
    return stage.judge


def _rows(
    file: Path,
    stage: pipeline.Stage,
    text_field: str,
    label_field: str,
    known: Mapping[str, str],
    labels: Sequence[str],
) -> list[_Row]:
    """Labelled passages, with what came before them in their thread. Raises WorkerMisconfigured."""
    threads: dict[str, deque[str]] = {}
    strange: Counter[str] = Counter()

    def parse(row: Mapping[str, Any], number: int) -> _Row:
        text, given = labelled.text_of(row, text_field, number), labelled.text_of(row, label_field, number)
        label = known.get(given, given)
        strange.update([given] if label not in labels else [])
        return _Row(_passage(text, row.get("thread"), threads, stage.context), label)

    rows = labelled.read(file, parse)
    if strange:
        told = ", ".join(f"{label!r} ({count} rows)" for label, count in strange.most_common())
        raise WorkerMisconfigured(
            f"{file}: not labels of stage {stage.name!r}: {told}; its labels are: {', '.join(labels)}; "
            "--map theirs=ours says which is meant"
        )
    return rows


def _passage(text: str, thread: object, threads: dict[str, deque[str]], context: pipeline.Context) -> Passage:
    if not thread or not context.messages:
        return Passage(text)
    earlier = threads.setdefault(str(thread), deque(maxlen=context.messages))
    passage = Passage(text, list(earlier), context.tokens)
    earlier.append(text[-context.characters :])
    return passage


@contextmanager
def _engine(embedded: bool, url: str | None) -> Iterator[EngineSettings]:
    """Where the engine is; the embedded one runs as long as the block."""
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


async def _judge(stage: pipeline.Stage, settings: EngineSettings, rows: Sequence[_Row]) -> _Judged:
    """Judge the rows as the stage would without a fit."""
    judge = _settings(stage)
    plain_settings = judge.model_copy(
        update={"calibration": judge.calibration.model_copy(update={"temperature": 1.0, "isotonic": []})}
    )
    engine = OpenAiEngine(settings)
    try:
        await engine.connect()
        operator = operators.create(plain_settings, engine, Prices())
        await operator.prepare()
        found = await _each(operator, rows)
        identity = operator.identity
    finally:
        await engine.close()
    whole = [(row, judgement) for row, judgement in zip(rows, found, strict=True) if judgement and judgement.parts == 1]
    return _Judged(_labelled(judge, whole), len(rows) - len(whole), identity.model, identity.prompt_hash)


async def _each(operator: operators.Operator, rows: Sequence[_Row]) -> list[Judgement | None]:
    """A judgement for each row, None where the engine gave it up."""
    turn = asyncio.Semaphore(_ROWS_AT_ONCE)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("judging", total=len(rows))

        async def one(row: _Row) -> Judgement | None:
            async with turn:
                try:
                    return await operator.judge(row.passage)
                except (PromptRejected, AttemptsExhausted):
                    return None
                finally:
                    progress.advance(task)

        return list(await asyncio.gather(*map(one, rows)))


def _labelled(judge: Settings, judged: Sequence[tuple[_Row, Judgement]]) -> "LabelledRows":
    import numpy as np

    from inference.fit import LabelledRows

    labels = list(judge.labels())
    prior = [judge.calibration.prior.get(label, 1.0) for label in labels]
    evidence = [
        [math.log(max(judgement.scores[label], _LEAST) / share) for label, share in zip(labels, prior, strict=True)]
        for _, judgement in judged
    ]
    return LabelledRows(
        np.array(evidence).reshape(-1, len(labels)),
        prior,
        np.array([labels.index(row.label) for row, _ in judged], dtype=np.intp),
        judge.fine(),
    )


def _evaluate(stage: pipeline.Stage, judged: _Judged, method: Choice) -> _Report:
    from inference.fit import FOLDS, Fit, quality, reliability

    rows = judged.rows
    true = int(rows.scored(Fit())[1].sum()) if len(rows) else 0
    if min(true, len(rows) - true) < FOLDS:
        raise WorkerMisconfigured(
            f"too few rows: of {len(rows)}, {true} are {_event(stage)}; a fit needs {FOLDS} that are and "
            f"{FOLDS} that are not, and some hundred of each to be worth something"
        )
    tried: list[Method] = ["temperature", "isotonic"] if method == "auto" else [method]
    fits = {"none": Fit()} | {each: rows.fit(each) for each in tried}
    scored = {"none": rows.scored(Fit())}
    own = _settings(stage).calibration
    if own.temperature != 1 or own.isotonic:
        fits["file"] = Fit(own.temperature, own.isotonic)
        scored["file"] = rows.scored(fits["file"])
    scored |= {each: rows.out_of_fold(each) for each in tried}
    found = {name: (told := quality(*each), reliability(*each, told.bins)) for name, each in scored.items()}
    choices = ["none", *tried] if method == "auto" else tried
    return _Report(stage, judged, fits, found, min(choices, key=lambda each: found[each][0].log_loss))


def _event(stage: pipeline.Stage) -> str:
    """What the fitted probability is of."""
    return "against the rules" if _settings(stage).fine() is not None else "rows whose most probable label is right"


def _show(report: _Report) -> None:
    rows = report.judged.rows
    table = Table("calibration", "ECE", "95% interval", "by chance", "Brier", "log loss")
    table.title = f"{len(rows)} rows of stage {report.stage.name}, judged by {inert(report.judged.model)}"
    for name, (found, _) in report.found.items():
        low, high = found.interval
        others = (f"{value:.3f}" for value in (found.by_chance, found.brier, found.log_loss))
        table.add_row(_TITLES.get(name, name), f"{found.ece:.3f}", f"{low:.3f} to {high:.3f}", *others)
    Console().print(table)
    bins = report.found["none"][0].bins
    typer.echo(f"Of the probability that they are {_event(report.stage)}: expected calibration error, {bins} bins.")
    typer.echo("An error up to the one by chance shows nothing. Fits are judged by rows that they have not seen.")
    if report.judged.left_out:
        typer.echo(
            f"{report.judged.left_out} rows are left out: the engine gave them up, or they were judged in parts."
        )
    typer.echo(_advice(report))


def _advice(report: _Report) -> str:
    from inference.fit import TEMPERATURES

    fit = report.fits[report.chosen]
    if report.chosen == "none":
        return "No fit is better than none: the file needs neither temperature nor isotonic."
    lines = [
        "",
        "calibration:",
        f"  # {report.chosen} fitted to {len(report.judged.rows)} rows judged by {plain(report.judged.model)}",
        *(f"  {line}" for line in _yaml(fit)),
    ]
    if fit.temperature > TEMPERATURES[1] * _WORTHLESS:
        lines.append("\nSuch a temperature says that the model's evidence is worth nothing on these rows.")
    return "\n".join(lines)


def _yaml(fit: "Fit") -> list[str]:
    if not fit.isotonic:
        return [f"temperature: {fit.temperature}"]
    return ["isotonic:", *(f"  - [{score}, {probability}]" for score, probability in fit.isotonic)]


def _as_dict(report: _Report) -> dict[str, Any]:
    rows, fit = report.judged.rows, report.fits[report.chosen]
    return {
        "stage": report.stage.name,
        "model": report.judged.model,
        "prompt_hash": report.judged.prompt_hash,
        "probability_of": _event(report.stage),
        "rows": len(rows),
        "left_out": report.judged.left_out,
        "quality": {
            name: {**asdict(found), "reliability": [asdict(each) for each in bins]}
            for name, (found, bins) in report.found.items()
        },
        "chosen": report.chosen,
        "calibration": {"isotonic": fit.isotonic} if fit.isotonic else {"temperature": fit.temperature},
    }
