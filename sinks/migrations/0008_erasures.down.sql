-- blocking: no
-- rewrites: source_rows_raw, documents_raw
-- loses: what was erased when, so that older messages of erased authors are taken again where they are read again

DROP VIEW IF EXISTS erasures;
DROP TABLE IF EXISTS erased_rows_raw;
DROP TABLE IF EXISTS erasures_raw;
ALTER TABLE source_rows_raw DROP INDEX IF EXISTS author_filter;
ALTER TABLE documents_raw DROP COLUMN IF EXISTS erased_at;
ALTER TABLE documents_raw DROP COLUMN IF EXISTS author;
ALTER TABLE source_rows_raw DROP COLUMN IF EXISTS erased_at;

CREATE OR REPLACE VIEW source_rows AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM source_rows_raw FINAL;

CREATE OR REPLACE VIEW documents AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM documents_raw FINAL;
