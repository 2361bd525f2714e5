"""Users of a ClickHouse server may do what Weir does, and no more. chDB has no users: grants are read, not tried."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from sinks import erase
from sinks.clickhouse import StoreSettings, connect
from sinks.migration_files import _statements, migrations
from sinks.rows import TABLES

FILE = Path(__file__).parents[2] / "deploy" / "clickhouse" / "users.sql"
HASHES = dict.fromkeys(("migrator_hash", "worker_hash", "reader_hash", "eraser_hash"), "0" * 64)
GRANT = re.compile(r"GRANT (.+) ON weir\.(\S+) TO (\w+)")
# What a statement of a migration begins with, and the privileges that ClickHouse asks for.
NEEDS = {
    r"CREATE TABLE": {"CREATE TABLE"},
    r"CREATE VIEW": {"CREATE VIEW"},
    r"CREATE OR REPLACE VIEW": {"CREATE VIEW", "DROP VIEW"},
    r"DROP TABLE": {"DROP TABLE"},
    r"DROP VIEW": {"DROP VIEW"},
    r"ALTER TABLE \w+ (ADD|DROP|MODIFY) COLUMN": {"ALTER COLUMN"},
    r"ALTER TABLE \w+ (ADD|DROP) INDEX": {"ALTER INDEX"},
    r"ALTER TABLE \w+ (ADD|DROP) PROJECTION": {"ALTER PROJECTION"},
    r"ALTER TABLE \w+ (MODIFY|RESET) SETTING": {"ALTER SETTINGS"},
}


@pytest.fixture(scope="module")
def statements() -> tuple[str, ...]:
    return _statements(FILE.read_text())


@pytest.fixture(scope="module")
def grants(statements: tuple[str, ...]) -> dict[str, dict[str, set[str]]]:
    """Privileges by role and table; * for all tables."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for statement in statements:
        if match := GRANT.fullmatch(statement):
            privileges, table, role = match.groups()
            found[role][table] |= {part.strip() for part in re.split(r",(?![^(]*\))", privileges)}
    return found


def test_clickhouse_can_read_every_statement(statements: tuple[str, ...], settings: StoreSettings) -> None:
    client = connect(settings, database="default")
    for statement in statements:
        client.query(f"EXPLAIN AST {statement}", parameters=HASHES)
    client.close()


def test_the_migrator_may_run_every_migration(grants: dict[str, dict[str, set[str]]]) -> None:
    has = grants["weir_migrator"]["*"]
    for migration in migrations():
        for statement in (*migration.up.statements, *migration.down.statements):
            needed = [privileges for start, privileges in NEEDS.items() if re.match(start, statement)]
            assert needed, statement
            assert needed[0] <= has, statement
    assert grants["weir_migrator"]["schema_migrations"] == grants["weir_migrator"]["schema_lock*"] == {"INSERT"}


def test_the_worker_may_add_rows_and_nothing_else(grants: dict[str, dict[str, set[str]]]) -> None:
    writer = grants["weir_writer"]
    assert writer.pop("*") == {"SELECT"}
    assert set.union(*writer.values()) == {"INSERT"}
    erasers = {"erasures_raw", "erased_rows_raw"}
    assert writer.keys() == set(TABLES.values()) - erasers | {"verdict_versions_raw"}
    assert grants["weir_reader"] == {"*": {"SELECT"}}


def test_the_eraser_may_take_words_away_and_nothing_else(grants: dict[str, dict[str, set[str]]]) -> None:
    needed: dict[str, set[str]] = defaultdict(set)
    for place in erase._PLACES:
        if place.change == "DELETE":
            needed[place.table].add("ALTER DELETE")
        else:
            needed[place.table] |= set(re.findall(r"(\w+) =", place.change))
    has = {table: set(privileges) for table, privileges in grants["weir_eraser"].items()}
    assert has.pop("*") == {"SELECT"}
    assert [has.pop(table) for table in ("erasures_raw", "erased_rows_raw")] == [{"INSERT"}] * 2
    columns = {table: _columns(privileges) for table, privileges in has.items()}
    assert columns == needed


def _columns(privileges: set[str]) -> set[str]:
    (privilege,) = privileges
    match = re.fullmatch(r"ALTER UPDATE\((.+)\)", privilege)
    return set(match[1].split(", ")) if match else {privilege}
