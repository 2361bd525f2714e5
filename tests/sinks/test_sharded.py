"""The sharded form: ClickHouse parses every statement, and what chDB can do without Keeper is done."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from sinks.clickhouse import StoreSettings, connect
from sinks.errors import SchemaMismatch
from sinks.migrate import Step, migrations, script
from sinks.schema_forms import LOCK, Form
from sinks.sharded import render

FORM = Form("weir", "main")
UP = [Step(migration, "up") for migration in migrations()]
DOWN = [Step(migration, "down") for migration in reversed(migrations())]

# Runs the statements of standard input in a chDB that knows a cluster, as far as they need neither Keeper nor shards
# that answer. Then tells the columns of each table, before and after the way down.
_RUN = """
import json, pathlib, re, sys, chdb
folder, ups, downs = pathlib.Path(sys.argv[1]), *json.load(sys.stdin)
shard = "<shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard>"
config = folder / "config.xml"
config.write_text(f"<clickhouse><remote_servers><main>{shard}{shard}</main></remote_servers></clickhouse>")
connection = chdb.connect(f"{folder / 'tables'}?config-file={config}")
columns = "SELECT table, name, type, default_expression FROM system.columns WHERE database = 'weir' ORDER BY ALL"
def run(statements):
    for statement in statements:
        connection.query(statement)
    return json.loads(connection.query(columns, "JSONCompact").bytes())["data"]
print(json.dumps([run(ups), run(downs)]))
"""


@pytest.fixture(scope="module")
def parser(store_url: str) -> Iterator[Client]:
    client = connect(StoreSettings(store_url), database="default")
    yield client
    client.close()


def statements(*, sharded: bool = True) -> list[str]:
    settings = StoreSettings("http://127.0.0.1:8123", cluster="main" if sharded else "")
    form = Form("weir", settings.cluster)
    lock = [form.create_lock("a" * 32, "o'host, process 7"), form.move_lock("a" * 32), form.drop_lock(LOCK)]
    return [*script(settings, UP), *script(settings, DOWN), *lock]


@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "one server"])
def test_clickhouse_parses_every_statement(parser: Client, sharded: bool) -> None:
    for statement in statements(sharded=sharded):
        (parsed,) = parser.query("SELECT formatQuery({s:String})", parameters={"s": statement}).first_row
        assert not sharded or " ON CLUSTER main" in parsed or parsed.startswith(("INSERT ", "USE ")), parsed
    with pytest.raises(DatabaseError, match="Syntax error"):
        parser.query("SELECT formatQuery({s:String})", parameters={"s": "CREATE TABLE a ENGIN = Memory"})


def test_every_table_is_named_with_its_database(parser: Client) -> None:
    for statement in statements():
        if not statement.startswith("CREATE VIEW") and not statement.startswith("CREATE OR REPLACE VIEW"):
            assert re.match(r"USE|CREATE DATABASE|.*? (EXISTS |TABLE |INTO )`weir`\.`\w+`", statement), statement
            continue
        tree = parser.raw_query(f"EXPLAIN AST {statement}", fmt="TSVRaw").decode()
        read = re.findall(r"TableIdentifier (\S+)", tree)
        assert read
        assert all(table.startswith("weir.") for table in read), statement


def test_a_subquery_over_all_shards_is_asked_once(parser: Client) -> None:
    for statement in statements():
        assert not re.search(r"(?<!GLOBAL )(?<!GLOBAL NOT )\b(?<!NOT )IN\s*\(\s*SELECT", statement), statement
        assert not re.search(r"(?<!GLOBAL )\bNOT IN\s*\(\s*SELECT", statement), statement
    views = [statement for statement in statements() if "VIEW" in statement and " IN (" in statement]
    assert any("GLOBAL NOT IN (" in view for view in views)
    assert any("GLOBAL IN (" in view for view in views)


def test_versions_of_a_row_are_on_one_shard() -> None:
    """FINAL works shard by shard, so what a table is sharded by must be among what it is sorted by."""
    spread = 0
    for local, whole in (FORM.render(s) for m in migrations() for s in m.up.statements if "CREATE TABLE" in s):
        key = re.search(r"cityHash64\((.+)\)\)$", whole)
        order = re.search(r"ORDER BY \(?([^()\n]+)\)?", local.split("ENGINE = ")[1])
        assert key
        assert order
        assert set(key[1].split(", ")) <= set(order[1].split(", "))
        assert (
            local.count("ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ")
            == 1
        )
        spread += 1
    assert spread == 16


def test_tables_and_views_are_made_on_a_cluster_of_two_shards(tmp_path: Path) -> None:
    pytest.importorskip("chdb", reason="the extra `embedded` is not installed")

    def alone(steps: list[Step]) -> list[str]:
        rendered = [s for step in steps for s in step.migration.script(step.way).statements for s in FORM.render(s)]
        here = [text.replace(" ON CLUSTER 'main'", "") for text in rendered]
        return [re.sub(r"Replicated(\w+)\('[^']+', '\{replica\}', ", r"\1(", text) for text in here]

    ups = ["CREATE DATABASE weir ENGINE = Atomic", *alone(UP)]
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path)],
        input=json.dumps([ups, alone(DOWN[:-1])]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for columns in json.loads(done.stdout):
        tables: dict[str, list[list[str]]] = {}
        for table, *column in columns:
            tables.setdefault(table, []).append(column)
        locals_ = {table for table in tables if table.endswith("_local")}
        assert len(locals_) >= 5
        for table in locals_:
            assert tables[table.removesuffix("_local")] == tables[table]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("OPTIMIZE TABLE verdicts_raw", "no sharded form is known of: OPTIMIZE"),
        ("ALTER TABLE verdicts_raw UPDATE label = '' WHERE 1", "no sharded form is known of: ALTER"),
        ("CREATE TABLE IF NOT EXISTS a_raw (x UInt8) ENGINE = MergeTree() PARTITION BY x", "without ORDER BY"),
    ],
)
def test_a_statement_of_another_kind_is_refused(statement: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render(statement, "weir", "main")


@pytest.mark.parametrize("name", ["a b", "x' ON", "é"])
def test_a_name_that_is_no_clusters_is_refused(name: str) -> None:
    with pytest.raises(SchemaMismatch, match="is no name for a cluster"):
        Form("weir", name)
