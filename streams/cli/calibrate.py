"""`weir calibrate`: fit a stage's confidence to rows that people labelled, and say what it is worth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.console import Console
from rich.table import Table

from inference import operators
from inference.cost import Prices
from inference.judgement import Judgement
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.classify import ClassifySettings
from inference.operators.moderate import ModerateSettings
from streams import pipeline
from streams.cli.common import run_async
from streams.cli.judging import engine_at, judge_each, needs_extra, stage_of
from streams.cli.labelled import Fields, Row, mapping_of, read, refuse_unknown, refuse_without, sample
from streams.cli.terminal import inert, plain, plain_json
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.fit import Bin, Fit, LabelledRows, Method, Quality

_LEAST = 1e-300  # a probability of which there is a logarithm
_TITLES = {"none": "without a fit", "file": "as in the file"}
_WORTHLESS = 0.9  # of the highest temperature

Choice = Literal["temperature", "isotonic", "auto"]
Settings = ModerateSettings | ClassifySettings


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
    needs_extra("weir calibrate")
    if embedded and url is not None:
        raise WorkerMisconfigured("--embedded brings an engine of its own: leave out --engine-url, or --embedded")
    stage = stage_of(file, name, ("moderate", "classify"), "moderate and classify can be calibrated")
    found = read(data, Fields(text_field, label_field), mapping_of(mapping), stage.context)
    refuse_without(data, found)
    refuse_unknown(data, found.rows, stage.name, list(_settings(stage).labels()))
    rows = sample(found.rows, count)
    with engine_at(url, embedded=embedded) as settings:
        judged = run_async(_judge(stage, settings, rows))
    report = _evaluate(stage, judged, method)
    if as_json:
        typer.echo(plain_json(orjson.dumps(_as_dict(report)).decode()))
    else:
        _show(report)


def _settings(stage: pipeline.Stage) -> Settings:
    assert isinstance(stage.judge, Settings)
    return stage.judge


async def _judge(stage: pipeline.Stage, settings: EngineSettings, rows: Sequence[Row]) -> _Judged:
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
        found = await judge_each(operator, rows)
        identity = operator.identity
    finally:
        await engine.close()
    whole = [(row, judgement) for row, judgement in zip(rows, found, strict=True) if judgement and judgement.parts == 1]
    return _Judged(_labelled(judge, whole), len(rows) - len(whole), identity.model, identity.prompt_hash)


def _labelled(judge: Settings, judged: Sequence[tuple[Row, Judgement]]) -> "LabelledRows":
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
