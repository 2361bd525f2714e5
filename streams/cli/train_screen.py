"""`weir train-screen`: learn a screen from labelled rows or from the store, and say what it is worth beside the old."""

import hashlib
import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from inference.cascade.settings import CascadeSettings
from sinks import migrate
from streams import pipeline
from streams.cli import train_report, training_rows
from streams.cli.common import ask_store, load_settings, point_in_time
from streams.cli.judging import stage_of
from streams.cli.labelled import Fields
from streams.cli.terminal import plain_json
from streams.cli.train_report import Report
from streams.cli.training_rows import TrainingRows
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.screen.model import Card, Screen

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def train_screen_command(
    out: Annotated[Path, typer.Option("--out", help="File to write, .safetensors.")],
    data: Annotated[Path | None, typer.Option("--data", help="JSON lines with a text and its label.")] = None,
    file: Annotated[
        Path | None, typer.Option("--pipeline", help="Pipeline file: learn from what the store has of its stage.")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="Stage of it; default: the only one.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Its events since: RFC 3339, or how long ago, for example 30d.")
    ] = None,
    text_field: Annotated[str, typer.Option("--text-field", help="Field that has the text.")] = "text",
    label_field: Annotated[
        str, typer.Option("--label-field", help="Field that has the label, or the share of votes to flag, 0 to 1.")
    ] = "label",
    lang_field: Annotated[str, typer.Option("--lang-field", help="Field that has the language.")] = "lang",
    flagged: Annotated[str, typer.Option("--flagged", help="Labels to be flagged: hate,offensive.")] = "",
    categories: Annotated[
        str, typer.Option("--categories", help="Labels to give a probability of their own: hate,spam.")
    ] = "",
    against: Annotated[
        Path | None, typer.Option("--against", help="Screen to compare with; default: that of the stage's cascade.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name; default: that of the file.")] = None,
    version: Annotated[str | None, typer.Option("--version", help="Default: one after that of the old one.")] = None,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the new file, for its card.")] = "",
    trained_on: Annotated[str, typer.Option("--trained-on", help="Whose data, for its card.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed and rows give the same file.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Learn which texts are to be flagged, and write a screen: from labelled rows (--data), from what the model and
    people said of the messages of a stage (--pipeline), or from both.

    A fifth of the texts is held out, always the same ones: no screen is fitted to them, so old and new are measured on
    texts that neither has seen. Another tenth calibrates the probabilities. With both, measured and calibrated is on
    the stage's texts.
    """
    _needs_extra()
    from inference.screen.errors import TooFewRows
    from inference.screen.model import Card, Features

    if data is None:
        _refuse("--data", {"--flagged": flagged})
    if file is None:
        _refuse("--pipeline", {"--stage": stage, "--since": since})
    fields, wanted = Fields(text_field, label_field, lang_field), _names(categories)
    given = None if data is None else training_rows.of_file(data, fields, _names(flagged))
    cascade = None
    if file is not None:
        meant = stage_of(file, stage, ("moderate",), "only what moderate judges can have a screen before it")
        cascade = meant.cascade
    old = _old(against, cascade, out)
    if file is not None:
        rows = replace(_of_store(pipeline.load(file).name, meant.name, since), more=given)
    elif given is not None:
        rows = given
    else:
        raise WorkerMisconfigured("name labelled rows with --data, a pipeline file with --pipeline, or both")
    rows.refuse_absent(wanted)
    card = Card(
        name=name or out.stem,
        version=version or _next(old),
        features=Features(),
        categories=tuple(wanted),
        trained_on=(trained_on,) if trained_on else rows.origins,
        licence=licence,
        seed=seed,
    )
    try:
        with Console(stderr=True).status(f"learning from {len(rows.examples)} rows"):
            report = _train(rows, card, old, out, cascade)
    except TooFewRows as error:
        raise WorkerMisconfigured(f"{rows.origin}: {error}") from error
    if as_json:
        typer.echo(plain_json(orjson.dumps(train_report.as_dict(report)).decode()))
    else:
        train_report.show(report)


def _needs_extra() -> None:
    try:
        import inference.screen.compare  # noqa: F401
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"weir train-screen needs the extra `screen`: pip install 'weir[screen]' ({error})"
        ) from error


def _names(told: str) -> list[str]:
    return [name for name in told.split(",") if name]


def _refuse(needs: str, options: dict[str, str | None]) -> None:
    """Raises WorkerMisconfigured for options that mean nothing here."""
    if given := [option for option, value in options.items() if value]:
        raise WorkerMisconfigured(f"{', '.join(given)} goes with {needs}")


def _of_store(name: str, stage: str, since: str | None) -> TrainingRows:
    begin = _EPOCH if since is None else point_in_time("--since", since)
    store = load_settings("clickhouse").store
    migrate.check(store)
    with Console(stderr=True).status(f"reading what was said of {name}/{stage}"):
        return ask_store(store, partial(training_rows.of_store, pipeline=name, stage=stage, since=begin))


def _old(against: Path | None, cascade: CascadeSettings | None, out: Path) -> "Screen | None":
    """The screen to compare with. Raises ScreenUnusable; WorkerMisconfigured if `out` would overwrite it."""
    from inference.screen.model import load
    from streams.cascade import screen_file

    if against is not None:
        used, sha256 = against, None
    elif cascade is not None:
        used, sha256 = screen_file(cascade.screen), cascade.sha256
    else:
        return None
    old = load(used, sha256)
    if out.exists() and out.samefile(used):
        raise WorkerMisconfigured(
            f"{out} is the old screen: write the new one to another file, the old one may be kept"
        )
    return old


def _next(old: "Screen | None") -> str:
    if old is None:
        return "1"
    return str(int(old.card.version) + 1) if old.card.version.isdecimal() else f"{old.card.version}+1"


def _train(
    rows: TrainingRows, card: "Card", old: "Screen | None", out: Path, cascade: CascadeSettings | None
) -> Report:
    from inference.cascade.weights import effective
    from inference.screen import compare, train

    parts = rows.parts()
    screen = train.fit(parts, card)
    texts, flags = [example.text for example in parts.held_out], compare.flags(parts.held_out)
    weights = compare.weights_of(parts.held_out)
    new = screen.risks(texts)
    before = old.risks(texts) if old is not None else None
    few = min(flags.sum(), (~flags).sum()) < train.LEAST
    return Report(
        screen,
        _write(out, screen),
        out,
        rows,
        (effective(weights[flags]), effective(weights[~flags])),
        compare.by_language(parts.held_out, new),
        None if before is None else compare.by_language(parts.held_out, before),
        None if before is None or few else compare.difference(flags, before, new, weights),
        old is not None and old.card.split != train.SPLIT,
        cascade,
    )


def _write(out: Path, screen: "Screen") -> str:
    """Write the whole file or none; its SHA-256. Raises WorkerMisconfigured."""
    part = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        part.write_bytes(content := screen.dump())
        part.replace(out)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise WorkerMisconfigured(f"{out} cannot be written: {error}") from error
    return hashlib.sha256(content).hexdigest()
