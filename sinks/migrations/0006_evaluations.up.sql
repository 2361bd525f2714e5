-- blocking: no
-- Subjects measured on labelled rows, and how each row was judged, so that runs can be compared row by row.

CREATE TABLE IF NOT EXISTS evaluations_raw
(
    run String CODEC(ZSTD(1)),
    name String CODEC(ZSTD(1)),
    evaluated_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    dataset String CODEC(ZSTD(1)),
    dataset_hash LowCardinality(String),
    rows_hash LowCardinality(String),
    rows UInt32 CODEC(T64, ZSTD(1)),
    left_out UInt32 CODEC(T64, ZSTD(1)),
    given_up UInt32 CODEC(T64, ZSTD(1)),
    seed Int64 CODEC(ZSTD(1)),
    pipeline LowCardinality(String),
    pipeline_version LowCardinality(String),
    stage LowCardinality(String),
    operator LowCardinality(String),
    prompt_version LowCardinality(String),
    prompt_hash LowCardinality(String),
    prompt_text String CODEC(ZSTD(3)),
    settings_hash LowCardinality(String),
    settings String CODEC(ZSTD(3)),
    model LowCardinality(String),
    engine LowCardinality(String),
    engine_url LowCardinality(String),
    engine_version LowCardinality(String),
    weir_version LowCardinality(String),
    labels Array(String) CODEC(ZSTD(1)),
    fine LowCardinality(String),
    coarse Array(String) CODEC(ZSTD(1)),
    options String CODEC(ZSTD(1)),
    metrics String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree(evaluated_at)
ORDER BY (rows_hash, run);

CREATE TABLE IF NOT EXISTS evaluation_rows_raw
(
    run String CODEC(ZSTD(1)),
    row_key String CODEC(ZSTD(1)),
    row_id String CODEC(ZSTD(1)),
    truth LowCardinality(String),
    lang LowCardinality(String),
    decision LowCardinality(String),
    predicted LowCardinality(String),
    flagged Bool,
    scores Array(Float64) CODEC(ZSTD(1)),
    confidence Float64 CODEC(ZSTD(1)),
    seconds Float64 CODEC(ZSTD(1)),
    engine_seconds Float64 CODEC(ZSTD(1)),
    cost_usd Float64 CODEC(ZSTD(1)),
    input_tokens UInt32 CODEC(T64, ZSTD(1)),
    cached_tokens UInt32 CODEC(T64, ZSTD(1)),
    output_tokens UInt32 CODEC(T64, ZSTD(1)),
    judged_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree(judged_at)
ORDER BY (run, row_key);

CREATE VIEW IF NOT EXISTS evaluations AS
SELECT * FROM evaluations_raw FINAL;

CREATE VIEW IF NOT EXISTS evaluation_rows AS
SELECT * FROM evaluation_rows_raw FINAL;
