"""The rows of each table. A field is a column; `sinks/migrations` has their types and codecs."""

from datetime import datetime
from typing import NamedTuple


class SourceRow(NamedTuple):
    """One event as it arrived: the words that a verdict rests on."""

    row_id: int
    event_time: datetime
    broker_time: datetime
    source: str
    event_id: str
    topic: str
    partition: int
    offset: int
    tenant: str
    thread: str
    author: str
    lang: str
    text: str
    written_at: datetime


class VerdictRow(NamedTuple):
    """One judgement. scores: in the order of the prompt's labels (table `prompts_raw`).

    reused_from: row id of the verdict whose judgement this one repeats; 0 if the model was asked. output: JSON; empty
    for none. engine_seconds: the share of the engine's time that the judgement took.
    """

    row_id: int
    source_row_id: int
    pipeline: str
    pipeline_version: str
    stage: str
    operator: str
    tenant: str
    lang: str
    event_time: datetime
    broker_time: datetime
    judged_at: datetime
    topic: str
    partition: int
    offset: int
    decision: str
    label: str
    scores: list[float]
    confidence: float
    model: str
    prompt_hash: str
    parts: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    latency_ms: int
    reused_from: int = 0
    output: str = ""
    confidence_source: str = "logprobs"
    engine_seconds: float = 0.0


class InferenceCallRow(NamedTuple):
    """One prompt sent to the engine for a row.

    call: its number within the row, from 0. seconds: from request to answer. engine_seconds: its share of the engine's
    time.
    """

    row_id: int
    call: int
    called_at: datetime
    model: str
    prompt_hash: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds: float
    cost_usd: float
    engine_seconds: float = 0.0


class LineageEdgeRow(NamedTuple):
    """`child` was made from `parent`.

    kind: `input` for what was judged, `reused` for the verdict whose judgement was taken over, `context` for what was
    only read with it.
    """

    child: int
    parent: int
    kind: str
    written_at: datetime


class PromptRow(NamedTuple):
    """A prompt as a worker used it, so that a hash leads back to the words."""

    prompt_hash: str
    model: str
    pipeline: str
    pipeline_version: str
    stage: str
    operator: str
    labels: list[str]
    text: str
    used_at: datetime


class EngineUsageRow(NamedTuple):
    """What a worker's engine did in a period.

    use: `judged` for work on rows, `overhead` for work that no row is charged with, `idle` for time without work.
    pipeline, stage and tenant are empty where the use has none. seconds: of the engine's time.
    """

    period_start: datetime
    worker: str
    engine: str
    pipeline: str
    stage: str
    tenant: str
    use: str
    seconds: float
    cost_usd: float
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    written_at: datetime


AnyRow = SourceRow | VerdictRow | InferenceCallRow | LineageEdgeRow | PromptRow | EngineUsageRow

# In the order in which they are written: a verdict that can be read can also be traced.
TABLES: dict[type[AnyRow], str] = {
    PromptRow: "prompts_raw",
    EngineUsageRow: "engine_usage_raw",
    SourceRow: "source_rows_raw",
    InferenceCallRow: "inference_calls_raw",
    LineageEdgeRow: "lineage_edges_raw",
    VerdictRow: "verdicts_raw",
}
