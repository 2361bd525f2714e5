-- blocking: no
-- rewrites: verdicts_raw, prompts_raw, source_rows_raw
-- loses: documents, turns, calls, replaced verdicts, the attributes of events and the names of prompts

ALTER TABLE verdicts_raw DROP INDEX IF EXISTS model_set;
ALTER TABLE verdicts_raw DROP INDEX IF EXISTS prompt_set;
DROP VIEW IF EXISTS verdict_versions;
DROP TABLE IF EXISTS verdict_versions_raw;
DROP VIEW IF EXISTS calls;
DROP VIEW IF EXISTS documents;
DROP TABLE IF EXISTS calls_raw;
DROP TABLE IF EXISTS turns_raw;
DROP TABLE IF EXISTS documents_raw;
ALTER TABLE prompts_raw DROP COLUMN IF EXISTS prompt_version;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS prompt_version;
ALTER TABLE source_rows_raw DROP COLUMN IF EXISTS attributes;

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
