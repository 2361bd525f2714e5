"""Migrations: applied once, checked always, refused when they are not ours, reversible."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from deploy.embedded.process import free_port
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import SchemaMismatch, StoreMisconfigured, StoreUnavailable
from sinks.migrate import check, migrate, migrations
from sinks.rows import TABLES, InferenceCallRow, VerdictRow

SORTED_BY = {
    "source_rows_raw": "row_id",
    "verdicts_raw": "pipeline, stage, row_id",
    "inference_calls_raw": "row_id, call",
    "lineage_edges_raw": "child, kind, parent",
    "prompts_raw": "prompt_hash, model, pipeline, pipeline_version, stage",
    "engine_usage_raw": "period_start, worker, pipeline, stage, tenant, use",
    "documents_raw": "document, tenant, event_time, row_id",
    "turns_raw": "topic, partition, call, tenant, number, row_id",
    "calls_raw": "topic, partition, call, tenant, messages, row_id",
    "reviews_raw": "row_id, review_id",
    "verdict_versions_raw": "pipeline, stage, row_id, prompt_hash, model, pipeline_version",
    "cascade_fits_raw": "pipeline, stage, screen, prompt_hash, model, goal, fitted_at",
    "evaluations_raw": "rows_hash, run",
    "evaluation_rows_raw": "run, row_key",
}
VERSIONED_BY = {
    "source_rows_raw": "written_at",
    "verdicts_raw": "judged_at",
    "inference_calls_raw": "called_at",
    "lineage_edges_raw": "written_at",
    "prompts_raw": "used_at",
    "engine_usage_raw": "written_at",
    "documents_raw": "written_at",
    "turns_raw": "written_at",
    "calls_raw": "closed_at",
    "reviews_raw": "written_at",
    "verdict_versions_raw": "judged_at",
    "cascade_fits_raw": "fitted_at",
    "evaluations_raw": "evaluated_at",
    "evaluation_rows_raw": "judged_at",
}
# not by months: they are not for dropping
KEPT = {
    "prompts_raw",
    "documents_raw",
    "turns_raw",
    "calls_raw",
    "evaluations_raw",
    "evaluation_rows_raw",
    "cascade_fits_raw",
}
COPIES = {"verdict_versions_raw": "verdicts_raw"}  # tables with the columns of another one
VIEWED = SORTED_BY.keys() - {"turns_raw"} - COPIES.keys()
VIEWS = {*(table.removesuffix("_raw") for table in VIEWED), "verdict_rollups", "verdict_versions", "reviewed_verdicts"}

NewDatabase = Callable[[], StoreSettings]
Make = Callable[..., Any]


def schema_of(settings: StoreSettings) -> dict[str, str]:
    """Name to statement of every table and view, without the name of the database."""
    client = connect(settings)
    rows = client.query(
        "SELECT name, create_table_query FROM system.tables WHERE database = {database:String}",
        parameters={"database": settings.database},
    ).result_rows
    client.close()
    return {name: statement.replace(settings.database, "weir") for name, statement in rows}


def journal(settings: StoreSettings, version: int, name: str, checksum: str, applied: int) -> None:
    client = connect(settings)
    client.insert(
        "schema_migrations",
        [[version, name, checksum, applied, datetime.now(UTC)]],
        column_names=["version", "name", "checksum", "applied", "changed_at"],
    )
    client.close()


def test_files_are_numbered_from_one_and_each_goes_both_ways(sql_folder: Path) -> None:
    shipped = migrations()
    assert [migration.version for migration in shipped] == list(range(1, len(shipped) + 1))
    assert {file.name for file in sql_folder.glob("*.sql")} == {
        f"{migration.version:04}_{migration.name}.{way}.sql" for migration in shipped for way in ("up", "down")
    }
    for migration in shipped:
        assert migration.up.statements
        assert migration.down.statements
        assert all(not statement.endswith(";") and "--" not in statement for statement in migration.up.statements)


def test_an_empty_store_has_no_schema_until_migrated(new_database: NewDatabase) -> None:
    settings = new_database()
    with pytest.raises(StoreUnavailable, match=f"{settings.database}.*run: weir migrate"):
        check(settings)
    assert migrate(settings) == list(migrations())
    check(settings)
    assert set(schema_of(settings)) == {"schema_migrations", *SORTED_BY, *VIEWS}
    assert SORTED_BY.keys() - COPIES.keys() == set(TABLES.values())


def test_a_second_run_has_nothing_to_do(settings: StoreSettings) -> None:
    before = schema_of(settings)
    assert migrate(settings) == []
    assert schema_of(settings) == before


def test_statements_may_run_again(settings: StoreSettings, client: Client) -> None:
    before = schema_of(settings)
    for migration in migrations():
        for statement in migration.up.statements:
            client.command(statement)
    assert schema_of(settings) == before


def test_two_migrators_at_once_end_in_one_schema(new_database: NewDatabase, settings: StoreSettings) -> None:
    both = new_database()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(migrate, [both, both]))
    check(both)
    assert schema_of(both) == schema_of(settings)


def test_a_migrator_killed_half_way_is_no_obstacle(new_database: NewDatabase, settings: StoreSettings) -> None:
    half = new_database()
    migrate(half)
    for migration in migrations():
        journal(half, migration.version, migration.name, migration.checksum, applied=0)
    client = connect(half)
    for name in ("verdicts_raw", "verdicts", "verdict_versions_raw", "verdict_versions"):
        client.command(f"DROP TABLE {name}")
    client.close()
    with pytest.raises(StoreUnavailable, match=r"lacks migration 0001_initial; run: weir migrate"):
        check(half)
    assert migrate(half) == list(migrations())
    assert schema_of(half) == schema_of(settings)


@pytest.mark.parametrize(
    ("version", "name", "checksum", "says"),
    [
        (1, "initial", "0" * 64, "migration 0001_initial was applied from a file with other statements"),
        (9999, "later", "0" * 64, "the schema has migration 9999.*upgrade Weir"),
    ],
    ids=["changed", "newer"],
)
def test_a_schema_that_is_not_ours_is_refused(
    new_database: NewDatabase, version: int, name: str, checksum: str, says: str
) -> None:
    settings = new_database()
    migrate(settings)
    journal(settings, version, name, checksum, applied=1)
    before = schema_of(settings)
    for call in (check, migrate):
        with pytest.raises(SchemaMismatch, match=says):
            call(settings)
    assert schema_of(settings) == before


def test_a_newer_schema_is_refused_before_anything_is_changed(new_database: NewDatabase) -> None:
    settings = new_database()
    migrate(settings)
    journal(settings, 1, "initial", migrations()[0].checksum, applied=0)
    journal(settings, 9999, "later", "0" * 64, applied=1)
    client = connect(settings)
    client.command("DROP VIEW prompts")
    client.close()
    with pytest.raises(SchemaMismatch, match="9999"):
        migrate(settings)
    assert "prompts" not in schema_of(settings)


def test_down_leaves_nothing_and_up_works_again(new_database: NewDatabase, settings: StoreSettings) -> None:
    there = new_database()
    migrate(there)
    client = connect(there)
    for migration in reversed(migrations()):
        for statement in migration.down.statements:
            client.command(statement)
        journal(there, migration.version, migration.name, migration.checksum, applied=0)
    client.close()
    assert set(schema_of(there)) == {"schema_migrations"}
    assert migrate(there) == list(migrations())
    assert schema_of(there) == schema_of(settings)


@pytest.mark.parametrize("name", ["we-ir", "1weir", "weir; DROP DATABASE default", "`", ""])
def test_a_name_that_is_none_is_refused(store_url: str, name: str) -> None:
    with pytest.raises(SchemaMismatch, match="is no name for a database"):
        migrate(StoreSettings(store_url, database=name))


@pytest.mark.parametrize("call", [check, migrate])
def test_a_store_that_does_not_answer(call: Callable[[StoreSettings], object]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable, match=url):
        call(StoreSettings(url))


@pytest.mark.parametrize("call", [check, migrate])
def test_a_store_that_lets_nobody_in(call: Callable[[StoreSettings], object], locked: StoreSettings) -> None:
    with pytest.raises(StoreMisconfigured, match=locked.url):
        call(locked)


@pytest.mark.parametrize("table", SORTED_BY)
def test_tables_are_sorted_and_replaced_as_documented(client: Client, settings: StoreSettings, table: str) -> None:
    engine, key = client.query(
        "SELECT engine_full, sorting_key FROM system.tables "
        "WHERE database = {database:String} AND name = {name:String}",
        parameters={"database": settings.database, "name": table},
    ).first_row
    assert key == SORTED_BY[table]
    assert engine.startswith(f"ReplacingMergeTree({VERSIONED_BY[table]})")
    assert ("toYYYYMM" in engine) == (table not in KEPT)  # months, so that old ones can be dropped at once


@pytest.fixture(params=range(2, len(migrations()) + 1))
def step(request: pytest.FixtureRequest) -> int:
    """The number of a migration that came after the first."""
    return int(request.param)


def test_a_migration_goes_back_and_keeps_the_rows(new_database: NewDatabase, make: Make, step: int) -> None:
    there, bare = new_database(), new_database()
    migrate(there)
    after = schema_of(there)
    server = connect(there, database="default")
    server.command(f"CREATE DATABASE {bare.database}")
    server.close()
    client, other = connect(there), connect(bare)
    rows = [
        make(VerdictRow, reused_from=5, output="{}", engine_seconds=0.5, prompt_version="v4"),
        make(InferenceCallRow),
    ]
    for row in rows:
        client.insert(TABLES[type(row)], [row], column_names=list(row._fields))
    for migration in migrations()[: step - 2 : -1]:
        for statement in migration.down + migration.down.statements:  # also if it is run twice
            client.command(statement)
    for migration in migrations()[: step - 1]:
        for statement in migration.up.statements:
            other.command(statement)
    other.close()
    assert schema_of(there).items() >= schema_of(bare).items()
    assert set(schema_of(there)) == {*schema_of(bare), "schema_migrations"}
    assert client.query("SELECT row_id, scores FROM verdicts").result_rows == [(rows[0].row_id, {})]
    assert client.query("SELECT seconds FROM inference_calls").result_rows == [(0.5,)]
    for migration in migrations()[step - 1 :]:
        for statement in migration.up.statements:
            client.command(statement)
    assert schema_of(there) == after
    facts = "reused_from IN (0, 5), output, confidence_source, engine_seconds, prompt_version"
    kept = ("{}", "logprobs", 0.5) if step > 3 else ("", "logprobs", 0)
    assert client.query(f"SELECT {facts} FROM verdicts").result_rows == [(1, *kept, "v4" if step > 4 else "")]
    assert client.query("SELECT engine_seconds FROM inference_calls").result_rows == [(0,)]
    client.close()


def test_views_show_every_column_of_their_table(client: Client, settings: StoreSettings) -> None:
    """A view that was made before a column does not have it."""
    columns: dict[str, set[str]] = {}
    for table, name in client.query(
        "SELECT table, name FROM system.columns WHERE database = {database:String}",
        parameters={"database": settings.database},
    ).result_rows:
        columns.setdefault(table, set()).add(name)
    for table in VIEWED:
        assert columns[table.removesuffix("_raw")] >= columns[table], table
    for copy, table in COPIES.items():
        assert columns[copy] == columns[table]


def test_columns_are_packed_as_the_files_say(client: Client, settings: StoreSettings, sql_folder: Path) -> None:
    added = re.findall(
        r"^ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+) .*?(CODEC\(.*\));$", _all_up(sql_folder), re.M
    )
    written = {(table, column): codec for table, column, codec in added} | {
        (table, column): codec
        for table, body in re.findall(
            r"CREATE TABLE IF NOT EXISTS (\w+)\n\((.*?)\n\)\nENGINE", _all_up(sql_folder), flags=re.DOTALL
        )
        for column, codec in re.findall(r"^    `?(\w+)`? .*?(CODEC\(.*\)),?$", body, flags=re.MULTILINE)
    }
    columns = client.query(
        "SELECT table, name, type, compression_codec FROM system.columns "
        "WHERE database = {database:String} AND table LIKE '%\\_raw'",
        parameters={"database": settings.database},
    ).result_rows
    packed = {(table, column): codec for table, column, _, codec in columns if codec}
    copied = {
        (copy, column): packed[table, column]
        for copy, table in COPIES.items()
        for _, column in packed
        if (table, column) in packed
    }
    assert packed == written | copied
    plain = [kind for table, _, kind, codec in columns if not codec and table != "prompts_raw"]
    assert set(plain) == {"LowCardinality(String)", "Bool"}  # a dictionary is packed as it is, and so is one bit
    texts = [codec for (_, column), codec in written.items() if column == "text"]
    assert texts == ["CODEC(ZSTD(3))"] * 3


def test_edges_are_found_from_both_ends(client: Client, settings: StoreSettings) -> None:
    (query,) = client.query(
        "SELECT query FROM system.projections WHERE database = {database:String} AND name = 'downward'",
        parameters={"database": settings.database},
    ).first_row
    assert query.endswith("ORDER BY parent, child")


def _all_up(folder: Path) -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.up.sql")))
