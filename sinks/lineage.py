"""From a row back to everything that it was made from."""

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from clickhouse_connect.driver.client import Client

_ANCESTORS = """
WITH RECURSIVE tree AS
(
    SELECT child, parent, kind FROM lineage_edges_raw WHERE child = {row:UInt128}
    UNION ALL
    SELECT child, parent, kind FROM lineage_edges_raw WHERE child IN (SELECT parent FROM tree)
)
SELECT DISTINCT child, parent, kind FROM tree LIMIT 10000
"""

_VERDICTS = """
SELECT row_id, pipeline, pipeline_version, stage, operator, decision, label, confidence, scores, model, prompt_hash,
    parts, input_tokens, cached_tokens, output_tokens, cost_usd, latency_ms, judged_at,
    ifNull(toString(reused_from_uuid), '') AS reused_from
FROM verdicts WHERE row_id IN {rows:Array(UInt128)}
"""

_SOURCES = """
SELECT row_id, topic, `partition`, `offset`, source, event_id, event_time, tenant, thread, author, lang, text
FROM source_rows WHERE row_id IN {rows:Array(UInt128)}
"""


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One row and the rows that it was made from.

    row_id: in UUID form. kind: `verdict`, `source`, or `missing` where the store has an edge to it but no row. role:
    what it was to its child, `input`, `reused` or `context`; empty for the row that was asked for. facts: columns of
    its table.
    """

    row_id: str
    kind: str
    role: str
    facts: dict[str, Any]
    parents: list["LineageNode"] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The tree as plain values, for JSON: numbers, text, and times in RFC 3339."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def ancestors(client: Client, row_id: UUID) -> LineageNode | None:
    """The tree above a row, or None if the store knows no such row. Raises clickhouse-connect's errors."""
    edges: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for child, parent, kind in client.query(_ANCESTORS, parameters={"row": row_id.int}).result_rows:
        edges[child].append((kind, parent))
    rows = sorted({row_id.int, *edges, *(parent for parents in edges.values() for _, parent in parents)})
    facts = {**_facts(client, "source", _SOURCES, rows), **_facts(client, "verdict", _VERDICTS, rows)}
    if row_id.int not in facts and row_id.int not in edges:
        return None
    return _node(row_id.int, "", edges, facts)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def _facts(client: Client, kind: str, query: str, rows: list[int]) -> dict[int, tuple[str, dict[str, Any]]]:
    result = client.query(query, parameters={"rows": rows}, tz_mode="aware")
    return {int(row.pop("row_id")): (kind, row) for row in map(dict, result.named_results())}


def _node(
    row: int, role: str, edges: dict[int, list[tuple[str, int]]], facts: dict[int, tuple[str, dict[str, Any]]]
) -> LineageNode:
    kind, columns = facts.get(row, ("missing", {}))
    parents = sorted(edges.get(row, []), key=lambda edge: (edge_rank(edge[0]), *_order(edge[1], facts)))
    return LineageNode(
        str(UUID(int=row)), kind, role, columns, [_node(parent, edge, edges, facts) for edge, parent in parents]
    )


def edge_rank(kind: str) -> int:
    """The place of a kind of edge: what was judged, against what, where the answer is from, what was read, others."""
    return {"input": 0, "document": 1, "reused": 2, "context": 3}.get(kind, 4)


def _order(row: int, facts: dict[int, tuple[str, dict[str, Any]]]) -> tuple[int, int]:
    """Row ids sort by event time; within a millisecond, the place in the topic tells what came first."""
    return row >> 80, int(facts.get(row, ("", {}))[1].get("offset", 0))
