"""From a judgement to what leaves the worker: the verdict for Kafka and the rows for ClickHouse."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

import orjson

from inference.judgement import Judgement
from inference.judgement import Screening as JudgementScreening
from sinks.documents import Document
from sinks.judged import StoredVerdict
from sinks.rows import AnyRow, InferenceCallRow, LineageEdgeRow, SourceRow, VerdictRow
from streams import attributes
from streams.decode import Event
from streams.history import Earlier
from streams.identity import row_of, stage_row_id, uuid_text
from streams.pipeline import Pipeline, Stage
from streams.records import Screening, Source, TokenUsage, Verdict

_READ = ("document", "context")  # kinds of parents that were read beside what was judged


def verdict_row_id(pipeline: Pipeline, stage: Stage, event: Event) -> int:
    """The row id of the verdict that this stage gives of an event, whatever it will be."""
    return stage_row_id(event.row_id >> 80, pipeline.name, stage.name, 0, [event.row_id])


def verdict_of(
    pipeline: Pipeline,
    stage: Stage,
    event: Event,
    row_id: int,
    context: Sequence[Earlier],
    documents: Sequence[Document],
    judgement: Judgement,
    judged_at: datetime,
    reused_from: int | None = None,
    began: datetime | None = None,
) -> Verdict:
    """The verdict about an event.

    row_id: of the verdict, as `verdict_row_id` gives it. context: the messages that the model read with it. documents:
    what it was checked against.
    reused_from: row id of the verdict that the judgement was made for, if it was not made for this one.
    began: from when on its latency counts; None for the time of the event.
    """
    usage = judgement.usage
    # unchecked: the values are ours, and checking them again would cost more than all the rest.
    return Verdict.unchecked(
        row_id=uuid_text(row_id),
        parents=[uuid_text(row) for row in _rows_read(event, documents, context)],
        source=_source(event),
        pipeline=pipeline.name,
        pipeline_version=pipeline.version,
        stage=stage.name,
        operator=cast("Any", stage.task),
        decision=judgement.decision,
        label=judgement.label,
        scores=dict(judgement.scores),
        confidence=judgement.confidence,
        confidence_source=judgement.confidence_source,
        output=dict(judgement.output),
        model=judgement.model,
        prompt_hash=judgement.prompt_hash,
        prompt_version=stage.prompt,
        parts=judgement.parts,
        screening=_screening(judgement.screening),
        reused_from=None if reused_from is None else uuid_text(reused_from),
        usage=TokenUsage.unchecked(
            input_tokens=usage.input_tokens, cached_tokens=usage.cached_tokens, output_tokens=usage.output_tokens
        ),
        cost_usd=judgement.cost_usd,
        engine_seconds=judgement.engine_seconds,
        latency_ms=max(0, round((judged_at - (began or event.event_time)).total_seconds() * 1000)),
        event_time=event.event_time,
        judged_at=judged_at,
        thread=event.thread,
        author=event.author,
        lang=event.lang,
        tenant=event.tenant,
    )


def _rows_read(event: Event, documents: Sequence[Document], context: Sequence[Earlier]) -> list[int]:
    return [event.row_id, *(document.row_id for document in documents), *(message.row_id for message in context)]


def verdict_from_store(stored: StoredVerdict, event: Event) -> Verdict:
    """The verdict about an event as it was stored before."""
    row = stored.row
    return Verdict.unchecked(
        row_id=uuid_text(row.row_id),
        parents=[uuid_text(row) for row in (event.row_id, *(p for p, kind in stored.parents if kind in _READ))],
        source=_source(event),
        pipeline=row.pipeline,
        pipeline_version=row.pipeline_version,
        stage=row.stage,
        operator=cast("Any", row.operator),
        decision=row.decision,
        label=row.label,
        scores=dict(zip(stored.labels, row.scores, strict=False)),
        confidence=row.confidence,
        confidence_source=cast("Any", row.confidence_source),
        output=orjson.loads(row.output) if row.output else {},
        model=row.model,
        prompt_hash=row.prompt_hash,
        prompt_version=row.prompt_version,
        parts=row.parts,
        screening=_screening(
            JudgementScreening(row.screen, row.risk, cast("Any", row.tier), row.audited) if row.screen else None
        ),
        reused_from=uuid_text(row.reused_from) if row.reused_from else None,
        usage=TokenUsage.unchecked(
            input_tokens=row.input_tokens, cached_tokens=row.cached_tokens, output_tokens=row.output_tokens
        ),
        cost_usd=row.cost_usd,
        engine_seconds=row.engine_seconds,
        latency_ms=row.latency_ms,
        event_time=row.event_time,
        judged_at=row.judged_at,
        thread=event.thread,
        author=event.author,
        lang=event.lang,
        tenant=event.tenant,
    )


def _screening(said: JudgementScreening | None) -> Screening | None:
    if said is None:
        return None
    return Screening.unchecked(screen=said.screen, risk=said.risk, tier=said.tier, audited=said.audited)


def _source(event: Event) -> Source:
    return Source.unchecked(
        row_id=uuid_text(event.row_id),
        source=event.source,
        id=event.event_id,
        topic=event.topic,
        partition=event.partition,
        offset=event.offset,
    )


def rows_of(
    event: Event,
    context: Sequence[Earlier],
    documents: Sequence[Document],
    judgement: Judgement,
    verdict: Verdict,
    row_id: int,
) -> list[AnyRow]:
    """Everything that ClickHouse keeps of one judgement: the words, the verdict, the calls, the edges.

    row_id: of the verdict.
    """
    at = verdict.judged_at
    return [
        source_row(event, at),
        LineageEdgeRow(row_id, event.row_id, "input", at),
        *(LineageEdgeRow(row_id, document.row_id, "document", at) for document in documents),
        *(LineageEdgeRow(row_id, message.row_id, "context", at) for message in context),
        *([LineageEdgeRow(row_id, row_of(verdict.reused_from), "reused", at)] if verdict.reused_from else []),
        *_call_rows(row_id, judgement, at),
        _verdict_row(row_id, event, verdict),
    ]


def source_row(event: Event, at: datetime) -> SourceRow:
    """The row of what was read. at: now."""
    return SourceRow(
        row_id=event.row_id,
        event_time=event.event_time,
        broker_time=event.broker_time,
        source=event.source,
        event_id=event.event_id,
        topic=event.topic,
        partition=event.partition,
        offset=event.offset,
        tenant=event.tenant,
        thread=event.thread,
        author=event.author,
        lang=event.lang,
        text=event.text,
        written_at=at,
        attributes=attributes.write(event),
    )


def _call_rows(row_id: int, judgement: Judgement, at: datetime) -> list[InferenceCallRow]:
    return [
        InferenceCallRow(
            row_id=row_id,
            call=number,
            called_at=at,
            model=judgement.model,
            prompt_hash=judgement.prompt_hash,
            input_tokens=call.usage.input_tokens,
            cached_tokens=call.usage.cached_tokens,
            output_tokens=call.usage.output_tokens,
            seconds=call.seconds,
            cost_usd=call.cost_usd,
            engine_seconds=call.engine_seconds,
        )
        for number, call in enumerate(judgement.calls)
    ]


def _verdict_row(row_id: int, event: Event, verdict: Verdict) -> VerdictRow:
    return VerdictRow(
        row_id=row_id,
        source_row_id=event.row_id,
        pipeline=verdict.pipeline,
        pipeline_version=verdict.pipeline_version,
        stage=verdict.stage,
        operator=verdict.operator,
        tenant=event.tenant,
        lang=event.lang,
        event_time=event.event_time,
        broker_time=event.broker_time,
        judged_at=verdict.judged_at,
        topic=event.topic,
        partition=event.partition,
        offset=event.offset,
        decision=verdict.decision,
        label=verdict.label,
        scores=list(verdict.scores.values()),
        confidence=verdict.confidence,
        model=verdict.model,
        prompt_hash=verdict.prompt_hash,
        parts=verdict.parts,
        input_tokens=verdict.usage.input_tokens,
        cached_tokens=verdict.usage.cached_tokens,
        output_tokens=verdict.usage.output_tokens,
        cost_usd=verdict.cost_usd,
        latency_ms=verdict.latency_ms,
        reused_from=row_of(verdict.reused_from) if verdict.reused_from else 0,
        output=orjson.dumps(verdict.output).decode() if verdict.output else "",
        confidence_source=verdict.confidence_source,
        engine_seconds=verdict.engine_seconds,
        prompt_version=verdict.prompt_version,
        **_columns(verdict.screening),
    )


def _columns(said: Screening | None) -> dict[str, Any]:
    return {} if said is None else vars(said)
