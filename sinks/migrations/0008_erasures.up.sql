-- blocking: no
-- What was erased at a person's request: words are gone, and a row says when.

ALTER TABLE source_rows_raw ADD COLUMN IF NOT EXISTS erased_at Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1));
ALTER TABLE documents_raw ADD COLUMN IF NOT EXISTS author String CODEC(ZSTD(1));
ALTER TABLE documents_raw ADD COLUMN IF NOT EXISTS erased_at Nullable(DateTime64(3, 'UTC')) CODEC(ZSTD(1));

-- Parts that are there already get the index when they are merged.
ALTER TABLE source_rows_raw ADD INDEX IF NOT EXISTS author_filter author TYPE bloom_filter GRANULARITY 4;

-- Whose older messages no worker takes any more; `digest` stands for the author.
CREATE TABLE IF NOT EXISTS erasures_raw
(
    digest String CODEC(ZSTD(1)),
    erased_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY digest;

-- The rows of an author (`own`), those that quote them (`made`), and the verdicts on both (`verdict`).
CREATE TABLE IF NOT EXISTS erased_rows_raw
(
    digest String CODEC(ZSTD(1)),
    row_id UInt128 CODEC(ZSTD(1)),
    kind LowCardinality(String),
    written_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    INDEX written_range written_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (digest, row_id);

CREATE VIEW IF NOT EXISTS erasures AS
SELECT * FROM erasures_raw FINAL;

-- A view has the columns that its tables had when it was made.
CREATE OR REPLACE VIEW source_rows AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM source_rows_raw FINAL;

CREATE OR REPLACE VIEW documents AS
SELECT toUUID(leftPad(hex(row_id), 32, '0')) AS row_uuid, *
FROM documents_raw FINAL;
