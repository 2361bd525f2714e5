"""`weir eval`: how good are engines, prompts and pipelines on rows that people labelled?"""

import asyncio
import hashlib
import importlib.metadata
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import orjson
import typer

from inference import operators
from inference.errors import EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.http import Http
from inference.judgement import Identity
from inference.openai import EngineSettings, OpenAiEngine
from sinks import evaluations, migrate
from sinks.clickhouse import StoreSettings
from sinks.rows import EvaluatedRow, EvaluationRow
from streams import pipeline, settings
from streams.cli import eval_report, labelled
from streams.cli.common import ask_store, load_settings, run_async
from streams.cli.evaluated import OPERATORS, evaluated, names_told_apart, rows_hash, task_of, task_of_run
from streams.cli.journal import Journal, JudgedRow, judged_row
from streams.cli.judging import ROWS_AT_ONCE, engine_at, judge_each, needs_extra, stage_of
from streams.cli.labelled import Fields, Row
from streams.cli.terminal import plain, plain_json
from streams.errors import WorkerMisconfigured

if TYPE_CHECKING:
    from inference.evaluation.answers import Task

Run = tuple[EvaluationRow, list[EvaluatedRow]]

_JOURNALS = Path(".weir-eval")
_VERSION_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """An engine and a stage, before anything is judged."""

    engine: str
    url: str | None
    file: Path
    loaded: pipeline.Pipeline
    stage: pipeline.Stage
    name: str

    @property
    def settings(self) -> operators.AnySettings:
        assert self.stage.judge is not None
        return self.stage.judge


@dataclass(frozen=True, slots=True)
class _Data:
    """rows: to be judged. left_out: numbers of rows that are not, by why. sha256: of the file."""

    file: Path
    rows: list[Row]
    left_out: Mapping[str, Sequence[int]]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Options:
    """What shapes a run besides pipeline and engine."""

    fields: Fields
    mapping: Mapping[str, str]
    flagged: Sequence[str]
    ignored: Sequence[str]
    rows: int
    seed: int
    at_once: int


def eval_command(
    data: Annotated[Path, typer.Option("--data", help="JSON lines with a text and its label; thread where known.")],
    files: Annotated[
        list[Path], typer.Option("--pipeline", "-p", help="Pipeline file; several are compared with each other.")
    ],
    stage_name: Annotated[str | None, typer.Option("--stage", help="Stage; default: the only one.")] = None,
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", metavar="NAME=URL", help="Instead of WEIR_ENGINE_URL; several are compared."),
    ] = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Use the engine of `weir demo` (as well).")] = False,
    text_field: Annotated[str, typer.Option(help="Field that has the text.")] = "text",
    label_field: Annotated[str, typer.Option(help="Field that has the label.")] = "label",
    lang_field: Annotated[str, typer.Option(help="Field that has the language.")] = "lang",
    id_field: Annotated[str, typer.Option(help="Field that has the row's id.")] = "id",
    mapping: Annotated[
        str, typer.Option("--map", help="Labels of the rows to those of the stage: neither=ok,offensive=harassment.")
    ] = "",
    flagged: Annotated[
        str, typer.Option("--flagged", help="Labels that say that a text is against the rules, and not which: toxic.")
    ] = "",
    ignored: Annotated[str, typer.Option("--ignore", help="Labels whose rows are left out.")] = "",
    count: Annotated[int, typer.Option("--rows", min=0, help="A random sample of so many; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 1,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="RUN", help="Compare with a stored run as well.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Rows judged at once; latency depends on it.")] = ROWS_AT_ONCE,
    journals: Annotated[Path, typer.Option("--journal", help="Folder for rows judged so far.")] = _JOURNALS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Judge all rows anew.")] = False,
    store: Annotated[
        bool | None, typer.Option("--store/--no-store", help="Store the run; default: if WEIR_CLICKHOUSE_URL is set.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object.")] = False,
) -> None:
    """Measure engines, prompts and pipelines on labelled rows, with intervals, and compare them row by row.

    Rows judged so far are kept, so after Ctrl-C the same command goes on where it was.
    """
    needs_extra("weir eval")
    fields = Fields(text_field, label_field, lang_field, id_field)
    options = _Options(fields, labelled.mapping_of(mapping), _list(flagged), _list(ignored), count, seed, at_once)
    asked = _asked(files, stage_name, engines or [], embedded=embedded)
    task = _task(asked, options.flagged)
    chosen = _data(data, asked[0].stage, task, options)
    stored_at = _store(store, needed=bool(against))
    if html is not None and not html.parent.is_dir():
        raise WorkerMisconfigured(f"--html {html}: there is no folder {html.parent}")
    earlier = [_stored(stored_at, run, task) for run in against or []] if stored_at else []
    runs = [_run(each, task, chosen, options, journals, fresh=fresh) for each in asked]
    if not any(rows for _, rows in runs):
        raise WorkerMisconfigured("the engine gave up every row; its log says why")
    runs += _screened(asked, runs, chosen, task)
    found = eval_report.measure(task, [*runs, *earlier], _texts(chosen.rows))
    if stored_at and store is not False:
        for (run, rows), report in zip(runs, found.reports, strict=False):
            metrics = orjson.dumps(eval_report.figures_of(report)).decode()
            _save(stored_at, run._replace(metrics=metrics), rows)
    about = eval_report.About(data, chosen.sha256, runs[0][0].rows_hash, len(chosen.rows), chosen.left_out, seed)
    told = f"rows judged are kept in {journals}"
    if stored_at and store is not False:
        told += f"; stored as {', '.join(run.run[:8] for run, _ in runs)} (weir leaderboard)"
    if html is not None:
        html.write_text(eval_report.page_of(about, found), encoding="utf-8")
        told += f"; page in {html}"
    if as_json:
        typer.echo(plain_json(orjson.dumps(eval_report.as_dict(about, found)).decode()))
    else:
        eval_report.show(about, found)
    typer.echo(plain(told), err=True)


def _list(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _asked(files: Sequence[Path], stage: str | None, engines: Sequence[str], *, embedded: bool) -> list[_Asked]:
    pairs: list[tuple[str, str | None]] = []
    for text in engines:
        name, found, url = text.partition("=")
        if not found or not name or urlsplit(url).scheme not in ("http", "https"):
            raise WorkerMisconfigured(f"--engine {plain(text)!r} is not of the form NAME=http://host:port")
        pairs.append((name, url))
    if embedded:
        pairs.append(("embedded", ""))
    pairs = pairs or [("engine", None)]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise WorkerMisconfigured(f"two engines have the same name: {', '.join(map(plain, names))}")
    can = "those of moderate, guard, classify and check can be evaluated"
    stages = [(file, pipeline.load(file), stage_of(file, stage, OPERATORS, can)) for file in files]
    versions = names_told_apart(
        [f"{loaded.name} {loaded.version}" for _, loaded, _ in stages], [f"({file.stem})" for file in files]
    )
    if len(set(versions)) < len(versions):
        raise WorkerMisconfigured(f"the same pipeline is given twice: {', '.join(map(str, files))}")
    asked = []
    for (engine, at), ((file, loaded, chosen), version) in itertools.product(pairs, zip(stages, versions, strict=True)):
        title = engine if len(files) == 1 else version if len(pairs) == 1 else f"{engine} / {version}"
        asked.append(_Asked(engine, at, file, loaded, chosen, title))
    return asked


def _task(asked: Sequence[_Asked], flagged: Sequence[str]) -> "Task":
    tasks = [task_of(each.settings, flagged) for each in asked]
    first = tasks[0]
    for each, task in zip(asked, tasks, strict=True):
        fine = None if task.fine is None else task.labels[task.fine]
        if set(task.labels) != set(first.labels) or fine != (None if first.fine is None else first.labels[first.fine]):
            raise WorkerMisconfigured(
                f"{each.file}: stage {each.stage.name!r} has the labels {', '.join(task.labels)}, and that of "
                f"{asked[0].file} {', '.join(first.labels)}; what is to be compared needs the same"
            )
    if flagged and first.fine is None:
        raise WorkerMisconfigured(f"--flagged is for moderate and guard; stage {asked[0].stage.name!r} flags nothing")
    if both := set(flagged) & set(first.labels):
        raise WorkerMisconfigured(f"--flagged {', '.join(sorted(both))}: the stage has that label; leave it out")
    return first


def _data(file: Path, stage: pipeline.Stage, task: "Task", options: _Options) -> _Data:
    """Rows that can be judged and measured. Raises WorkerMisconfigured where there are none, or labels are unknown."""
    found = labelled.read(file, options.fields, options.mapping, stage.context)
    if not found.rows and not found.without:
        raise WorkerMisconfigured(f"{file} has no rows")
    left_out: dict[str, list[int]] = {f"no text in the field {name!r}": each for name, each in found.without.items()}
    rows = [row for row in found.rows if row.label not in options.ignored]
    if len(rows) < len(found.rows):
        names = ", ".join(options.ignored)
        left_out[f"label {names} (--ignore)"] = [row.number for row in found.rows if row.label in options.ignored]
    more = "; --ignore leaves rows of a label out"
    if task.fine is not None:
        more += "; --flagged names labels that say that a text is against the rules, and not which"
    labelled.refuse_unknown(file, rows, stage.name, [*task.labels, *sorted(task.coarse)], more)
    doubtful = labelled.contradictory(rows)
    if doubtful:
        left_out["the same text has several labels"] = [rows[place].number for place in sorted(doubtful)]
        rows = [row for place, row in enumerate(rows) if place not in doubtful]
    if not rows:
        reasons = "; ".join(f"{why}: {labelled.rows_told(numbers)}" for why, numbers in left_out.items())
        raise WorkerMisconfigured(f"{file}: no row can be used: {reasons}")
    if set(options.flagged) - {row.label for row in rows}:
        strange = ", ".join(sorted(set(options.flagged) - {row.label for row in rows}))
        raise WorkerMisconfigured(f"{file}: no row has the label {strange!r} that --flagged names")
    return _Data(file, labelled.sample(rows, options.rows, options.seed), left_out, found.sha256)


def _texts(rows: Sequence[Row]) -> dict[str, str]:
    return {row.key: row.passage.text for row in rows}


def _store(wanted: bool | None, *, needed: bool) -> StoreSettings | None:
    """Where runs are stored, ready for them; None for nowhere. Raises what `migrate.check` does."""
    if wanted is False and not needed:
        return None
    if wanted is None and not needed and not load_settings().clickhouse_url:
        return None
    store = load_settings("clickhouse").store
    migrate.check(store)
    return store


def _stored(store: StoreSettings, wanted: str, task: "Task") -> tuple[EvaluationRow, list[EvaluatedRow]]:
    """A stored run, with the name of its engine and prompt. Raises WorkerMisconfigured."""
    found = ask_store(store, lambda client: evaluations.runs(client, run=wanted))
    if len(found) != 1:
        many = f"{len(found)} runs begin so" if found else "there is no such run"
        raise WorkerMisconfigured(f"--against {plain(wanted)}: {many}; weir leaderboard has their ids")
    (run,) = found
    theirs = task_of_run(run)
    if theirs.labels != task.labels or theirs.fine != task.fine:
        raise WorkerMisconfigured(f"--against {plain(wanted)}: that run has other labels: {', '.join(run.labels)}")
    rows = ask_store(store, lambda client: evaluations.rows_of(client, [run.run]))
    return run._replace(name=f"{run.name} ({run.run[:8]})"), rows.get(run.run, [])


def _run(
    asked: _Asked, task: "Task", data: _Data, options: _Options, journals: Path, *, fresh: bool
) -> tuple[EvaluationRow, list[EvaluatedRow]]:
    """Judge what was not judged before, and put it together."""
    settings_hash = hashlib.sha256(
        orjson.dumps([asked.settings.model_dump(mode="json"), asked.stage.context.model_dump(mode="json")])
    ).hexdigest()[:32]
    with ExitStack() as stack:
        engine = stack.enter_context(engine_at(asked.url or None, embedded=asked.url == ""))
        judged, identity, version = run_async(
            _judge(asked, engine, data, options, journals, settings_hash, fresh=fresh)
        )
    run = uuid4().hex
    rows = [evaluated(run, row, judged[row.key], task) for row in data.rows if row.key in judged]
    return EvaluationRow(
        run=run,
        name=asked.name,
        evaluated_at=datetime.now(UTC),
        dataset=data.file.name,
        dataset_hash=data.sha256,
        rows_hash=rows_hash(data.rows),
        rows=len(data.rows),
        left_out=sum(map(len, data.left_out.values())),
        given_up=len(data.rows) - len(rows),
        seed=options.seed,
        pipeline=asked.loaded.name,
        pipeline_version=asked.loaded.version,
        stage=asked.stage.name,
        operator=asked.stage.task,
        prompt_version=asked.stage.prompt,
        prompt_hash=identity.prompt_hash,
        prompt_text=identity.prompt_text,
        settings_hash=settings_hash,
        settings=orjson.dumps(
            {"context": asked.stage.context.model_dump(mode="json"), "judge": asked.settings.model_dump(mode="json")}
        ).decode(),
        model=identity.model,
        engine=asked.engine,
        engine_url="" if asked.url == "" else _without_password(engine.url),
        engine_version=version,
        weir_version=importlib.metadata.version("weir"),
        labels=list(task.labels),
        fine="" if task.fine is None else task.labels[task.fine],
        coarse=sorted(task.coarse),
        options=orjson.dumps(options).decode(),
        metrics="",
    ), rows


def _screened(asked: Sequence[_Asked], runs: Sequence[Run], data: _Data, task: "Task") -> list[Run]:
    """What screens of the stages make of the same rows; a screen by itself once, however many models there are."""
    if not any(each.stage.cascade for each in asked):
        return []
    try:
        from streams.cli.screened import screened
    except ModuleNotFoundError as error:
        raise WorkerMisconfigured(
            f"a stage with a screen needs the extra `screen`: pip install 'weir[screen]' ({error})"
        ) from error
    found: dict[tuple[str, str], Run] = {}
    for each, run in zip(asked, runs, strict=True):
        if each.stage.cascade is not None:
            found |= {(r.name, r.settings_hash): (r, rows) for r, rows in screened(each.stage, run, data.rows, task)}
    return list(found.values())


async def _judge(
    asked: _Asked,
    engine_settings: EngineSettings,
    data: _Data,
    options: _Options,
    journals: Path,
    settings_hash: str,
    *,
    fresh: bool,
) -> tuple[dict[str, JudgedRow], Identity, str]:
    """Judged rows by key, what judged them, and the version of the engine."""
    prices = settings.load(()).prices
    version = await _version(engine_settings)
    engine = OpenAiEngine(engine_settings)
    try:
        await engine.connect()
        operator = operators.create(asked.settings, engine, prices)
        await operator.prepare()
        identity = operator.identity
        address = "" if asked.url == "" else _without_password(engine_settings.url)
        journal = Journal(
            journals / f"{_journal_key(data, identity, settings_hash, asked.engine, address, version)}.jsonl"
        )
        before = {} if fresh else journal.read()
        judged = {row.key: before[row.key] for row in data.rows if row.key in before}
        left = [row for row in data.rows if row.key not in judged]
        if judged:
            typer.echo(
                f"{plain(asked.name)}: {len(judged):,} of {len(data.rows):,} rows were judged before "
                f"({journal.file}); --fresh starts anew",
                err=True,
            )

        def keep(row: Row, judgement: Any) -> None:
            found = judged_row(row.key, judgement)
            journal.add(found)
            judged[row.key] = found

        with journal.open(fresh=fresh):
            try:
                await judge_each(operator, left, keep, asked.name, len(judged), options.at_once)
            except asyncio.CancelledError:
                typer.echo(
                    f"{plain(asked.name)}: {len(judged):,} of {len(data.rows):,} rows are judged and kept in "
                    f"{journal.file}; the same command goes on from there",
                    err=True,
                )
                raise
    finally:
        await engine.close()
    return judged, identity, version


def _journal_key(data: _Data, identity: Identity, settings_hash: str, *engine: str) -> str:
    """Judgements may stand for each other if all of these are the same."""
    key = [data.sha256, identity.prompt_hash, settings_hash, identity.model, *engine]
    return hashlib.sha256(orjson.dumps(key)).hexdigest()[:32]


async def _version(settings: EngineSettings) -> str:
    """What the engine says of its version: vLLM's /version, llama.cpp's /props; empty for others."""
    http = Http(settings.url, settings.api_key, _VERSION_SECONDS)
    http.open()
    try:
        for path, field in (("/version", "version"), ("/props", "build_info")):
            with suppress(EngineMisconfigured, EngineUnavailable, EngineBusy, PromptRejected):
                answer = await http.call("GET", path)
                if isinstance(answer, dict) and isinstance(answer.get(field), str):
                    return str(answer[field])[:80]
    finally:
        await http.close()
    return ""


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _save(store: StoreSettings, run: EvaluationRow, rows: Sequence[EvaluatedRow]) -> None:
    ask_store(store, lambda client: evaluations.save(client, run, rows))
