-- blocking: no
-- Rows are written to *_raw tables and may stand there more than once after a redelivery. Readers use the views of the
-- same name without _raw, which show each row once.

CREATE TABLE IF NOT EXISTS source_rows_raw
(
    row_id UInt128 CODEC(ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    broker_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    source LowCardinality(String),
    event_id String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    `offset` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    thread String CODEC(ZSTD(1)),
    author String CODEC(ZSTD(1)),
    lang LowCardinality(String),
    text String CODEC(ZSTD(3)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY row_id
SETTINGS index_granularity = 1024;

CREATE TABLE IF NOT EXISTS verdicts_raw
(
    row_id UInt128 CODEC(ZSTD(1)),
    source_row_id UInt128 CODEC(ZSTD(1)),
    pipeline LowCardinality(String),
    pipeline_version LowCardinality(String),
    stage LowCardinality(String),
    operator LowCardinality(String),
    tenant LowCardinality(String),
    lang LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    broker_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    judged_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    `offset` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    decision LowCardinality(String),
    label LowCardinality(String),
    scores Array(Float32) CODEC(ZSTD(1)),
    confidence Float32 CODEC(ZSTD(1)),
    model LowCardinality(String),
    prompt_hash LowCardinality(String),
    parts UInt32 CODEC(T64, ZSTD(1)),
    input_tokens UInt32 CODEC(T64, ZSTD(1)),
    cached_tokens UInt32 CODEC(T64, ZSTD(1)),
    output_tokens UInt32 CODEC(T64, ZSTD(1)),
    cost_usd Float64 CODEC(ZSTD(1)),
    latency_ms UInt64 CODEC(T64, ZSTD(1)),
    INDEX row_id_range row_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(judged_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY (pipeline, stage, row_id)
SETTINGS index_granularity = 1024;

CREATE TABLE IF NOT EXISTS inference_calls_raw
(
    row_id UInt128 CODEC(ZSTD(1)),
    call UInt32 CODEC(T64, ZSTD(1)),
    called_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    model LowCardinality(String),
    prompt_hash LowCardinality(String),
    input_tokens UInt32 CODEC(T64, ZSTD(1)),
    cached_tokens UInt32 CODEC(T64, ZSTD(1)),
    output_tokens UInt32 CODEC(T64, ZSTD(1)),
    seconds Float32 CODEC(ZSTD(1)),
    cost_usd Float64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(called_at)
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(toInt64(bitShiftRight(row_id, 80)), 'UTC'))
ORDER BY (row_id, call);

CREATE TABLE IF NOT EXISTS lineage_edges_raw
(
    child UInt128 CODEC(ZSTD(1)),
    parent UInt128 CODEC(ZSTD(1)),
    kind LowCardinality(String),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    PROJECTION downward (SELECT parent, child, kind, written_at ORDER BY parent, child)
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(fromUnixTimestamp64Milli(toInt64(bitShiftRight(child, 80)), 'UTC'))
ORDER BY (child, kind, parent)
SETTINGS index_granularity = 512, deduplicate_merge_projection_mode = 'rebuild';

CREATE TABLE IF NOT EXISTS prompts_raw
(
    prompt_hash String,
    model LowCardinality(String),
    pipeline LowCardinality(String),
    pipeline_version LowCardinality(String),
    stage LowCardinality(String),
    operator LowCardinality(String),
    labels Array(String),
    text String CODEC(ZSTD(3)),
    used_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(used_at)
ORDER BY (prompt_hash, model, pipeline, pipeline_version, stage);

CREATE VIEW IF NOT EXISTS source_rows AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM source_rows_raw FINAL;

CREATE VIEW IF NOT EXISTS prompts AS
SELECT * FROM prompts_raw FINAL;

-- A verdict whose prompt is not here has no names for its scores; the slices keep it from failing the whole query.
CREATE VIEW IF NOT EXISTS verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    v.* EXCEPT (scores),
    v.scores AS score_values,
    mapFromArrays(arraySlice(p.labels, 1, length(v.scores)), arraySlice(v.scores, 1, length(p.labels))) AS scores
FROM (SELECT * FROM verdicts_raw FINAL) AS v
LEFT ANY JOIN (SELECT prompt_hash, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash) AS p USING (prompt_hash);

CREATE VIEW IF NOT EXISTS inference_calls AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM inference_calls_raw FINAL;

CREATE VIEW IF NOT EXISTS lineage_edges AS
SELECT
    toUUID(leftPad(hex(child), 32, '0')) AS child_uuid,
    toUUID(leftPad(hex(parent), 32, '0')) AS parent_uuid,
    *
FROM lineage_edges_raw FINAL;
