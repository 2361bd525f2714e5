-- Roles and users of Weir on a ClickHouse server, each with no more than its statements need. Run it once as an
-- administrator, after the first `weir migrate`, and again after an upgrade that brings new grants:
--
--   clickhouse-client --queries-file deploy/clickhouse/users.sql \
--       --param_migrator_hash=… --param_worker_hash=… --param_reader_hash=… --param_eraser_hash=…
--
-- A hash is SHA-256 of a password of your own: `printf %s "$password" | sha256sum`. The database is called weir here;
-- with another WEIR_CLICKHOUSE_DATABASE replace `weir.` throughout. On a cluster add ON CLUSTER to every statement, or
-- keep users in a replicated directory.

CREATE ROLE IF NOT EXISTS weir_migrator, weir_writer, weir_reader, weir_eraser;

-- weir migrate, weir retention
GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW ON weir.* TO weir_migrator;
GRANT ALTER COLUMN, ALTER INDEX, ALTER PROJECTION, ALTER TTL, ALTER SETTINGS ON weir.* TO weir_migrator;
GRANT SELECT ON weir.* TO weir_migrator;
GRANT INSERT ON weir.schema_migrations TO weir_migrator;
-- The lock of a migrator is a table, and goes out of the way under another name.
GRANT INSERT ON weir.schema_lock* TO weir_migrator;

-- weir worker, weir rerun, weir eval --store: rows are only ever added
GRANT SELECT ON weir.* TO weir_writer;
GRANT INSERT ON weir.source_rows_raw TO weir_writer;
GRANT INSERT ON weir.verdicts_raw TO weir_writer;
GRANT INSERT ON weir.verdict_versions_raw TO weir_writer;
GRANT INSERT ON weir.inference_calls_raw TO weir_writer;
GRANT INSERT ON weir.lineage_edges_raw TO weir_writer;
GRANT INSERT ON weir.prompts_raw TO weir_writer;
GRANT INSERT ON weir.engine_usage_raw TO weir_writer;
GRANT INSERT ON weir.documents_raw TO weir_writer;
GRANT INSERT ON weir.turns_raw TO weir_writer;
GRANT INSERT ON weir.calls_raw TO weir_writer;
GRANT INSERT ON weir.reviews_raw TO weir_writer;
GRANT INSERT ON weir.cascade_fits_raw TO weir_writer;
GRANT INSERT ON weir.evaluations_raw TO weir_writer;
GRANT INSERT ON weir.evaluation_rows_raw TO weir_writer;

-- weir lineage, weir leaderboard, dashboards, analysts: a view needs its tables, so this reads words too
GRANT SELECT ON weir.* TO weir_reader;

-- weir erase: may take words away, of rows that it may not remove
GRANT SELECT ON weir.* TO weir_eraser;
GRANT INSERT ON weir.erasures_raw TO weir_eraser;
GRANT INSERT ON weir.erased_rows_raw TO weir_eraser;
GRANT ALTER UPDATE(text, author, thread, event_id, attributes, erased_at) ON weir.source_rows_raw TO weir_eraser;
GRANT ALTER UPDATE(text, author, erased_at) ON weir.documents_raw TO weir_eraser;
GRANT ALTER UPDATE(output) ON weir.verdicts_raw TO weir_eraser;
GRANT ALTER UPDATE(output) ON weir.verdict_versions_raw TO weir_eraser;
GRANT ALTER UPDATE(comment, reviewer) ON weir.reviews_raw TO weir_eraser;
GRANT ALTER DELETE ON weir.turns_raw TO weir_eraser;
GRANT ALTER DELETE ON weir.calls_raw TO weir_eraser;

-- A reader may set what a query may use, but change nothing.
CREATE SETTINGS PROFILE IF NOT EXISTS weir_reading SETTINGS readonly = 2, max_execution_time = 60 TO weir_reader;

-- Let users in from where they run only: ALTER USER weir_worker HOST IP '10.0.0.0/8'.
CREATE USER IF NOT EXISTS weir_migrate IDENTIFIED WITH sha256_hash BY {migrator_hash:String} DEFAULT ROLE weir_migrator;
CREATE USER IF NOT EXISTS weir_worker IDENTIFIED WITH sha256_hash BY {worker_hash:String} DEFAULT ROLE weir_writer;
CREATE USER IF NOT EXISTS weir_read IDENTIFIED WITH sha256_hash BY {reader_hash:String} DEFAULT ROLE weir_reader;
CREATE USER IF NOT EXISTS weir_erase IDENTIFIED WITH sha256_hash BY {eraser_hash:String} DEFAULT ROLE weir_eraser;
