-- blocking: no
-- A judgement may be reused for the same words; 0 in reused_from says that the model was asked.

ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS reused_from UInt128 DEFAULT 0 CODEC(ZSTD(1));

-- Parts that are there already get the index when they are merged.
ALTER TABLE verdicts_raw ADD INDEX IF NOT EXISTS event_time_range event_time TYPE minmax GRANULARITY 1;

CREATE OR REPLACE VIEW verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    if(reused_from = 0, NULL, toUUID(leftPad(hex(reused_from), 32, '0'))) AS reused_from_uuid,
    v.* EXCEPT (scores),
    v.scores AS score_values,
    mapFromArrays(arraySlice(p.labels, 1, length(v.scores)), arraySlice(v.scores, 1, length(p.labels))) AS scores
FROM (SELECT * FROM verdicts_raw FINAL) AS v
LEFT ANY JOIN (SELECT prompt_hash, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash) AS p USING (prompt_hash);

-- Sums over rows that stand once: neither a redelivery nor the way that batches were cut can change them. All versions
-- of a row have its event time and so its partition; the setting says so, and lets a filter on minute skip the others.
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
