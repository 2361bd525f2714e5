-- blocking: no
-- What people say of verdicts.

CREATE TABLE IF NOT EXISTS reviews_raw
(
    row_id UInt128 CODEC(ZSTD(1)),
    review_id UInt128 CODEC(ZSTD(1)),
    source_row_id UInt128 CODEC(ZSTD(1)),
    pipeline LowCardinality(String),
    stage LowCardinality(String),
    operator LowCardinality(String),
    tenant LowCardinality(String),
    lang LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    judged_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    reviewed_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    reviewer String CODEC(ZSTD(1)),
    decision LowCardinality(String),
    label LowCardinality(String),
    model_decision LowCardinality(String),
    model_label LowCardinality(String),
    was_decision LowCardinality(String),
    was_label LowCardinality(String),
    was_by LowCardinality(String),
    comment String CODEC(ZSTD(3)),
    source LowCardinality(String),
    event_id String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    `partition` UInt32 CODEC(T64, ZSTD(1)),
    `offset` UInt64 CODEC(DoubleDelta, ZSTD(1)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(event_time)
ORDER BY (row_id, review_id)
SETTINGS index_granularity = 1024;

-- `stands` is the one whose word holds: the last one by the reviewer's time.
CREATE VIEW IF NOT EXISTS reviews AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    toUUID(leftPad(hex(review_id), 32, '0')) AS review_uuid,
    *,
    row_number() OVER (PARTITION BY row_id ORDER BY reviewed_at DESC, review_id DESC) = 1 AS stands
FROM reviews_raw FINAL;

-- Verdicts that people looked at: what the model said, and what holds.
CREATE VIEW IF NOT EXISTS reviewed_verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    row_id, source_row_id, pipeline, pipeline_version, stage, operator, tenant, lang, event_time, judged_at,
    v.decision AS model_decision, v.label AS model_label, confidence, model, prompt_hash, prompt_version,
    r.decision AS decision, r.label AS label, reviewer, reviewed_at, comment, reviews
FROM (SELECT * FROM verdicts_raw FINAL WHERE row_id IN (SELECT row_id FROM reviews_raw)) AS v
INNER JOIN
(
    SELECT
        row_id,
        argMax(r.decision, (r.reviewed_at, r.review_id)) AS decision,
        argMax(r.label, (r.reviewed_at, r.review_id)) AS label,
        argMax(r.reviewer, (r.reviewed_at, r.review_id)) AS reviewer,
        argMax(r.comment, (r.reviewed_at, r.review_id)) AS comment,
        max(r.reviewed_at) AS reviewed_at,
        count() AS reviews
    FROM reviews_raw AS r FINAL
    GROUP BY row_id
) AS r USING (row_id);
