"""The rows of each table. A field is a column; `sinks/migrations` has their types and codecs."""

from datetime import datetime
from typing import NamedTuple


class SourceRow(NamedTuple):
    """One event as it arrived: the words that a verdict rests on.

    attributes: JSON; what else the message said that its verdict may rest on. Empty for nothing.
    """

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
    attributes: str = ""


class VerdictRow(NamedTuple):
    """One judgement. scores: in the order of the prompt's labels (table `prompts_raw`).

    reused_from: row id of the verdict whose judgement this one repeats; 0 if the model was asked. output: JSON; empty
    for none. engine_seconds: the share of the engine's time that the judgement took. prompt_version: the name that the
    pipeline file gives to the prompt. tier: who gave the judgement, `model` or `screen`. screen: name and version of
    the screen before the model, empty for none. risk: what that said. audited: the model was to judge it in any case.
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
    prompt_version: str = ""
    tier: str = "model"
    screen: str = ""
    risk: float = 0.0
    audited: bool = False


class CascadeFitRow(NamedTuple):
    """Thresholds of a screen and what is promised for them.

    goal: what was to be promised, in words. open: nothing is promised, and the model judges every row. rows, flagged:
    the sample. claims: JSON. reason: why it is open, or why a threshold is missing.
    """

    pipeline: str
    stage: str
    screen: str
    prompt_hash: str
    model: str
    goal: str
    fitted_at: datetime
    open: bool
    pass_below: float | None
    flag_from: float | None
    rows: int
    flagged: int
    claims: str
    reason: str


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

    kind: `input` for what was judged, cut or put together, `document` for what it was checked against, `reused` for
    the verdict whose judgement was taken over, `context` for what was only read with it.
    """

    child: int
    parent: int
    kind: str
    written_at: datetime


class PromptRow(NamedTuple):
    """A prompt as a worker used it, so that a hash leads back to the words.

    prompt_version: the name that the pipeline file gives to it.
    """

    prompt_hash: str
    model: str
    pipeline: str
    pipeline_version: str
    stage: str
    operator: str
    labels: list[str]
    text: str
    used_at: datetime
    prompt_version: str = ""


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


class DocumentRow(NamedTuple):
    """A version of a document. event_time: from when on it holds. withdrawn: from then on there is none.

    author: who wrote it; empty if the message did not say.
    """

    tenant: str
    document: str
    event_time: datetime
    row_id: int
    withdrawn: bool
    lang: str
    topic: str
    partition: int
    offset: int
    text: str
    written_at: datetime
    author: str = ""


class TurnRow(NamedTuple):
    """A turn of a call, so that whoever has its partition next can put the call together; its words are a `SourceRow`.

    number: of the turn. final: whether the call ends with it.
    """

    topic: str
    partition: int
    tenant: str
    call: str
    number: int
    row_id: int
    offset: int
    final: bool
    documents: list[str]
    event_time: datetime
    written_at: datetime


class CallRow(NamedTuple):
    """A call as it was put together. One that was corrected has a row for each time.

    row_id: of the transcript. messages: how many messages it was made of; more in each correction. turns: how many
    turns it has. missing: turns that never came. closed_by: `final` or `silence`. started, ended: times of its first
    and last turn.
    """

    topic: str
    partition: int
    tenant: str
    call: str
    messages: int
    row_id: int
    turns: int
    missing: int
    closed_by: str
    started: datetime
    ended: datetime
    closed_at: datetime


class ReviewRow(NamedTuple):
    """What a person said of a verdict.

    row_id: of the verdict. review_id: of the review. event_time: of the event that was judged; judged_at: of the
    verdict that was reviewed. decision, label: as the person has them. model_decision, model_label: as the model had
    them. was_decision, was_label, was_by: what held when the review came, and by whom, `model` or `person`. source,
    event_id: the tool's name for the review; empty for none. topic, partition, offset: where the review stood first.
    """

    row_id: int
    review_id: int
    source_row_id: int
    pipeline: str
    stage: str
    operator: str
    tenant: str
    lang: str
    event_time: datetime
    judged_at: datetime
    reviewed_at: datetime
    reviewer: str
    decision: str
    label: str
    model_decision: str
    model_label: str
    was_decision: str
    was_label: str
    was_by: str
    comment: str
    source: str
    event_id: str
    topic: str
    partition: int
    offset: int
    written_at: datetime


class EvaluationRow(NamedTuple):
    """One subject, an engine with a prompt, measured on labelled rows; everything that it takes to do it again.

    run: 32 hexadecimal digits. name: of the subject. dataset_hash: SHA-256 of the file. rows_hash: SHA-256 of the rows
    that were judged, with their labels; the same for all runs that can be compared. labels: of the stage, in the order
    of scores. fine: the one of text with which nothing is wrong; empty for none. coarse: labels of the data that say
    only that something is wrong. settings: JSON of the stage's operator. options: JSON of the command's. metrics: JSON
    of the figures.
    """

    run: str
    name: str
    evaluated_at: datetime
    dataset: str
    dataset_hash: str
    rows_hash: str
    rows: int
    left_out: int
    given_up: int
    seed: int
    pipeline: str
    pipeline_version: str
    stage: str
    operator: str
    prompt_version: str
    prompt_hash: str
    prompt_text: str
    settings_hash: str
    settings: str
    model: str
    engine: str
    engine_url: str
    engine_version: str
    weir_version: str
    labels: list[str]
    fine: str
    coarse: list[str]
    options: str
    metrics: str


class EvaluatedRow(NamedTuple):
    """One row as a run judged it; no words of it are kept.

    row_key: the same in all runs. truth: label of people. predicted: the label that the decision stands for. seconds:
    of the slowest prompt.
    """

    run: str
    row_key: str
    row_id: str
    truth: str
    lang: str
    decision: str
    predicted: str
    flagged: bool
    scores: list[float]
    confidence: float
    seconds: float
    engine_seconds: float
    cost_usd: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    judged_at: datetime


class ErasureRow(NamedTuple):
    """An author whose messages up to a time are erased. digest: stands for the author; see `sinks.erasures`."""

    digest: str
    erased_at: datetime
    written_at: datetime


class ErasedRow(NamedTuple):
    """A row that went with an erasure. kind: `own`, `made` for one that quoted an own one, or `verdict`."""

    digest: str
    row_id: int
    kind: str
    written_at: datetime


AnyRow = (
    SourceRow
    | VerdictRow
    | InferenceCallRow
    | LineageEdgeRow
    | PromptRow
    | EngineUsageRow
    | DocumentRow
    | TurnRow
    | CallRow
    | CascadeFitRow
    | ReviewRow
    | EvaluationRow
    | EvaluatedRow
    | ErasureRow
    | ErasedRow
)

# In the order in which they are written: a verdict that can be read can also be traced.
TABLES: dict[type[AnyRow], str] = {
    PromptRow: "prompts_raw",
    ErasureRow: "erasures_raw",
    ErasedRow: "erased_rows_raw",
    CascadeFitRow: "cascade_fits_raw",
    EngineUsageRow: "engine_usage_raw",
    DocumentRow: "documents_raw",
    SourceRow: "source_rows_raw",
    TurnRow: "turns_raw",
    InferenceCallRow: "inference_calls_raw",
    LineageEdgeRow: "lineage_edges_raw",
    CallRow: "calls_raw",
    ReviewRow: "reviews_raw",
    EvaluatedRow: "evaluation_rows_raw",
    EvaluationRow: "evaluations_raw",
    VerdictRow: "verdicts_raw",
}
