-- blocking: no
-- rewrites: verdicts_raw, inference_calls_raw
-- loses: what operators found or wrote, the source of confidences, the engine's time and its use

ALTER TABLE verdicts_raw DROP INDEX IF EXISTS offset_range;
DROP VIEW IF EXISTS engine_usage;
DROP TABLE IF EXISTS engine_usage_raw;
ALTER TABLE inference_calls_raw DROP COLUMN IF EXISTS engine_seconds;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS engine_seconds;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS confidence_source;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS output;
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
    quantileExact(0.5)(latency_ms) AS latency_p50_ms,
    quantileExact(0.95)(latency_ms) AS latency_p95_ms,
    quantileExact(0.99)(latency_ms) AS latency_p99_ms
FROM verdicts_raw AS v FINAL
GROUP BY minute, pipeline, stage, tenant, label, decision
SETTINGS do_not_merge_across_partitions_select_final = 1;
