-- blocking: no
-- rewrites: verdicts_raw
-- loses: which verdicts were reused, and from which

DROP VIEW IF EXISTS verdict_rollups;
ALTER TABLE verdicts_raw DROP INDEX IF EXISTS event_time_range;
ALTER TABLE verdicts_raw DROP COLUMN IF EXISTS reused_from;
CREATE OR REPLACE VIEW verdicts AS
SELECT
    toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid,
    v.* EXCEPT (scores),
    v.scores AS score_values,
    mapFromArrays(arraySlice(p.labels, 1, length(v.scores)), arraySlice(v.scores, 1, length(p.labels))) AS scores
FROM (SELECT * FROM verdicts_raw FINAL) AS v
LEFT ANY JOIN (SELECT prompt_hash, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash) AS p USING (prompt_hash);
