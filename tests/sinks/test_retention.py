"""How long tables keep their rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.migrate import migrate
from sinks.retention import TIMES, apply, changes, parse
from sinks.rows import TABLES, SourceRow


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("", {}),
        ("source_rows=30", {"source_rows": 30}),
        (" source_rows = 30 , verdicts=forever,", {"source_rows": 30, "verdicts": None}),
        ("verdicts=30,lineage_edges=30", {"verdicts": 30, "lineage_edges": 30}),
    ],
)
def test_days(text: str, days: dict[str, int | None]) -> None:
    assert parse(text) == days


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("source_row=30", "no table"),
        ("prompts=30", "no table"),
        ("source_rows", "whole days"),
        ("source_rows=30d", "whole days"),
        ("source_rows=1", "at least 2 days"),
        ("verdicts=31,lineage_edges=30", "kept longer"),
        ("inference_calls=30,verdicts=forever", "kept longer"),
    ],
)
def test_days_that_cannot_be(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(text)


def test_old_rows_go_and_the_change_can_be_undone(
    new_database: Callable[[], StoreSettings], make: Callable[..., Any]
) -> None:
    settings = new_database()
    migrate(settings)
    client = connect(settings)
    now = datetime.now(UTC)
    rows = [make(SourceRow, row_id=age, event_time=now - timedelta(days=age)) for age in (1, 29, 31)]
    client.insert(TABLES[SourceRow], rows, column_names=SourceRow._fields)
    every = dict.fromkeys(TIMES, 30)
    for change in changes(client, every):
        apply(client, change)
    assert changes(client, every) == []
    client.command("OPTIMIZE TABLE source_rows_raw FINAL")
    assert client.query("SELECT row_id FROM source_rows ORDER BY row_id").result_rows == [(1,), (29,)]
    (change,) = changes(client, {"source_rows": None})
    apply(client, change)
    assert changes(client, {"source_rows": None}) == []
    client.close()
