"""Verdicts that were stored before, so that nobody pays twice for a judgement."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, ask
from sinks.lineage import edge_rank
from sinks.lookup import Lookup
from sinks.rows import VerdictRow
from sinks.session import Session

_VERDICTS = """
SELECT row_id, source_row_id, pipeline, pipeline_version, stage, operator, tenant, lang, event_time, broker_time,
    judged_at, topic, `partition`, `offset`, decision, label, scores, confidence, model, prompt_hash, parts,
    input_tokens, cached_tokens, output_tokens, cost_usd, latency_ms, reused_from, output, confidence_source,
    engine_seconds, prompt_version, tier, screen, risk, audited
FROM verdicts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id IN {rows:Array(UInt128)}
"""
_LABELS = """
SELECT prompt_hash, any(labels) FROM prompts_raw WHERE prompt_hash IN {hashes:Array(String)} GROUP BY prompt_hash
"""
# The rows of a stage stand in the order of their events, so that this ends at the first one that it finds.
_NEWEST = """
SELECT event_time FROM verdicts_raw
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND topic = {topic:String}
    AND `partition` = {partition:UInt32}
ORDER BY row_id DESC LIMIT 1
"""
# Offsets grow with time, so that an index of their ranges leaves few rows to read.
_LAST = """
SELECT max(`offset`) FROM verdicts_raw
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND topic = {topic:String}
    AND `partition` = {partition:UInt32} AND `offset` >= {offset:UInt64}
HAVING count() > 0
"""
_EDGES = "SELECT DISTINCT child, parent, kind FROM lineage_edges_raw WHERE child IN {rows:Array(UInt128)}"


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A verdict as it was written.

    row: times are aware, in UTC. labels: the names of `row.scores`; empty if the store has lost the prompt. parents:
    row id and kind of what the verdict was made from; its input first, then the verdict that was reused, then context
    in the order of event time.
    """

    row: VerdictRow
    labels: list[str]
    parents: list[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Known:
    """What the store has of one partition of a topic, for one stage.

    last_offset: the highest offset that has a verdict, from some offset on; -1 if none has. newest: time of the newest
    event that has one; None if none has.
    """

    last_offset: int
    newest: datetime | None


class _Key(NamedTuple):
    pipeline: str
    stage: str
    row_id: int


class Judged:
    """Finds verdicts by their row ids, many at a time (`Lookup`)."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-judged")
        self._verdicts = Lookup(self._session, _find)

    def start(self) -> None:
        """Begin to answer. Must be called inside the event loop."""
        self._verdicts.start("clickhouse-judged")

    async def find(self, pipeline: str, stage: str, row_id: int) -> StoredVerdict | None:
        """The latest verdict of a stage with this row id, or None if the store has none."""
        if not 0 <= row_id < 1 << 128:  # it would fail the query of everybody
            return None
        return await self._verdicts.find(_Key(pipeline, stage, row_id))

    async def known(self, pipeline: str, stage: str, topic: str, partition: int, offset: int) -> Known:
        """What the store has of a partition, from `offset` on. Waits while the store is unavailable."""
        place = {"pipeline": pipeline, "stage": stage, "topic": topic, "partition": partition}
        return await self._session.run(partial(_known, place, offset))

    async def close(self) -> None:
        """Stop. Callers that wait get CancelledError."""
        await self._verdicts.close()
        self._session.close()


def _known(place: dict[str, Any], offset: int, client: Client) -> Known:
    newest = ask(client, _NEWEST, **place)
    last = ask(client, _LAST, offset=offset, **place) if newest else []
    return Known(int(last[0][0]) if last else -1, newest[0][0] if newest else None)


def _find(keys: Iterable[_Key], client: Client) -> dict[_Key, StoredVerdict]:
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for key in keys:
        groups[key.pipeline, key.stage].append(key.row_id)
    rows = [row for (pipeline, stage), ids in groups.items() for row in _rows(client, pipeline, stage, ids)]
    if not rows:
        return {}
    hashes = sorted({row.prompt_hash for row in rows})
    labels: dict[str, list[str]] = dict(ask(client, _LABELS, hashes=hashes))
    parents: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for child, parent, kind in ask(client, _EDGES, rows=sorted({row.row_id for row in rows})):
        parents[child].append((parent, kind))
    return {
        _Key(row.pipeline, row.stage, row.row_id): StoredVerdict(
            row,
            list(labels.get(row.prompt_hash, ())),
            sorted(parents[row.row_id], key=lambda edge: (edge_rank(edge[1]), *edge)),
        )
        for row in rows
    }


def _rows(client: Client, pipeline: str, stage: str, ids: list[int]) -> list[VerdictRow]:
    return [VerdictRow(*values) for values in ask(client, _VERDICTS, pipeline=pipeline, stage=stage, rows=ids)]
