-- blocking: no
-- loses: every event, verdict, call of the engine, edge of lineage and prompt

DROP VIEW IF EXISTS lineage_edges;
DROP VIEW IF EXISTS inference_calls;
DROP VIEW IF EXISTS verdicts;
DROP VIEW IF EXISTS prompts;
DROP VIEW IF EXISTS source_rows;
DROP TABLE IF EXISTS prompts_raw;
DROP TABLE IF EXISTS lineage_edges_raw;
DROP TABLE IF EXISTS inference_calls_raw;
DROP TABLE IF EXISTS verdicts_raw;
DROP TABLE IF EXISTS source_rows_raw;
