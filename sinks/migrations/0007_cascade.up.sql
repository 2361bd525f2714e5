-- blocking: no
-- What a screen before the model said, and what was promised for it when.

ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS tier LowCardinality(String) DEFAULT 'model';
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS screen LowCardinality(String);
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS risk Float32 CODEC(ZSTD(1));
ALTER TABLE verdicts_raw ADD COLUMN IF NOT EXISTS audited Bool;
ALTER TABLE verdict_versions_raw ADD COLUMN IF NOT EXISTS tier LowCardinality(String) DEFAULT 'model';
ALTER TABLE verdict_versions_raw ADD COLUMN IF NOT EXISTS screen LowCardinality(String);
ALTER TABLE verdict_versions_raw ADD COLUMN IF NOT EXISTS risk Float32 CODEC(ZSTD(1));
ALTER TABLE verdict_versions_raw ADD COLUMN IF NOT EXISTS audited Bool;

CREATE TABLE IF NOT EXISTS cascade_fits_raw
(
    pipeline LowCardinality(String),
    stage LowCardinality(String),
    screen LowCardinality(String),
    prompt_hash LowCardinality(String),
    model LowCardinality(String),
    goal LowCardinality(String),
    fitted_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    open Bool,
    pass_below Nullable(Float64) CODEC(ZSTD(1)),
    flag_from Nullable(Float64) CODEC(ZSTD(1)),
    rows UInt64 CODEC(T64, ZSTD(1)),
    flagged UInt64 CODEC(T64, ZSTD(1)),
    claims String CODEC(ZSTD(1)),
    reason String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(fitted_at)
ORDER BY (pipeline, stage, screen, prompt_hash, model, goal, fitted_at);

CREATE VIEW IF NOT EXISTS cascade_fits AS
SELECT * FROM cascade_fits_raw FINAL;

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

CREATE OR REPLACE VIEW verdict_versions AS
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
