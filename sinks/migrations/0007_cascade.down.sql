-- blocking: no
-- rewrites: verdicts_raw, verdict_versions_raw
-- loses: what screens said of verdicts, and the fits of cascades

DROP VIEW IF EXISTS cascade_fits;
DROP TABLE IF EXISTS cascade_fits_raw;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS tier;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS screen;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS risk;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS audited;
ALTER TABLE verdict_versions_raw DROP COLUMN IF EXISTS tier;
ALTER TABLE verdict_versions_raw DROP COLUMN IF EXISTS screen;
ALTER TABLE verdict_versions_raw DROP COLUMN IF EXISTS risk;
ALTER TABLE verdict_versions_raw DROP COLUMN IF EXISTS audited;

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
