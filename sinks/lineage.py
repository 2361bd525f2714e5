"""From a row back to everything that it was made from, and on to everything that was made from it."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY

MAX_EDGES = 50_000

Direction = Literal["parents", "children"]
_Edges = dict[int, list[tuple[str, int]]]
_Facts = dict[int, tuple[str, dict[str, Any]]]

_STEPS = 4  # that one query goes up: from a finding to its turns, and as far as to see that these have no parents


def _steps_up() -> str:
    """A query for the edges within some steps above rows. It costs less than a recursive one."""
    reached = "{rows:Array(UInt128)}"
    for _ in range(_STEPS - 1):
        reached = f"(SELECT arrayJoin([child, parent]) FROM lineage_edges_raw WHERE child IN {reached})"  # noqa: S608
    return f"SELECT child, parent, kind FROM lineage_edges_raw WHERE child IN {reached} LIMIT {{limit:UInt32}}"  # noqa: S608


_ANCESTORS = _steps_up()
# Only a recursive query uses the projection that leads down. A judgement that was taken over can lead back to where it
# began, once rows were judged again: the way ends there, and `_walk` begins anew.
_DESCENDANTS = """
WITH RECURSIVE tree AS
(
    SELECT child, parent, kind FROM lineage_edges_raw WHERE parent IN {rows:Array(UInt128)}
    UNION ALL
    SELECT child, parent, kind FROM lineage_edges_raw
    WHERE parent IN (SELECT child FROM tree WHERE kind != 'reused')
)
SELECT child, parent, kind FROM tree LIMIT {limit:UInt32}
"""

# Facts are JSON, so that all of them come with one query: to begin one takes longer than to find some rows. A row that
# stands in its table more than once comes more than once: to pick the last one here costs less than FINAL. New names
# are given in a subquery, for formatRow does not get them from shards of a cluster.
_SOURCES = """
SELECT row_id, 'source' AS kind, written_at AS at, formatRowNoNewline('JSONEachRow', topic, `partition`, `offset`,
    source, event_id, event_time, broker_time, tenant, thread, author, lang, text, attributes, erased_at) AS facts
FROM source_rows_raw WHERE row_id IN {source:Array(UInt128)}
"""
_VERDICTS = """
SELECT row_id, 'verdict' AS kind, judged_at AS at, formatRowNoNewline('JSONEachRow', pipeline, pipeline_version, stage,
    operator, decision, label, confidence, confidence_source, scores, output, model, prompt_hash, prompt_version, parts,
    input_tokens, cached_tokens, output_tokens, cost_usd, engine_seconds, latency_ms, event_time, judged_at, tenant,
    reused_from) AS facts
FROM (SELECT * REPLACE (toString(reused_from) AS reused_from) FROM verdicts_raw
    WHERE row_id IN {verdict:Array(UInt128)})
"""
_DOCUMENTS = """
SELECT row_id, 'document' AS kind, written_at AS at, formatRowNoNewline('JSONEachRow', document,
    held_from, withdrawn, tenant, lang, topic, `partition`, `offset`, erased_at) AS facts
FROM (SELECT *, event_time AS held_from FROM documents_raw WHERE row_id IN {document:Array(UInt128)})
"""
_CALLS = """
SELECT row_id, 'call' AS kind, closed_at AS at, formatRowNoNewline('JSONEachRow', call, tenant, topic, `partition`,
    turns, missing, closed_by, started, ended, closed_at) AS facts
FROM calls_raw WHERE row_id IN {call:Array(UInt128)}
"""
# The names of what is summed up are lost on the way from a shard, so that the facts are made where the shards meet.
_LABELS = """
SELECT toUInt128(0) AS row_id, 'prompt' AS kind, at, formatRowNoNewline('JSONEachRow', prompt_hash, labels) AS facts
FROM (SELECT prompt_hash, max(used_at) AS at, any(labels) AS labels FROM prompts_raw GROUP BY prompt_hash)
"""
_QUERIES = {"source": _SOURCES, "verdict": _VERDICTS, "document": _DOCUMENTS, "call": _CALLS}
_TIMES = ("event_time", "broker_time", "judged_at", "held_from", "started", "ended", "closed_at", "erased_at")
_ALONE = {"max_threads": 1}  # a second thread takes longer to start than it saves
_MADE_HERE = "/weir/"


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One row and the rows that are linked to it.

    row_id: in UUID form. kind: `verdict`; `source` for the words of an event; `document`; `call` for a transcript that
    no stage has read yet; or `missing` where the store has an edge to it but no row. role: the kind of the edge to the
    node that it stands under, `input`, `document`, `reused` or `context`; empty for the row that was asked for. facts:
    columns of its table, and of a `source` also `what` it is (message, turn, transcript, exchange or claim) and the
    stage that it is `made_by`; `erased_at` where words were erased. linked: its parents or its children. repeated: it
    is told in full elsewhere in the tree, and here only named. cut: the tree has more edges than were read.
    """

    row_id: str
    kind: str
    role: str
    facts: dict[str, Any]
    linked: list["LineageNode"] = field(default_factory=list)
    direction: Direction = "parents"
    repeated: bool = False
    cut: bool = False

    @property
    def parents(self) -> list["LineageNode"]:
        """What it was made from."""
        return self.linked if self.direction == "parents" else []

    @property
    def children(self) -> list["LineageNode"]:
        """What was made from it."""
        return self.linked if self.direction == "children" else []

    def walk(self) -> Iterator["LineageNode"]:
        """This node and those below it in the tree, each row once."""
        if not self.repeated:
            yield self
        for node in self.linked:
            yield from node.walk()

    def as_dict(self) -> dict[str, Any]:
        """The tree as plain values, for JSON: numbers, text, and times in RFC 3339."""
        told: dict[str, Any] = {"row_id": self.row_id, "kind": self.kind, "role": self.role}
        if self.repeated:
            return told | {"repeated": True}
        told["facts"] = _plain(self.facts)
        if self.cut:
            told["cut"] = True
        return told | {self.direction: [node.as_dict() for node in self.linked]}


def ancestors(client: Client, row_id: UUID, max_edges: int = MAX_EDGES) -> LineageNode | None:
    """The tree above a row, or None if the store knows no such row. Raises clickhouse-connect's errors."""
    return _tree(client, row_id.int, "parents", max_edges)


def descendants(client: Client, row_id: UUID, max_edges: int = MAX_EDGES) -> LineageNode | None:
    """The tree of what a row was an input of, a document or context of, and so on, or None if the store knows no such
    row. Raises clickhouse-connect's errors.
    """
    return _tree(client, row_id.int, "children", max_edges)


def edge_rank(kind: str) -> int:
    """The place of a kind of edge: what was judged, against what, where the answer is from, what was read, others."""
    return {"input": 0, "document": 1, "reused": 2, "context": 3}.get(kind, 4)


def _tree(client: Client, row: int, direction: Direction, max_edges: int) -> LineageNode | None:
    found = _walk(client, row, direction, max_edges)
    cut = len(found) > max_edges
    edges = found[:max_edges]
    facts = _facts(client, row, edges)
    linked: _Edges = defaultdict(list)
    for child, parent, kind in edges:
        if kind != "reused" or _reuses(facts, child, parent):
            near, far = (child, parent) if direction == "parents" else (parent, child)
            linked[near].append((kind, far))
    if row not in facts and not edges:
        return None
    return _node(row, "", direction, linked, facts, set(), cut)


def _walk(client: Client, row: int, direction: Direction, max_edges: int) -> list[tuple[int, int, str]]:
    """The edges of the tree, each once; one more than `max_edges` if there are more."""
    up = direction == "parents"
    query, steps = (_ANCESTORS, _STEPS) if up else (_DESCENDANTS, max_edges)
    edges: dict[tuple[int, int, str], None] = {}
    begun: set[int] = set()
    begin = {row}
    while begin and len(edges) <= max_edges:
        rows = sorted(begin)[:KEYS_A_QUERY]
        parameters = {"rows": rows, "limit": max_edges + 1}
        found = client.query(query, parameters=parameters, settings=_ALONE).result_rows
        edges |= dict.fromkeys((child, parent, kind) for child, parent, kind in found)
        next_to: dict[int, set[int]] = defaultdict(set)
        for child, parent, kind in found:
            near, far = (child, parent) if up else (parent, child)
            (begin if kind == "reused" else next_to[near]).add(far)
        reached = set(rows)
        for _ in range(steps):
            begun |= reached
            reached = {far for near in reached for far in next_to.get(near, ())} - begun
            if not reached:
                break
        begin = (begin | reached) - begun
    return list(edges)[: max_edges + 1]


def _reuses(facts: _Facts, child: int, parent: int) -> bool:
    """Whether a verdict's judgement still is that of the other: a rerun leaves the edges of its old version behind."""
    kind, columns = facts.get(child, ("missing", {}))
    return kind != "verdict" or columns["reused_from"] == str(UUID(int=parent))


def _facts(client: Client, row: int, edges: Collection[tuple[int, int, str]]) -> _Facts:
    rows = {row, *(child for child, _, _ in edges), *(parent for _, parent, _ in edges)}
    documents = {parent for _, parent, kind in edges if kind == "document"}
    made = {row, *(child for child, _, _ in edges), *(parent for _, parent, kind in edges if kind == "reused")}
    facts = _look_up(client, {"source": rows - documents, "verdict": made, "document": documents})
    with_context = {child for child, _, kind in edges if kind == "context"}
    whole = {row for row in facts.keys() - with_context if _may_be_transcript(*facts[row])}
    unknown = rows - facts.keys()
    others = _look_up(client, {"document": unknown - documents, "call": whole | unknown})
    for known, (kind, columns) in facts.items():
        if kind == "source":
            _describe(columns, others[known][1] if known in others else None)
    return others | facts


def _look_up(client: Client, wanted: Mapping[str, Collection[int]]) -> _Facts:
    """What the store has of these rows of each kind, in its last version."""
    facts: _Facts = {}
    last: dict[int, datetime] = {}
    labels: dict[str, list[str]] = {}
    parts = {kind: sorted(rows) for kind, rows in wanted.items()}
    while any(parts.values()):
        asked = {kind: rows[:KEYS_A_QUERY] for kind, rows in parts.items() if rows}
        parts = {kind: rows[KEYS_A_QUERY:] for kind, rows in parts.items()}
        query = " UNION ALL ".join([*(_QUERIES[kind] for kind in asked), *([_LABELS] if "verdict" in asked else ())])
        for row, kind, at, told in client.query(query, parameters=asked).result_rows:
            columns = orjson.loads(told)
            if kind == "prompt":
                labels[columns["prompt_hash"]] = columns["labels"]
            elif row not in last or last[row] <= at:
                facts[row], last[row] = (kind, columns), at
    for kind, columns in facts.values():
        _read(kind, columns, labels)
    return facts


def _read(kind: str, columns: dict[str, Any], labels: Mapping[str, list[str]]) -> None:
    """Give values their types, and the scores of a verdict their names."""
    if columns.get("erased_at", "") is None:
        del columns["erased_at"]
    for name in columns.keys() & _TIMES:
        columns[name] = datetime.fromisoformat(columns[name]).replace(tzinfo=UTC)
    if kind == "verdict":
        columns["scores"] = dict(zip(labels.get(columns["prompt_hash"], ()), columns["scores"], strict=False))
        columns["output"] = orjson.loads(columns["output"] or "{}")
        reused = int(columns["reused_from"])
        columns["reused_from"] = str(UUID(int=reused)) if reused else ""
    if kind == "source":
        columns["attributes"] = orjson.loads(columns["attributes"] or "{}")
        columns["turn"] = columns["attributes"].get("turn")
        columns["made_by"] = _made_by(columns["source"])


def _may_be_transcript(kind: str, columns: Mapping[str, Any]) -> bool:
    return kind == "source" and bool(columns["made_by"]) and columns["turn"] is None


def _made_by(source: str) -> str:
    """`pipeline/stage` of a message that a stage made; empty for those of others."""
    name = source.removeprefix(_MADE_HERE)
    return name if name != source and name.count("/") == 1 else ""


def _describe(source: dict[str, Any], call: dict[str, Any] | None) -> None:
    """Say what a row of words is."""
    if call is not None:
        source["what"], source["call"] = "transcript", call
    elif source["made_by"]:
        source["what"] = "exchange" if source["turn"] is None else "claim"
    else:
        source["what"] = "message" if source["turn"] is None else "turn"


def _node(
    row: int, role: str, direction: Direction, edges: _Edges, facts: _Facts, told: set[int], cut: bool = False
) -> LineageNode:
    kind, columns = facts.get(row, ("missing", {}))
    name = str(UUID(int=row))
    if row in told:
        return LineageNode(name, kind, role, columns, [], direction, repeated=True)
    told.add(row)
    order = sorted(edges.get(row, ()), key=lambda edge: (edge_rank(edge[0]), *_order(edge[1], facts)))
    linked = [_node(other, edge, direction, edges, facts, told) for edge, other in order]
    return LineageNode(name, kind, role, columns, linked, direction, cut=cut)


def _order(row: int, facts: _Facts) -> tuple[int, int]:
    """Row ids sort by event time; within a millisecond, the place in the topic tells what came first."""
    return row >> 80, int(facts.get(row, ("", {}))[1].get("offset", 0))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
