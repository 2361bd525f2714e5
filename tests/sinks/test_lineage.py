"""From a verdict back to the words that it rests on."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from sinks.lineage import LineageNode, ancestors, descendants
from sinks.rows import TABLES, AnyRow, LineageEdgeRow, PromptRow, SourceRow, VerdictRow

Make = Callable[..., Any]


def put(client: Client, *rows: AnyRow) -> None:
    for row in rows:
        client.insert(TABLES[type(row)], [row], column_names=list(type(row)._fields))


def shape(node: LineageNode) -> tuple[Any, ...]:
    return (UUID(node.row_id).int, node.role, node.kind, [shape(linked) for linked in node.linked])


@pytest.fixture
def words(make: Make) -> list[SourceRow]:
    """Three messages of a thread within a millisecond, the latest of which is judged."""
    first = make(SourceRow).row_id  # the ids of one millisecond have no order
    return [
        make(SourceRow, row_id=first + step, offset=offset, event_id=f"e-{offset}", text=f"words {offset}")
        for step, offset in ((20, 41), (10, 42), (30, 43))
    ]


@pytest.fixture
def verdict(make: Make, words: list[SourceRow]) -> VerdictRow:
    row: VerdictRow = make(VerdictRow, row_id=words[-1].row_id + 1, source_row_id=words[-1].row_id)
    return row


@pytest.fixture
def judged(tables: Client, make: Make, words: list[SourceRow], verdict: VerdictRow) -> Client:
    earlier, later, judged = words
    put(tables, make(PromptRow), *words, verdict)
    edges = [(later, "context"), (judged, "input"), (earlier, "context")]
    put(tables, *(make(LineageEdgeRow, child=verdict.row_id, parent=row.row_id, kind=kind) for row, kind in edges))
    return tables


def test_a_verdict_leads_to_its_words_and_their_context(
    judged: Client, words: list[SourceRow], verdict: VerdictRow
) -> None:
    node = ancestors(judged, UUID(int=verdict.row_id))
    assert node is not None
    assert shape(node) == (
        verdict.row_id,
        "",
        "verdict",
        [
            (words[2].row_id, "input", "source", []),
            (words[0].row_id, "context", "source", []),
            (words[1].row_id, "context", "source", []),
        ],
    )
    assert (node.facts["decision"], node.facts["prompt_hash"]) == ("allow", "a1")
    assert node.facts["scores"] == {"ok": 0.75, "spam": 0.25}
    assert [parent.facts["text"] for parent in node.parents] == ["words 43", "words 41", "words 42"]
    assert "row_id" not in node.facts


def test_context_of_other_milliseconds_is_in_the_order_of_time(
    judged: Client, make: Make, words: list[SourceRow], verdict: VerdictRow
) -> None:
    oldest = make(SourceRow, row_id=words[0].row_id - (1 << 80), offset=99)
    put(judged, oldest, make(LineageEdgeRow, child=verdict.row_id, parent=oldest.row_id, kind="context"))
    node = ancestors(judged, UUID(int=verdict.row_id))
    assert node is not None
    assert [parent.facts["offset"] for parent in node.parents] == [43, 99, 41, 42]


def test_a_reused_judgement_leads_to_the_verdict_that_it_is_from(
    judged: Client, make: Make, words: list[SourceRow], verdict: VerdictRow
) -> None:
    origin = make(VerdictRow, row_id=verdict.row_id + (1 << 80))  # later than all else, so only its kind puts it first
    reused = verdict._replace(reused_from=origin.row_id, judged_at=verdict.judged_at + timedelta(seconds=1))
    put(judged, origin, reused, make(LineageEdgeRow, child=verdict.row_id, parent=origin.row_id, kind="reused"))
    node = ancestors(judged, UUID(int=verdict.row_id))
    assert node is not None
    assert [parent.role for parent in node.parents] == ["input", "reused", "context", "context"]
    assert node.facts["reused_from"] == node.parents[1].row_id == str(UUID(int=origin.row_id))
    assert node.parents[1].facts["reused_from"] == ""


def test_an_event_has_nothing_above_it(judged: Client, words: list[SourceRow]) -> None:
    node = ancestors(judged, UUID(int=words[0].row_id))
    assert node is not None
    assert shape(node) == (words[0].row_id, "", "source", [])


def test_an_unknown_row(judged: Client) -> None:
    assert ancestors(judged, UUID(int=5)) is None


def test_rows_written_twice_stand_in_the_tree_once(
    judged: Client, make: Make, words: list[SourceRow], verdict: VerdictRow
) -> None:
    edge = make(LineageEdgeRow, child=verdict.row_id, parent=words[2].row_id)
    put(judged, *words, verdict, edge, edge)
    node = ancestors(judged, UUID(int=verdict.row_id))
    assert node is not None
    assert len(node.parents) == 3


def test_a_tree_of_two_stages(judged: Client, make: Make, words: list[SourceRow], verdict: VerdictRow) -> None:
    second = make(VerdictRow, row_id=verdict.row_id + 1, stage="again")
    put(judged, second, make(LineageEdgeRow, child=second.row_id, parent=verdict.row_id))
    node = ancestors(judged, UUID(int=second.row_id))
    assert node is not None
    assert [parent.row_id for parent in node.parents] == [str(UUID(int=verdict.row_id))]
    assert len(node.parents[0].parents) == 3
    assert node.parents[0].role == "input"


def test_what_the_store_lost_is_said_to_be_missing(tables: Client, make: Make, verdict: VerdictRow) -> None:
    put(tables, make(LineageEdgeRow, child=verdict.row_id, parent=7))
    node = ancestors(tables, UUID(int=verdict.row_id))
    assert node is not None
    assert shape(node) == (verdict.row_id, "", "missing", [(7, "input", "missing", [])])
    assert node.facts == node.parents[0].facts == {}


def test_the_tree_is_json(judged: Client, verdict: VerdictRow) -> None:
    node = ancestors(judged, UUID(int=verdict.row_id))
    assert node is not None
    tree = json.loads(json.dumps(node.as_dict(), default=str))
    assert set(tree) == {"row_id", "kind", "role", "facts", "parents"}
    assert tree["parents"][0]["facts"]["text"] == "words 43"
    assert tree["row_id"] == str(UUID(int=verdict.row_id))


def test_a_judgement_that_is_taken_over_in_turn_ends_the_way(
    judged: Client, make: Make, words: list[SourceRow], verdict: VerdictRow
) -> None:
    """After a rerun a verdict may take its judgement from one that took it from it before."""
    other = make(VerdictRow, row_id=verdict.row_id + 1, source_row_id=words[0].row_id, reused_from=verdict.row_id)
    put(judged, other, make(LineageEdgeRow, child=other.row_id, parent=words[0].row_id))
    for child, parent in ((verdict, other), (other, verdict)):
        put(judged, make(LineageEdgeRow, child=child.row_id, parent=parent.row_id, kind="reused"))
    node = ancestors(judged, UUID(int=other.row_id))
    assert node is not None
    assert [parent.role for parent in node.parents] == ["input", "reused"]
    assert [parent.role for parent in node.parents[1].parents] == ["input", "context", "context"]  # it asked the model
    assert node.parents[1].parents[1].repeated  # the words of the one are context of the other
    below = descendants(judged, UUID(int=verdict.row_id))
    assert below is not None
    assert shape(below) == (verdict.row_id, "", "verdict", [(other.row_id, "reused", "verdict", [])])
