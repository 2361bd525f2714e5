"""What a prompt or a model decided."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from sinks.influence import influence
from sinks.rows import VerdictRow

Make = Callable[..., Any]


@pytest.fixture
def judged(tables: Client, make: Make) -> Client:
    """Six verdicts: two each of three prompts, of which the oldest's were replaced by the newest's."""
    first = make(VerdictRow).row_id
    later = make(VerdictRow).judged_at + timedelta(hours=1)
    new = {"prompt_hash": "h4", "prompt_version": "v4", "judged_at": later, "model": "m-2"}
    old = [make(VerdictRow, row_id=first + n, prompt_hash="h3", prompt_version="v3") for n in range(2)]
    current = [make(VerdictRow, row_id=first + n, **new, decision=d) for n, d in enumerate(("allow", "block"))]
    other = {"stage": "other", "prompt_hash": "h5", "prompt_version": "v5"}
    current += [make(VerdictRow, row_id=first + n, **other, reused_from=n - 2) for n in (2, 3)]
    names = list(VerdictRow._fields)
    tables.insert("verdict_versions_raw", [*old, current[0]], column_names=names)  # one that was kept and is current
    tables.insert("verdicts_raw", [*old, *current], column_names=names)
    return tables


def test_by_version_hash_model_and_stage(judged: Client) -> None:
    def counts(**meant: str) -> list[tuple[Any, ...]]:
        found = influence(judged, **meant).counts
        return [(c["stage"], c["prompt_hash"], c["decision"], c["verdicts"], c["current"], c["reused"]) for c in found]

    assert counts(prompt="v3") == counts(prompt="h3") == [("moderate", "h3", "allow", 2, 0, 0)]
    new = [("moderate", "h4", "allow", 1, 1, 0), ("moderate", "h4", "block", 1, 1, 0)]
    assert counts(prompt="v4") == counts(model="m-2") == counts(prompt="h4", stage="moderation/moderate") == new
    assert counts(model="m-1", stage="other") == [("other", "h5", "allow", 2, 2, 1)]
    assert counts(prompt="v4", model="m-1") == counts(prompt="v9") == counts(prompt="v4", stage="other") == []


def test_the_last_rows_are_named(judged: Client) -> None:
    found = influence(judged, model="m-1", limit=3).rows
    assert len(found) == 3
    assert [row["current"] for row in influence(judged, prompt="v3").rows] == [False, False]
    (row,) = influence(judged, prompt="v4", limit=1).rows
    assert UUID(row["row_id"]).version == 7
    assert row["judged_at"].tzinfo is not None
    assert not influence(judged, prompt="v4", limit=0).rows
