"""Rows outlive migrations: those of the first schema are read through the last one, and a way down keeps what stays."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, ask, ask_named, connect
from sinks.lineage import ancestors
from sinks.migrate import WouldDelete, down, migrate, migrations
from sinks.rows import TABLES

NewDatabase = Callable[[], StoreSettings]
Make = Callable[..., Any]

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
FIRST_ID = (int(NOW.timestamp()) * 1000 + 89) << 80 | 0x7 << 76 | 0b10 << 62

# Rows as the first schema had them, column by column, in two months, each delivered twice.
FIRST_ROWS: dict[str, list[dict[str, Any]]] = {
    "source_rows_raw": [
        {
            "row_id": FIRST_ID + number,
            "event_time": NOW + timedelta(days=20 * number),
            "broker_time": NOW + timedelta(days=20 * number, seconds=1),
            "source": "/forum",
            "event_id": f"e-{number}",
            "topic": "messages",
            "partition": 3,
            "offset": 40 + number,
            "tenant": "acme",
            "thread": "t-1",
            "author": "ann",
            "lang": "en",
            "text": f"words {number}, “quoted”",
            "written_at": NOW,
        }
        for number in range(3)
    ],
    "verdicts_raw": [
        {
            "row_id": FIRST_ID + 100 + number,
            "source_row_id": FIRST_ID + number,
            "pipeline": "moderation",
            "pipeline_version": "1",
            "stage": "moderate",
            "operator": "moderate",
            "tenant": "acme",
            "lang": "en",
            "event_time": NOW + timedelta(days=20 * number),
            "broker_time": NOW + timedelta(days=20 * number, seconds=1),
            "judged_at": NOW + timedelta(days=20 * number, seconds=2),
            "topic": "messages",
            "partition": 3,
            "offset": 40 + number,
            "decision": ("allow", "review", "block")[number],
            "label": "spam",
            "scores": [0.75, 0.25],
            "confidence": 0.75,
            "model": "m-1",
            "prompt_hash": "a1",
            "parts": 1,
            "input_tokens": 30,
            "cached_tokens": 20,
            "output_tokens": 1,
            "cost_usd": 0.001,
            "latency_ms": 5,
        }
        for number in range(3)
    ],
    "inference_calls_raw": [
        {
            "row_id": FIRST_ID + 100 + number,
            "call": 0,
            "called_at": NOW,
            "model": "m-1",
            "prompt_hash": "a1",
            "input_tokens": 30,
            "cached_tokens": 20,
            "output_tokens": 1,
            "seconds": 0.5,
            "cost_usd": 0.001,
        }
        for number in range(3)
    ],
    "lineage_edges_raw": [
        {"child": FIRST_ID + 100 + number, "parent": FIRST_ID + number, "kind": "input", "written_at": NOW}
        for number in range(3)
    ],
    "prompts_raw": [
        {
            "prompt_hash": "a1",
            "model": "m-1",
            "pipeline": "moderation",
            "pipeline_version": "1",
            "stage": "moderate",
            "operator": "moderate",
            "labels": ["ok", "spam"],
            "text": "Judge: {text}",
            "used_at": NOW,
        }
    ],
}


def columns_of(client: Client, table: str) -> list[str]:
    found = ask(
        client,
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
        "ORDER BY position",
        table=table,
    )
    return [name for (name,) in found]


def rows_of(client: Client, table: str, columns: list[str]) -> list[dict[str, Any]]:
    names = ", ".join(f"`{name}`" for name in columns)
    return ask_named(client, f"SELECT {names} FROM {table} ORDER BY ALL")


def tables_of(client: Client) -> dict[str, str]:
    return dict(ask(client, "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"))


def test_rows_of_the_first_schema_are_read_after_all_migrations(new_database: NewDatabase) -> None:
    there = new_database()
    migrate(there, to=1)
    client = connect(there)
    for table, rows in FIRST_ROWS.items():
        for _ in range(2):
            client.insert(table, [list(row.values()) for row in rows], column_names=list(rows[0]))
    views = [table.removesuffix("_raw") for table in FIRST_ROWS]
    columns = {view: columns_of(client, view) for view in views}
    before = {view: rows_of(client, view, columns[view]) for view in views}
    assert {view: len(rows) for view, rows in before.items()} == {
        table.removesuffix("_raw"): len(rows) for table, rows in FIRST_ROWS.items()
    }
    assert before["verdicts"][0]["scores"] == {"ok": 0.75, "spam": 0.25}

    assert migrate(there) == list(migrations()[1:])

    assert {view: rows_of(client, view, columns[view]) for view in views} == before
    assert ask(
        client, "SELECT minute, decision, verdicts, reused, output_tokens FROM verdict_rollups ORDER BY ALL"
    ) == [
        (NOW.replace(second=0, microsecond=0) + timedelta(days=20 * number), decision, 1, 0, 1)
        for number, decision in enumerate(("allow", "review", "block"))
    ]
    assert ask(client, "SELECT current, count() FROM verdict_versions GROUP BY ALL") == [(True, 3)]
    facts = "reused_from_uuid, output, confidence_source, engine_seconds, prompt_version, tier, audited"
    assert ask(client, f"SELECT DISTINCT {facts} FROM verdicts") == [(None, "", "logprobs", 0, "", "model", False)]
    tree = ancestors(client, UUID(int=FIRST_ID + 100))
    assert tree is not None
    assert (tree.facts["decision"], tree.parents[0].facts["text"]) == ("allow", "words 0, “quoted”")
    client.close()


def test_each_migration_goes_back_and_keeps_what_stays(new_database: NewDatabase, make: Make) -> None:
    there = new_database()
    migrate(there, to=1)
    client = connect(there)
    schemas = [{}, tables_of(client)]
    for migration in migrations()[1:]:
        assert migrate(there, to=migration.version) == [migration]
        schemas.append(tables_of(client))
    for kind, table in TABLES.items():
        row = make(kind)
        client.insert(table, [row], column_names=list(row._fields))
    before = {table: rows_of(client, table, columns_of(client, table))[0] for table in TABLES.values()}

    for migration in reversed(migrations()[1:]):
        assert migration.down.loses
        with pytest.raises(WouldDelete, match=f"down to {migration.version - 1:04} deletes: {migration.label}: "):
            down(there, to=migration.version - 1)
        assert tables_of(client) == schemas[migration.version]
        assert down(there, to=migration.version - 1, delete=True) == [migration]
        for _ in range(2):  # also if it is run again
            assert tables_of(client) == schemas[migration.version - 1]
            for table in before.keys() & schemas[migration.version - 1].keys():
                columns = columns_of(client, table)
                assert rows_of(client, table, columns) == [{name: before[table][name] for name in columns}]
            for statement in migration.down.statements:
                client.command(statement)

    first = {table: columns_of(client, table) for table in before.keys() & schemas[1].keys()}
    assert first.keys() == FIRST_ROWS.keys()
    assert migrate(there) == list(migrations()[1:])
    assert tables_of(client) == schemas[-1]
    for table, names in first.items():
        (row,) = rows_of(client, table, columns_of(client, table))
        assert {name: row[name] for name in names} == {name: before[table][name] for name in names}
    assert ask(client, "SELECT output, prompt_version, tier FROM verdicts") == [("", "", "model")]

    assert down(there, to=0, delete=True) == list(reversed(migrations()))
    assert tables_of(client).keys() == {"schema_migrations"}
    client.close()
