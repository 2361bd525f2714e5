"""Trees of reviewed calls, up and down."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from sinks.lineage import LineageNode, ancestors, descendants
from sinks.lineage_costs import costs, total
from sinks.rows import TABLES, AnyRow, CallRow, DocumentRow, LineageEdgeRow, PromptRow, SourceRow, VerdictRow

Make = Callable[..., Any]


def put(client: Client, *rows: AnyRow) -> None:
    for kind, table in TABLES.items():
        if of_kind := [row for row in rows if isinstance(row, kind)]:
            client.insert(table, of_kind, column_names=list(kind._fields))


def names(node: LineageNode) -> list[Any]:
    """The tree with its rows by what they are."""
    name = node.facts.get("what", node.kind) + ("*" if node.repeated else "")
    return [f"{node.role} {name}".lstrip(), *map(names, node.linked)]


class Call:
    """A call of two turns whose one exchange has two claims, each checked against a document, and a summary."""

    def __init__(self, make: Make, hours: int) -> None:
        """hours: later than others, so that its rows are others."""
        made: dict[str, Any] = {"source": "/weir/review/exchanges", "topic": "exchanges", "attributes": ""}
        first = make(SourceRow).row_id + (hours * 3_600_000 << 80)
        at = make(SourceRow).event_time
        turn, second = (
            make(SourceRow, row_id=first + n, author=who, text=f"words {n}", attributes=f'{{"turn":{n}}}', offset=n)
            for n, who in enumerate(("customer", "agent"))
        )
        self.turns = [turn, second]
        self.transcript = CallRow(
            "turns", 0, "acme", "c-1", 2, first + (1 << 80), 2, 0, "final", at, at, at + timedelta(seconds=1)
        )
        self.exchange = make(
            SourceRow,
            row_id=first + (2 << 80),
            text="both",
            broker_time=at + timedelta(milliseconds=250),
            **made,
        )
        self.claims = [
            make(SourceRow, row_id=first + (3 << 80) + n, offset=n, attributes='{"turn":1}')._replace(
                source="/weir/review/claims"
            )
            for n in range(2)
        ]
        self.document = DocumentRow(
            "acme", "policy-7", at, first - (1 << 80), False, "en", "documents", 0, 3, "all of it", at
        )
        self.findings = [
            make(
                VerdictRow, row_id=first + (4 << 80) + n, stage="check", output='{"evidence":"it says"}', offset=n
            )._replace(judged_at=at + timedelta(milliseconds=5))
            for n in range(2)
        ]
        self.summary = make(VerdictRow, row_id=first + (5 << 80), stage="summarize")
        links = [
            *((self.transcript, turn, "input") for turn in self.turns),
            (self.exchange, self.turns[1], "input"),
            (self.exchange, self.turns[0], "context"),
            *((claim, self.exchange, "input") for claim in self.claims),
            *((finding, claim, "input") for finding, claim in zip(self.findings, self.claims, strict=True)),
            *((finding, self.document, "document") for finding in self.findings),
            (self.summary, self.transcript, "input"),
        ]
        self.edges = [
            make(LineageEdgeRow, child=child.row_id, parent=parent.row_id, kind=kind) for child, parent, kind in links
        ]

    @property
    def rows(self) -> list[AnyRow]:
        return [
            *self.turns,
            self.transcript,
            self.exchange,
            *self.claims,
            self.document,
            *self.findings,
            self.summary,
            *self.edges,
        ]


@pytest.fixture(scope="module")
def call(client: Client, make: Make) -> Call:
    made = Call(make, 1)
    put(client, make(PromptRow), *made.rows)
    return made


def test_a_finding_leads_to_the_turns(client: Client, call: Call) -> None:
    node = ancestors(client, UUID(int=call.findings[0].row_id))
    assert node is not None
    assert names(node) == [
        "verdict",
        ["input claim", ["input exchange", ["input turn"], ["context turn"]]],
        ["document document"],
    ]
    assert node.facts["output"] == {"evidence": "it says"}
    claim, document = node.parents
    assert (claim.facts["turn"], claim.facts["made_by"]) == (1, "review/claims")
    said = claim.parents[0].parents[0].facts
    assert (said["turn"], said["author"], said["text"], said["made_by"]) == (1, "agent", "words 1", "")
    assert document.facts["document"] == "policy-7"
    assert document.facts["held_from"] == call.document.event_time
    assert "text" not in document.facts


def test_a_transcript_is_a_call_until_a_stage_has_read_it(client: Client, make: Make) -> None:
    call = Call(make, 3)
    put(client, *call.rows)
    node = ancestors(client, UUID(int=call.summary.row_id))
    assert node is not None
    assert names(node) == ["verdict", ["input call", ["input turn"], ["input turn"]]]
    assert (node.parents[0].facts["call"], node.parents[0].facts["closed_by"]) == ("c-1", "final")
    put(client, make(SourceRow, row_id=call.transcript.row_id, source="/weir/review/assemble", attributes=""))
    node = ancestors(client, UUID(int=call.summary.row_id))
    assert node is not None
    assert names(node) == ["verdict", ["input transcript", ["input turn"], ["input turn"]]]
    assert node.parents[0].facts["call"]["turns"] == 2


def test_what_a_turn_led_to(client: Client, call: Call) -> None:
    node = descendants(client, UUID(int=call.turns[1].row_id))
    assert node is not None
    assert names(node) == [
        "turn",
        ["input call", ["input verdict"]],
        ["input exchange", ["input claim", ["input verdict"]], ["input claim", ["input verdict"]]],
    ]
    assert node.children[1].children[0].facts["offset"] == 0
    assert set(node.as_dict()) == {"row_id", "kind", "role", "facts", "children"}


def test_what_was_checked_against_a_document(client: Client, call: Call) -> None:
    node = descendants(client, UUID(int=call.document.row_id))
    assert node is not None
    assert names(node) == ["document", ["document verdict"], ["document verdict"]]


def test_nothing_came_of_a_row(client: Client, call: Call) -> None:
    node = descendants(client, UUID(int=call.summary.row_id))
    assert node is not None
    assert (node.kind, node.children) == ("verdict", [])
    assert descendants(client, UUID(int=5)) is None


def test_a_row_with_two_ways_to_it_is_told_once(client: Client, make: Make, call: Call) -> None:
    both = make(VerdictRow, row_id=call.summary.row_id + 1, stage="both")
    call = Call(make, 2)
    put(
        client,
        both,
        *call.rows,
        *(make(LineageEdgeRow, child=both.row_id, parent=claim.row_id) for claim in call.claims),
    )
    node = ancestors(client, UUID(int=both.row_id))
    assert node is not None
    assert names(node) == [
        "verdict",
        ["input claim", ["input exchange", ["input turn"], ["context turn"]]],
        ["input claim", ["input exchange*"]],
    ]
    again = node.as_dict()["parents"][1]["parents"][0]
    assert again == {
        "row_id": str(UUID(int=call.exchange.row_id)),
        "kind": "source",
        "role": "input",
        "repeated": True,
    }


def test_more_rows_than_a_query_takes(client: Client, make: Make) -> None:
    first = make(SourceRow).row_id
    turns = [make(SourceRow, row_id=first + n, offset=n) for n in range(1100)]
    client.insert("source_rows_raw", turns, column_names=list(SourceRow._fields))
    edges = [make(LineageEdgeRow, child=first - 1, parent=turn.row_id) for turn in turns]
    client.insert("lineage_edges_raw", edges, column_names=list(LineageEdgeRow._fields))
    node = ancestors(client, UUID(int=first - 1))
    assert node is not None
    assert [parent.facts["offset"] for parent in node.parents] == list(range(1100))
    assert not node.cut
    cut = ancestors(client, UUID(int=first - 1), max_edges=1000)
    assert cut is not None
    assert (len(cut.parents), cut.cut) == (1000, True)


def test_what_the_stages_took(client: Client, make: Make, call: Call) -> None:
    node = descendants(client, UUID(int=call.exchange.row_id))
    assert node is not None
    stages = costs(node)
    assert [(stage.stage, stage.rows, stage.latency_ms) for stage in stages] == [
        ("review/claims", 2, 0),
        ("moderation/check", 2, 5),
        ("review/exchanges", 1, 250),
    ]
    assert total(stages).as_dict() == {
        "stage": "total",
        "rows": 5,
        "input_tokens": 60,
        "cached_tokens": 40,
        "output_tokens": 2,
        "cost_usd": pytest.approx(0.002),
        "engine_seconds": 0.5,
        "latency_ms": 250,
    }
