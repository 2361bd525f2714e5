"""OpenLineage run events, so that a catalogue sees the pipelines: a run of a stage is a worker's time with it.

START when the worker begins to read, COMPLETE when it stops because it was told to, FAIL when it stops for an error.
Rows and what they were made from are in ClickHouse (`weir lineage`), not here. Needs the extra `openlineage`; imported
only where `WEIR_OPENLINEAGE_URL` is set.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState, set_producer
from openlineage.client.facet_v2 import (
    InputDatasetFacet,
    documentation_job,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.transport import Transport
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.uuid import generate_new_uuid
from prometheus_client import Counter
from pydantic import BaseModel

from sinks.rows import (
    TABLES,
    AnyRow,
    CallRow,
    CascadeFitRow,
    DocumentRow,
    InferenceCallRow,
    LineageEdgeRow,
    PromptRow,
    ReviewRow,
    SourceRow,
    TurnRow,
    VerdictRow,
)
from streams.documents import NAME as DOCUMENTS
from streams.metrics import Metrics
from streams.pipeline import Pipeline, Stage
from streams.records import Escalation, Review, TextMessage, Verdict
from streams.reviews import PIPELINE, STAGE
from streams.secrets import hide
from streams.settings import Settings
from streams.topics import topics_of

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_CLOSE_SECONDS = 3.0
_RETRIES = {"total": 2, "backoff_factor": 0.3}
_KAFKA_PORT, _CLICKHOUSE_PORTS = 9092, {"http": 8123, "https": 8443}

_JUDGE_ROWS = (PromptRow, SourceRow, InferenceCallRow, LineageEdgeRow, VerdictRow)
_CUT_ROWS = (SourceRow, LineageEdgeRow)
_ASSEMBLE_ROWS = (SourceRow, TurnRow, LineageEdgeRow, CallRow)


@dataclass(frozen=True, slots=True)
class _Part:
    """What runs: a stage, or the reading of documents or of reviews.

    topics: topic that is written, and how many messages were until now. reads_rows, writes_rows: tables.
    """

    pipeline: str
    stage: str
    about: str
    reads: str
    topics: Mapping[str, Callable[[], int]]
    reads_rows: Sequence[type[AnyRow]]
    writes_rows: Sequence[type[AnyRow]]


class RunEvents:
    """The runs of one worker. A catalogue that is away holds nothing up: its events are lost, and the log says so."""

    def __init__(
        self,
        settings: Settings,
        pipelines: Sequence[Pipeline],
        metrics: Metrics,
        close_seconds: float = _CLOSE_SECONDS,
    ) -> None:
        """close_seconds: how long events have to get away when the worker stops."""
        self._namespace = settings.openlineage_namespace
        self._datasets = _Datasets(settings, pipelines)
        self._received = metrics.received
        stages = (part for one in pipelines for part in _stages(one, metrics))
        self._parts = [*_documents(pipelines), *stages, *_reviews(settings.reviews_topic, pipelines, metrics)]
        self._runs: dict[str, UUID] = {}
        self._sender = _Sender(_transport(settings), close_seconds)
        set_producer(f"urn:weir:{version('weir')}")

    def start(self) -> None:
        """The worker begins to read."""
        self._runs = {_job_name(part): generate_new_uuid() for part in self._parts}
        self._sender.start()
        self._tell(RunState.START)

    def complete(self) -> None:
        """The worker was told to stop."""
        self._tell(RunState.COMPLETE)

    def fail(self, error: Exception) -> None:
        """The worker stops for this error."""
        self._tell(RunState.FAIL, hide(str(error)) or type(error).__name__)

    async def close(self) -> None:
        """Give the events some seconds to get away."""
        await self._sender.close()

    def _tell(self, state: RunState, error: str | None = None) -> None:
        now = datetime.now(UTC).isoformat()
        for part in self._parts:
            self._sender.send(self._event(part, state, now, error))

    def _event(self, part: _Part, state: RunState, now: str, error: str | None) -> RunEvent:
        facets: dict[str, Any] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(version=version("weir"), name="Weir")
        }
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
        return RunEvent(
            eventType=state,
            eventTime=now,
            run=Run(runId=str(self._runs[_job_name(part)]), facets=facets),
            job=Job(
                namespace=self._namespace,
                name=_job_name(part),
                facets={
                    "jobType": job_type_job.JobTypeJobFacet("STREAMING", "WEIR", "STAGE"),
                    "documentation": documentation_job.DocumentationJobFacet(part.about),
                },
            ),
            inputs=self._inputs(part, counted=state is not RunState.START),
            outputs=self._outputs(part, counted=state is not RunState.START),
        )

    def _inputs(self, part: _Part, *, counted: bool) -> list[InputDataset]:
        statistics = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
        topic = self._datasets.topic(part.reads)
        read: dict[str, InputDatasetFacet] = {}
        if counted:
            read["inputStatistics"] = statistics(rowCount=_count(self._received, [(part.pipeline, part.stage)]))
        tables = (InputDataset(**self._datasets.table(row)) for row in part.reads_rows)
        return [InputDataset(**topic, inputFacets=read), *tables]

    def _outputs(self, part: _Part, *, counted: bool) -> list[OutputDataset]:
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
        topics = [
            OutputDataset(
                **self._datasets.topic(topic),
                outputFacets={"outputStatistics": statistics(rowCount=count())} if counted else {},
            )
            for topic, count in part.topics.items()
        ]
        return [*topics, *(OutputDataset(**self._datasets.table(row)) for row in part.writes_rows)]


class _Datasets:
    """Topics and tables as OpenLineage names them, with their fields."""

    def __init__(self, settings: Settings, pipelines: Iterable[Pipeline]) -> None:
        self._kafka = _address(settings.kafka_url.split(",")[0], "kafka", _KAFKA_PORT)
        scheme = urlsplit(settings.clickhouse_url).scheme
        self._clickhouse = _address(settings.clickhouse_url, "clickhouse", _CLICKHOUSE_PORTS[scheme])
        self._database = settings.clickhouse_database
        self._records: dict[str, type[BaseModel]] = {settings.reviews_topic: Review}
        for pipeline in pipelines:
            for stage in pipeline.stages:
                self._records[stage.writes] = TextMessage if stage.judge is None else Verdict
                if stage.escalate is not None:
                    self._records[stage.escalate.writes] = Escalation

    def topic(self, name: str) -> dict[str, Any]:
        """Arguments of a data set."""
        schema = self._records.get(name, TextMessage).model_json_schema(mode="serialization")
        fields = [_field(name, _type(kind), kind.get("description")) for name, kind in schema["properties"].items()]
        return {"namespace": self._kafka, "name": name, "facets": _schema(fields)}

    def table(self, row: type[AnyRow]) -> dict[str, Any]:
        """Arguments of a data set."""
        columns = row.__annotations__.items()
        fields = [_field(name, kind.__name__ if isinstance(kind, type) else str(kind)) for name, kind in columns]
        return {"namespace": self._clickhouse, "name": f"{self._database}.{TABLES[row]}", "facets": _schema(fields)}


class _Sender:
    """Sends events one after the other in a thread that ends with the process."""

    def __init__(self, transport: Transport, close_seconds: float) -> None:
        self._transport = transport
        self._close_seconds = close_seconds
        self._waiting: queue.SimpleQueue[RunEvent | None] = queue.SimpleQueue()
        self._told = False
        self._thread = threading.Thread(target=self._run, name="openlineage", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def send(self, event: RunEvent) -> None:
        """Send this event after those before; returns at once."""
        self._waiting.put(event)

    async def close(self) -> None:
        """Return when all events are sent, or after some seconds."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join, self._close_seconds)
        if self._thread.is_alive():
            log.warning("OpenLineage events were not sent in time")

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._transport.emit(event)
            except Exception as error:  # noqa: BLE001  no catalogue may stop a worker
                if not self._told:
                    log.warning("OpenLineage events are lost: %s", error)
                self._told = True


def _documents(pipelines: Sequence[Pipeline]) -> Iterable[_Part]:
    """One for each topic of documents, however many pipelines read it."""
    about = "Stores each version of the documents that claims are checked against."
    topics = {one.documents.topic: one.name for one in reversed(pipelines) if one.documents is not None}
    return (_Part(name, DOCUMENTS, about, topic, {}, [], [DocumentRow]) for topic, name in topics.items())


def _stages(pipeline: Pipeline, metrics: Metrics) -> Iterable[_Part]:
    for stage in pipeline.stages:
        about = " ".join(filter(None, (pipeline.description, f"{stage.task}: {stage.about()}")))
        topics, rows = _written(stage, metrics)
        counts = {topic: partial(_count, each, [(pipeline.name, stage.name)]) for topic, each in topics.items()}
        documents = [DocumentRow] if stage.judge is not None and pipeline.documents is not None else []
        fits = [CascadeFitRow] if stage.cascade is not None else []
        yield _Part(
            pipeline.name, stage.name, about, pipeline.reads(stage), counts, [*documents, *fits], [*rows, *fits]
        )


def _written(stage: Stage, metrics: Metrics) -> tuple[Mapping[str, Counter], Sequence[type[AnyRow]]]:
    """The topics that a stage writes, each with what counts its messages, and the tables."""
    if stage.judge is not None:
        escalations = {stage.escalate.writes: metrics.escalated} if stage.escalate is not None else {}
        return {stage.writes: metrics.verdicts} | escalations, _JUDGE_ROWS
    if stage.cut is not None:
        return {stage.writes: metrics.pieces}, _CUT_ROWS
    return {stage.writes: metrics.calls_closed}, _ASSEMBLE_ROWS


def _reviews(topic: str, pipelines: Sequence[Pipeline], metrics: Metrics) -> Iterable[_Part]:
    """One, if people's reviews are read. Each topic of verdicts has the corrections of its stages."""
    if topic not in {each.name for each in topics_of(pipelines, topic)}:
        return
    stages: dict[str, list[tuple[str, str]]] = {}
    for pipeline in pipelines:
        for stage in pipeline.stages:
            if stage.judge is not None:
                stages.setdefault(stage.writes, []).append((pipeline.name, stage.name))
    counts = {writes: partial(_count, metrics.reviews, places) for writes, places in stages.items()}
    about = "Stores what people say of verdicts, and publishes it as corrections."
    yield _Part(PIPELINE, STAGE, about, topic, counts, [VerdictRow, SourceRow], [ReviewRow])


def _job_name(part: _Part) -> str:
    return f"{part.pipeline}.{part.stage}"


def _count(counter: Counter, stages: Sequence[tuple[str, str]]) -> int:
    """What a counter has of these stages: names of pipeline and stage."""
    samples = (sample for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total"))
    return int(sum(sample.value for sample in samples if (sample.labels["pipeline"], sample.labels["stage"]) in stages))


def _field(name: str, kind: str | None, description: str | None = None) -> schema_dataset.SchemaDatasetFacetFields:
    return schema_dataset.SchemaDatasetFacetFields(name, kind, description)


def _type(schema: Mapping[str, Any]) -> str:
    """The JSON type of a field, whether it may be null or not."""
    options = [option.get("type", "object") for option in schema.get("anyOf", [schema])]
    return str(next(kind for kind in options if kind != "null"))


def _schema(fields: list[schema_dataset.SchemaDatasetFacetFields]) -> dict[str, Any]:
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}


def _address(url: str, scheme: str, port: int) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{scheme}://{host}:{parts.port or port}"


def _transport(settings: Settings) -> Transport:
    url = settings.openlineage_url
    if url.startswith("file:"):
        return FileTransport(FileConfig(url, append=True))
    config: dict[str, Any] = {"url": url.rstrip("/") + "/", "timeout": _TIMEOUT_SECONDS, "retry": _RETRIES}
    if key := settings.openlineage_api_key.get_secret_value():
        config["auth"] = {"type": "api_key", "api_key": key}
    return HttpTransport(HttpConfig.from_dict(config))
