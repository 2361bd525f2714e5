-- blocking: no
-- What operators find or write, how sure they are of it by which measure, and the engine's time.

ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS output String CODEC(ZSTD(3));
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS confidence_source LowCardinality(String) DEFAULT 'logprobs';
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS engine_seconds Float64 CODEC(ZSTD(1));
ALTER TABLE inference_calls_raw ADD COLUMN IF NOT EXISTS engine_seconds Float64 CODEC(ZSTD(1));

CREATE TABLE IF NOT EXISTS engine_usage_raw
(
    period_start DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    worker String CODEC(ZSTD(1)),
    engine LowCardinality(String),
    pipeline LowCardinality(String),
    stage LowCardinality(String),
    tenant LowCardinality(String),
    use LowCardinality(String),
    seconds Float64 CODEC(ZSTD(1)),
    cost_usd Float64 CODEC(ZSTD(1)),
    calls UInt64 CODEC(T64, ZSTD(1)),
    input_tokens UInt64 CODEC(T64, ZSTD(1)),
    cached_tokens UInt64 CODEC(T64, ZSTD(1)),
    output_tokens UInt64 CODEC(T64, ZSTD(1)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(written_at)
PARTITION BY toYYYYMM(period_start)
ORDER BY (period_start, worker, pipeline, stage, tenant, use);

CREATE VIEW IF NOT EXISTS engine_usage AS
SELECT * FROM engine_usage_raw FINAL;

-- A view has the columns that its tables had when it was made.
CREATE OR REPLACE VIEW verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    if(reused_from = 0, NULL, toUUID(leftPad(hex(reused_from), 32, '0'))) AS reused_from_uuid,
    v.* EXCEPT (scores),
    v.scores AS score_values,
    mapFromArrays(arraySlice(p.labels, 1, length(v.scores)), arraySlice(v.scores, 1, length(p.labels))) AS scores
FROM (SELECT * FROM verdicts_raw FINAL) AS v
LEFT ANY JOIN (SELECT prompt_hash, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash) AS p USING (prompt_hash);

CREATE OR REPLACE VIEW inference_calls AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM inference_calls_raw FINAL;

CREATE OR REPLACE VIEW verdict_rollups AS
SELECT
    toStartOfMinute(event_time) AS minute,
    pipeline,
    stage,
    tenant,
    label,
    decision,
    count() AS verdicts,
    countIf(reused_from != 0) AS reused,
    sum(v.input_tokens) AS input_tokens,
    sum(v.cached_tokens) AS cached_tokens,
    sum(v.output_tokens) AS output_tokens,
    sum(v.cost_usd) AS cost_usd,
    sum(v.engine_seconds) AS engine_seconds,
    quantileExact(0.5)(latency_ms) AS latency_p50_ms,
    quantileExact(0.95)(latency_ms) AS latency_p95_ms,
    quantileExact(0.99)(latency_ms) AS latency_p99_ms
FROM verdicts_raw AS v FINAL
GROUP BY minute, pipeline, stage, tenant, label, decision
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- To find the last message of a partition that has a verdict.
ALTER TABLE verdicts_raw ADD INDEX IF NOT EXISTS offset_range `offset` TYPE minmax GRANULARITY 1;
