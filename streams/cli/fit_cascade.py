"""`weir fit-cascade`: thresholds of a stage's screen, fitted to rows that people labelled, with what they promise."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from inference.cascade.settings import CascadeSettings
from inference.operators.moderate import ModerateSettings
from streams import pipeline
from streams.cli import labelled
from streams.cli.judging import stage_of
from streams.cli.labelled import Fields, Row
from streams.cli.terminal import plain, plain_json
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.cascade.guarantee import Fit, Goal
    from inference.screen.model import Screen


def fit_cascade_command(
    file: Annotated[Path, typer.Argument(metavar="PIPELINE", help="Pipeline file with a stage that has `cascade`.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="JSON lines with a text and its label, new to the screen.")
    ] = None,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option("--trained-on", help="The same, that the screen learned from: only what it left out is used."),
    ] = None,
    name: Annotated[str | None, typer.Option("--stage", help="Stage; default: the only one.")] = None,
    target: Annotated[float | None, typer.Option("--target", help="Recall; default: as in the file.")] = None,
    precision: Annotated[
        float | None, typer.Option("--precision", help="Of what the screen flags; default: as in the file.")
    ] = None,
    confidence: Annotated[float | None, typer.Option("--confidence", help="Default: as in the file.")] = None,
    text_field: Annotated[str, typer.Option("--text-field", help="Field that has the text.")] = "text",
    label_field: Annotated[str, typer.Option("--label-field", help="Field that has the label.")] = "label",
    mapping: Annotated[
        str, typer.Option("--map", help="Labels of the rows to those of the stage: neither=ok,offensive=harassment.")
    ] = "",
    flagged: Annotated[
        str, typer.Option("--flagged", help="Labels that say that a text is against the rules, and not which: toxic.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Fit thresholds to labelled rows, for `reference: people`, and print the lines for the pipeline file.

    Rows must be a random sample of the traffic: what is promised is promised for traffic like them.
    """
    if not data and not trained_on:
        raise WorkerMisconfigured("weir fit-cascade needs rows: --data, --trained-on, or both")
    stage = stage_of(file, name, ("moderate",), "a cascade is for moderate")
    settings = stage.cascade
    if settings is None:
        raise WorkerMisconfigured(
            f"{file}: stage {stage.name!r} has no `cascade`; give it one with `screen` and `sha256`"
        )
    chosen = settings.model_copy(
        update={
            name: value
            for name, value in (("target", target), ("precision", precision), ("confidence", confidence))
            if value is not None
        }
    )
    goal, screen = _goal(chosen), _screen(chosen)
    fields, names, coarse = Fields(text_field, label_field), labelled.mapping_of(mapping), _list(flagged)
    rows = [row for each in data or [] for row in _rows(each, stage, fields, names, coarse)]
    for each in trained_on or []:
        rows += _held_out(each, _rows(each, stage, fields, names, coarse), screen)
    doubtful = labelled.contradictory(rows)
    kept = [row for place, row in enumerate(rows) if place not in doubtful]
    found = _fit(kept, stage, screen, goal)
    notes = [*found.notes, *_notes(rows, kept)]
    if as_json:
        report = asdict(found) | {"saved": found.saved, "notes": notes, "cascade": _lines(chosen, found)}
        typer.echo(plain_json(orjson.dumps(report).decode()))
    else:
        _show(chosen, found, notes)


def _goal(settings: CascadeSettings) -> "Goal":
    try:
        return settings.goal
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"weir fit-cascade needs the extra `screen`: pip install 'weir[screen]' ({error})"
        ) from error
    except ValueError as error:
        raise WorkerMisconfigured(str(error)) from error


def _screen(settings: CascadeSettings) -> "Screen":
    from inference.screen.model import load
    from streams.cascade import screen_file

    return load(screen_file(settings.screen), settings.sha256)


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _rows(file: Path, stage: pipeline.Stage, fields: Fields, names: dict[str, str], coarse: Sequence[str]) -> list[Row]:
    """Raises WorkerMisconfigured for rows that cannot be used."""
    assert isinstance(stage.judge, ModerateSettings)
    found = labelled.read(file, fields, names, pipeline.Context())
    labelled.refuse_without(file, found)
    more = "; --flagged names labels that say that a text is against the rules, and not which"
    labelled.refuse_unknown(file, found.rows, stage.name, [*stage.judge.labels(), *coarse], more)
    return found.rows


def _held_out(file: Path, rows: Sequence[Row], screen: "Screen") -> list[Row]:
    from inference.screen.train import SPLIT, held_out

    if screen.card.split != SPLIT:
        raise WorkerMisconfigured(
            f"{file}: which of its rows the screen left out cannot be told: its card names no such split"
        )
    return [row for row in rows if held_out(row.passage.text)]


def _fit(rows: Sequence[Row], stage: pipeline.Stage, screen: "Screen", goal: "Goal") -> "Fit":
    from inference.cascade.guarantee import TooFewRows, fit

    assert isinstance(stage.judge, ModerateSettings)
    if not rows:
        raise WorkerMisconfigured("there are no rows to fit thresholds to")
    fine = stage.judge.allowed.name
    try:
        return fit(screen.risks([row.passage.text for row in rows]), [row.label != fine for row in rows], goal)
    except TooFewRows as error:
        raise WorkerMisconfigured(str(error)) from error


def _notes(rows: Sequence[Row], kept: Sequence[Row]) -> list[str]:
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} rows are left out: the same text has several labels")
    if repeated := len(kept) - len({labelled.words_of(row) for row in kept}):
        notes.append(f"{repeated} rows repeat others, and the promise takes rows for independent")
    return notes


def _lines(settings: CascadeSettings, found: "Fit") -> dict[str, object]:
    """The section of the pipeline file."""
    values = {
        "screen": settings.screen,
        "sha256": settings.sha256,
        "reference": "people",
        "target": settings.target,
        "precision": settings.precision,
        "confidence": settings.confidence if "confidence" in settings.model_fields_set else None,
        "audit": settings.audit if "audit" in settings.model_fields_set else None,
        "pass_below": found.pass_below,
        "flag_from": found.flag_from,
    }
    return {name: value for name, value in values.items() if value is not None}


def _show(settings: CascadeSettings, found: "Fit", notes: Sequence[str]) -> None:
    table = Table("rows", "flagged", "let pass by the screen", "flagged by the screen", "calls saved")
    table.add_row(
        f"{found.rows:,}", f"{found.flagged:,}", f"{found.passed:,}", f"{found.caught:,}", f"{found.saved:.1%}"
    )
    Console().print(table)
    for claim in found.claims:
        typer.echo(f"Promised: {claim}.")
    for note in notes:
        typer.echo(f"Note: {note}.")
    if found.pass_below is None and found.flag_from is None:
        typer.echo("The screen decides nothing: leave the cascade out.")
        return
    typer.echo("\ncascade:")
    for name, value in _lines(settings, found).items():
        typer.echo(f"  {name}: {plain(str(value))}")
