"""Each row type has the columns of its table, and comes back from the store as it went in."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.rows import TABLES, AnyRow, PromptRow, VerdictRow

# What an erasure writes, and no row.
ERASED = {"source_rows_raw": ["erased_at"], "documents_raw": ["erased_at"]}


@pytest.mark.parametrize(("kind", "table"), TABLES.items(), ids=TABLES.values())
def test_fields_are_the_columns_in_order(client: Client, kind: type[AnyRow], table: str) -> None:
    described = client.query(f"DESCRIBE TABLE {table}").result_rows
    assert [column[0] for column in described] == [*kind._fields, *ERASED.get(table, [])]


@pytest.mark.parametrize(("kind", "table"), TABLES.items(), ids=TABLES.values())
def test_a_row_comes_back_as_it_went_in(
    tables: Client, make: Callable[..., Any], kind: type[AnyRow], table: str
) -> None:
    row = make(kind)
    tables.insert(table, [row], column_names=list(kind._fields))
    (stored,) = tables.query(f"SELECT {', '.join(kind._fields)} FROM {table}", tz_mode="aware").result_rows
    assert stored == tuple(row)
    assert all(value.utcoffset() is not None for value in stored if isinstance(value, datetime))


def test_what_can_be_read_can_be_traced() -> None:
    order = list(TABLES)
    assert order[0] is PromptRow  # before any verdict that names its hash
    assert order[-1] is VerdictRow  # after the words, the calls and the edges
