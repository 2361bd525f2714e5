"""Migrations: applied once, checked always, refused when they are not ours, reversible."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Barrier

import pytest
from clickhouse_connect.driver.client import Client

from deploy.embedded.process import free_port
from sinks.clickhouse import StoreSettings, connect
from sinks.errors import SchemaMismatch, StoreMisconfigured, StoreUnavailable
from sinks.migrate import Migration, Step, check, down, migrate, migrations, plan_down, plan_up, script, status
from sinks.rows import TABLES

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
    "erasures_raw": "digest",
    "erased_rows_raw": "digest, row_id",
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
    "erasures_raw": "written_at",
    "erased_rows_raw": "written_at",
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
    "erasures_raw",
    "erased_rows_raw",
}
COPIES = {"verdict_versions_raw": "verdicts_raw"}  # tables with the columns of another one
VIEWED = SORTED_BY.keys() - {"turns_raw", "erased_rows_raw"} - COPIES.keys()
VIEWS = {*(table.removesuffix("_raw") for table in VIEWED), "verdict_rollups", "verdict_versions", "reviewed_verdicts"}

NewDatabase = Callable[[], StoreSettings]


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


def test_migrators_at_once_migrate_once(new_database: NewDatabase, settings: StoreSettings) -> None:
    there, together = new_database(), Barrier(3)

    def start(_: int) -> list[Migration]:
        together.wait()
        return migrate(there)

    with ThreadPoolExecutor(3) as threads:
        assert sorted(map(len, threads.map(start, range(3)))) == [0, 0, len(migrations())]
    check(there)
    assert schema_of(there) == schema_of(settings)


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


def test_a_step_that_was_interrupted_is_done_again_whichever_way(
    new_database: NewDatabase, settings: StoreSettings
) -> None:
    half, last = new_database(), migrations()[-1]
    migrate(half)
    journal(half, last.version, last.name, last.checksum, applied=2)
    client = connect(half)
    client.command("DROP VIEW erasures")
    with pytest.raises(StoreUnavailable, match=f"lacks migration {last.label}; run: weir migrate"):
        check(half)
    assert [state.state for state in status(half)] == ["applied"] * (last.version - 1) + ["begun"]
    assert plan_up(half) == [Step(last, "up")]
    assert plan_down(half, to=last.version - 1) == [Step(last, "down")]
    assert migrate(half) == [last]
    assert schema_of(half) == schema_of(settings)
    journal(half, last.version, last.name, last.checksum, applied=2)
    client.command("DROP VIEW erasures")
    client.close()
    assert down(half, to=last.version - 1, delete=True) == [last]
    assert "erasures_raw" not in schema_of(half)
    assert down(half, to=last.version - 1, delete=True) == []


def test_status_tells_what_this_code_does_not_know(new_database: NewDatabase) -> None:
    settings = new_database()
    assert [state.state for state in status(settings)] == ["missing"] * len(migrations())
    migrate(settings, to=2)
    journal(settings, 2, "reuse_and_rollups", "0" * 64, applied=1)
    journal(settings, 9998, "gone", "0" * 64, applied=0)
    journal(settings, 9999, "later", "0" * 64, applied=1)
    states = [(state.version, state.name, state.state) for state in status(settings)]
    assert states[:3] == [(1, "initial", "applied"), (2, "reuse_and_rollups", "changed"), (3, "operators", "missing")]
    assert states[len(migrations()) :] == [(9999, "later", "unknown")]


def test_one_more_server_gets_what_the_others_have(new_database: NewDatabase) -> None:
    bare = new_database()
    migrate(bare, to=2)
    before = schema_of(bare)
    client = connect(bare)
    for name in ("source_rows_raw", "prompts", "verdict_rollups"):
        client.command(f"DROP TABLE {name}")
    client.close()
    assert migrate(bare, to=2) == []
    assert migrate(bare, to=2, again=True) == list(migrations()[:2])
    assert schema_of(bare) == before


@pytest.mark.parametrize("to", [-1, len(migrations()) + 1])
def test_a_version_that_is_none_is_refused(settings: StoreSettings, to: int) -> None:
    for call in (migrate, down, plan_up, plan_down):
        with pytest.raises(SchemaMismatch, match=f"there is no migration {to}; the last one is {len(migrations()):04}"):
            call(settings, to=to)  # type: ignore[operator]


def test_a_plan_changes_nothing(new_database: NewDatabase) -> None:
    settings = new_database()
    assert plan_up(settings) == [Step(migration, "up") for migration in migrations()]
    assert plan_down(settings, to=0) == []
    assert down(settings, to=0) == []
    server = connect(settings, database="default")
    assert (
        server.query(
            "SELECT name FROM system.databases WHERE name = {name:String}", parameters={"name": settings.database}
        ).result_rows
        == []
    )
    server.close()


def test_the_printed_script_does_what_the_command_does(new_database: NewDatabase, settings: StoreSettings) -> None:
    by_hand = new_database()
    *prepare, first = islice(script(by_hand, plan_up(by_hand)), 4)
    assert prepare[1] == f"USE `{by_hand.database}`"
    server = connect(by_hand, database="default")
    server.command(prepare[0])
    server.close()
    client = connect(by_hand)
    for statement in [prepare[2], first, *islice(script(by_hand, plan_up(by_hand)), 4, None)]:
        client.command(statement)
    client.close()
    check(by_hand)
    assert schema_of(by_hand) == schema_of(settings)


def test_one_form_is_not_mixed_with_the_other(settings: StoreSettings) -> None:
    with pytest.raises(SchemaMismatch, match="are those of one server, not of cluster 'main'"):
        migrate(replace(settings, cluster="main"), again=True)


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
    for call in (check, migrate, partial(migrate, again=True), partial(down, to=0, delete=True)):
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
