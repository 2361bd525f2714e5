"""Commands. Each reads its settings, calls one module, and turns known errors into one message and exit status 2."""

import gc
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TextIO

import orjson
import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from inference.errors import EngineMisconfigured, EngineUnavailable
from inference.screen.errors import ScreenUnusable
from sinks.errors import SchemaMismatch, StoreMisconfigured, StoreUnavailable
from streams import asyncapi, logs, metrics, pipeline, settings, strimzi, topics
from streams.cli.calibrate import calibrate_command
from streams.cli.common import load_settings, run_async
from streams.cli.dlq import dlq_app
from streams.cli.erase import erase_command
from streams.cli.eval import eval_command
from streams.cli.fit_cascade import fit_cascade_command
from streams.cli.leaderboard import leaderboard_command
from streams.cli.lineage import lineage_command
from streams.cli.migrate import migrate_app
from streams.cli.rerun import rerun_command
from streams.cli.retention import retention_command
from streams.cli.train_screen import train_screen_command
from streams.errors import WorkerMisconfigured
from streams.secrets import hide

PIPELINES = Path(__file__).parents[2] / "deploy" / "pipelines"

_KNOWN_ERRORS = (
    WorkerMisconfigured,
    EngineMisconfigured,
    EngineUnavailable,
    ScreenUnusable,
    SchemaMismatch,
    StoreMisconfigured,
    StoreUnavailable,
    KafkaError,
)

_GC_OBJECTS = 50_000

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
topics_app = typer.Typer(no_args_is_help=True, help="Topics of the pipelines.")
schema_app = typer.Typer(no_args_is_help=True, help="Generated documents: formats, topics, metrics.")
app.add_typer(topics_app, name="topics")
app.add_typer(schema_app, name="schema")
app.add_typer(dlq_app, name="dlq")
app.add_typer(migrate_app, name="migrate")
app.command("calibrate")(calibrate_command)
app.command("erase")(erase_command)
app.command("eval")(eval_command)
app.command("fit-cascade")(fit_cascade_command)
app.command("leaderboard")(leaderboard_command)
app.command("lineage")(lineage_command)
app.command("rerun")(rerun_command)
app.command("retention")(retention_command)
app.command("train-screen")(train_screen_command)

PipelinesOption = Annotated[
    list[Path], typer.Option("--pipelines", "-p", help="Pipeline file or folder of files; may be given again.")
]


def main() -> None:
    """Entry point."""
    try:
        app()
    except _KNOWN_ERRORS as error:
        typer.echo(hide(f"weir: {error}"), err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001  a traceback may quote a server that quoted a secret
        typer.echo(hide(traceback.format_exc()), err=True, nl=False)
        sys.exit(1)


@app.command()
def worker(pipelines: PipelinesOption) -> None:
    """Judge what arrives, until SIGTERM."""
    from streams.worker import Worker  # Faust takes a while to import, and only this command needs it

    chosen = load_settings("kafka", "engine", "clickhouse")
    loaded = pipeline.load_all(pipelines)
    # Rows in flight are many objects and none of them is garbage: looking through them all the time found nothing.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, *gc.get_threshold()[1:])
    run_async(_start(lambda: Worker(chosen, loaded)))


async def _start(create: Any) -> None:
    await create().run()  # clients of Kafka are made inside the running loop


@app.command()
def demo(
    file: Annotated[Path | None, typer.Option("--input", help="JSON lines with at least `text`, instead.")] = None,
    name: Annotated[str, typer.Option("--pipeline", help="Pipeline for --input.")] = "community-moderation",
    keep: Annotated[Path | None, typer.Option(help="Keep store and logs in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as one JSON object on the last line.")] = False,
) -> None:
    """Run the whole service here, with embedded broker, engine and store. Exit status 0 if nothing was lost."""
    from deploy.embedded.process import ProcessFailed
    from streams.demo import calls, run, traffic

    console = Console(stderr=as_json)
    pipelines = pipeline.load_all([PIPELINES])
    if file:
        pipelines = [chosen for chosen in pipelines if chosen.name == name]
        if not pipelines:
            known = ", ".join(chosen.name for chosen in pipeline.load_all([PIPELINES]))
            raise WorkerMisconfigured(f"no pipeline {name!r}; there are: {known}")
    folder = PIPELINES / f"{name}.yaml" if file else PIPELINES
    texts = [loaded for loaded in pipelines if loaded.stages[0].judge is not None]
    reviews = [loaded for loaded in pipelines if loaded.stages[0].assemble is not None]
    spoken = calls.Calls(reviews[0], *calls.shipped()) if reviews else None
    items = traffic.from_file(file, pipelines[0].source) if file else traffic.shipped(texts)
    logs.configure("WARNING")
    with _folder(keep) as data:
        try:
            report = run.run(console, items, spoken, texts, folder, data)
        except ProcessFailed as error:
            raise WorkerMisconfigured(str(error)) from error
    report.show(console)
    if keep:
        console.print(f"Kept in {keep}. Serve it with: weir store {keep}")
    if as_json:
        typer.echo(orjson.dumps(report.as_dict()).decode())
    if not report.good:
        raise typer.Exit(1)


@app.command()
def store(
    folder: Annotated[Path, typer.Argument(help="Folder that `weir demo --keep` filled.", exists=True)],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8123,
) -> None:
    """Serve a kept store over ClickHouse's HTTP protocol on loopback, until Ctrl-C."""
    from deploy.embedded import store_server

    typer.echo(f"export WEIR_CLICKHOUSE_URL=http://127.0.0.1:{port}")
    try:
        store_server.serve(folder / "tables", port)
    except OSError as error:
        raise WorkerMisconfigured(
            f"the store cannot be served on port {port}: {error.strerror}; try another --port"
        ) from error


@app.command()
def check(files: Annotated[list[Path], typer.Argument(help="Pipeline files or folders.")]) -> None:
    """Check pipeline files; prints what each does, or every mistake with its line."""
    for loaded in pipeline.load_all(files):
        for stage in loaded.stages:
            typer.echo(f"{loaded.name} {loaded.version}: {loaded.reads(stage)} -> {stage.name} -> {stage.writes}")
            typer.echo(f"  {stage.task}: {stage.about()}; SLA {loaded.sla}")
        for limit in loaded.limits.described():
            typer.echo(f"  limits of {limit}")


@topics_app.command("create")
def topics_create(
    pipelines: PipelinesOption,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 8,
    replication: Annotated[int, typer.Option(min=1, help="Replicas of each partition.")] = 1,
) -> None:
    """Create the topics that the pipelines read and write; those that exist are left alone."""
    chosen = load_settings("kafka")
    wanted = topics.topics_of(pipeline.load_all(pipelines), chosen.reviews_topic)
    created = run_async(topics.create(chosen, wanted, partitions, replication))
    for topic in wanted:
        typer.echo(f"{'created' if created[topic.name] else 'exists '} {topic.name}: {topic.purpose}")


@topics_app.command("manifest")
def topics_manifest(
    pipelines: PipelinesOption,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of each topic.")] = 8,
    replication: Annotated[int, typer.Option(min=1, help="Replicas of each partition.")] = 3,
    cluster: Annotated[str, typer.Option(help="Name of the Kafka resource.")] = "weir",
) -> None:
    """Print the topics as KafkaTopic resources for Strimzi, instead of creating them."""
    wanted = topics.topics_of(pipeline.load_all(pipelines), load_settings().reviews_topic)
    typer.echo(strimzi.manifests(wanted, partitions, replication, cluster), nl=False)


@app.command()
def produce(
    topic: Annotated[str, typer.Argument(help="Topic to publish to.")],
    file: Annotated[Path, typer.Argument(help="JSON lines with at least `text`; - for standard input.")] = Path("-"),
    source: Annotated[str, typer.Option(help="CloudEvents source.")] = "/weir/produce",
) -> None:
    """Publish rows of a JSON-lines file."""
    from streams.produce import Producer, read_rows

    async def publish() -> int:
        count = 0
        async with Producer(load_settings("kafka"), source) as producer:
            with _open(file) as lines:
                for row in read_rows(lines):
                    await producer.publish(topic, row)
                    count += 1
        return count

    try:
        typer.echo(f"published {run_async(publish())} messages to {topic}")
    except (OSError, ValueError) as error:
        raise WorkerMisconfigured(f"{file}: {error}") from error


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="Topic to read.")],
    from_start: Annotated[
        bool, typer.Option("--from-start", help="All that the topic holds, then what comes.")
    ] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Stop after so many; 0: go on.")] = 0,
) -> None:
    """Print the messages of a topic, one JSON object a line."""
    from streams.tail import consumer

    async def show() -> None:
        seen = 0
        async with consumer(load_settings("kafka"), topic, from_start=from_start) as messages:
            async for message in messages:
                typer.echo(orjson.dumps(_shown(message)).decode())
                seen += 1
                if seen == count:
                    return

    run_async(show())


@schema_app.command("pipeline")
def schema_pipeline() -> None:
    """JSON Schema of pipeline files, for editors."""
    typer.echo(_pretty(pipeline.Pipeline.model_json_schema()), nl=False)


@schema_app.command("asyncapi")
def schema_asyncapi(pipelines: PipelinesOption) -> None:
    """AsyncAPI document of all topics."""
    typer.echo(_pretty(asyncapi.document(pipeline.load_all(pipelines))), nl=False)


@schema_app.command("metrics")
def schema_metrics() -> None:
    """Page of all metrics."""
    typer.echo(metrics.document(), nl=False)


@schema_app.command("settings")
def schema_settings() -> None:
    """Page of all settings."""
    typer.echo(settings.document(), nl=False)


def _open(file: Path) -> AbstractContextManager[TextIO]:
    return nullcontext(sys.stdin) if str(file) == "-" else file.open(encoding="utf-8")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder to keep, or one that goes with the block."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="weir-") as folder:
            yield Path(folder)
    else:
        if keep.exists() and any(keep.iterdir()):
            raise WorkerMisconfigured(f"{keep} is not empty; name a new folder for --keep")
        keep.mkdir(parents=True, exist_ok=True)
        yield keep


def _pretty(document: object) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _shown(message: Any) -> dict[str, Any]:
    """A message for people: JSON values as they are, anything else as text."""
    try:
        value = None if message.value is None else orjson.loads(message.value)
    except orjson.JSONDecodeError:
        value = message.value.decode("utf-8", "backslashreplace")
    return {
        "partition": message.partition,
        "offset": message.offset,
        "key": None if message.key is None else message.key.decode("utf-8", "backslashreplace"),
        "headers": {name: (content or b"").decode("utf-8", "backslashreplace") for name, content in message.headers},
        "value": value,
    }
