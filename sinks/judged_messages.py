"""Messages that were judged, as far as the store has them: enough to publish them once more."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY, ask_named

# The place is the verdict's: a message that was published twice has its words twice, and one verdict.
_PLACES = """
SELECT row_id, source_row_id, topic, `partition`, `offset`, event_time, broker_time, tenant, lang
FROM verdicts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id IN {rows:Array(UInt128)}
"""
_WORDS = """
SELECT row_id, source, event_id, thread, author, text, attributes, `offset` FROM source_rows_raw
WHERE row_id IN {rows:Array(UInt128)} AND erased_at IS NULL ORDER BY written_at DESC LIMIT 1 BY row_id
"""
_CONTEXT = """
SELECT DISTINCT child, parent FROM lineage_edges_raw WHERE child IN {rows:Array(UInt128)} AND kind = 'context'
"""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message. verdict: row id of its verdict. attributes: JSON. earlier: row id and text of the messages that were
    read with it, in the order in which they were read.
    """

    verdict: int
    topic: str
    partition: int
    offset: int
    event_time: datetime
    broker_time: datetime
    tenant: str
    lang: str
    source: str
    event_id: str
    thread: str
    author: str
    text: str
    attributes: str
    earlier: Sequence[tuple[int, str]] = ()


def find(client: Client, pipeline: str, stage: str, rows: Sequence[int]) -> list[StoredMessage]:
    """The messages of these verdicts of a stage, in their order. Those whose words the store has no more, or
    were erased, are left out.

    rows: as many as a query takes. Raises clickhouse-connect's errors.
    """
    places = {
        place["row_id"]: place for place in ask_named(client, _PLACES, rows=list(rows), pipeline=pipeline, stage=stage)
    }
    earlier: dict[int, list[int]] = defaultdict(list)
    for edge in ask_named(client, _CONTEXT, rows=list(rows)):
        earlier[edge["child"]].append(edge["parent"])
    sources = {place["source_row_id"] for place in places.values()}
    words = _words(client, sorted(sources.union(*earlier.values())))
    found = []
    for row in rows:
        if row in places and (said := words.get(places[row]["source_row_id"])) is not None:
            read = sorted((words[parent]["offset"], parent) for parent in earlier[row] if parent in words)
            fields = said | places[row]  # both have an offset
            named = {name: fields[name] for name in StoredMessage.__slots__ if name in fields}
            texts = [(parent, words[parent]["text"]) for _, parent in read]
            found.append(StoredMessage(verdict=row, **named, earlier=texts))
    return found


def _words(client: Client, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    parts = (rows[start : start + KEYS_A_QUERY] for start in range(0, len(rows), KEYS_A_QUERY))
    return {said["row_id"]: said for part in parts for said in ask_named(client, _WORDS, rows=list(part))}
