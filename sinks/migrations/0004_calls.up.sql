-- blocking: no
-- Calls that are put together from turns, the documents that claims are checked against, and names for prompts.

ALTER TABLE source_rows_raw ADD COLUMN IF NOT EXISTS attributes String CODEC(ZSTD(1));
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS prompt_version LowCardinality(String);
ALTER TABLE prompts_raw ADD COLUMN IF NOT EXISTS prompt_version LowCardinality(String);

CREATE TABLE IF NOT EXISTS documents_raw
(
    tenant LowCardinality(String),
    document String CODEC(ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    row_id UInt128 CODEC(ZSTD(1)),
    withdrawn Bool,
    lang LowCardinality(String),
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    `offset` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    text String CODEC(ZSTD(3)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX row_id_filter row_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (document, tenant, event_time, row_id);

CREATE TABLE IF NOT EXISTS turns_raw
(
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    tenant LowCardinality(String),
    call String CODEC(ZSTD(1)),
    number UInt32 CODEC(T64, ZSTD(1)),
    row_id UInt128 CODEC(ZSTD(1)),
    `offset` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    final Bool,
    documents Array(String) CODEC(ZSTD(1)),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX written_range written_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (topic, `partition`, call, tenant, number, row_id);

CREATE TABLE IF NOT EXISTS calls_raw
(
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    tenant LowCardinality(String),
    call String CODEC(ZSTD(1)),
    messages UInt32 CODEC(T64, ZSTD(1)),
    row_id UInt128 CODEC(ZSTD(1)),
    turns UInt32 CODEC(T64, ZSTD(1)),
    missing UInt32 CODEC(T64, ZSTD(1)),
    closed_by LowCardinality(String),
    started DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    ended DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    closed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX row_id_filter row_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree(closed_at)
ORDER BY (topic, `partition`, call, tenant, messages, row_id);

CREATE VIEW IF NOT EXISTS documents AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM documents_raw FINAL;

-- The last version of each call.
CREATE VIEW IF NOT EXISTS calls AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM calls_raw FINAL
ORDER BY messages DESC, closed_at DESC
LIMIT 1 BY topic, tenant, call;

-- A view has the columns that its tables had when it was made.
CREATE OR REPLACE VIEW source_rows AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM source_rows_raw FINAL;

CREATE OR REPLACE VIEW verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    if(reused_from = 0, NULL, toUUID(leftPad(hex(reused_from), 32, '0'))) AS reused_from_uuid,
    v.* EXCEPT (scores),
    v.scores AS score_values,
    mapFromArrays(arraySlice(p.labels, 1, length(v.scores)), arraySlice(v.scores, 1, length(p.labels))) AS scores
FROM (SELECT * FROM verdicts_raw FINAL) AS v
LEFT ANY JOIN (SELECT prompt_hash, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash) AS p USING (prompt_hash);

CREATE OR REPLACE VIEW prompts AS
SELECT * FROM prompts_raw FINAL;

-- To find what a prompt or a model judged.
ALTER TABLE verdicts_raw ADD INDEX IF NOT EXISTS prompt_set prompt_hash TYPE set(16) GRANULARITY 4;
ALTER TABLE verdicts_raw ADD INDEX IF NOT EXISTS model_set model TYPE set(16) GRANULARITY 4;

-- Verdicts that gave way to those of another prompt, as `weir rerun` keeps them.
CREATE TABLE IF NOT EXISTS verdict_versions_raw AS verdicts_raw
ENGINE = ReplacingMergeTree(judged_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY (pipeline, stage, row_id, prompt_hash, model, pipeline_version);

-- All versions of a verdict. One that was kept and is not replaced yet is the current one, and stands once.
CREATE VIEW IF NOT EXISTS verdict_versions AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, true AS current, *
FROM verdicts_raw FINAL
UNION ALL
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, false AS current, *
FROM verdict_versions_raw FINAL
WHERE (pipeline, stage, row_id, prompt_hash, model, pipeline_version) NOT IN
(
    SELECT pipeline, stage, row_id, prompt_hash, model, pipeline_version
    FROM verdicts_raw FINAL
    WHERE row_id IN (SELECT row_id FROM verdict_versions_raw)
);
