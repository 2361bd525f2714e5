"""Calls that are being put together, as far as the store has them: what the next worker goes on with."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import CONSISTENT, KEYS_A_QUERY, StoreSettings
from sinks.lookup import Lookup
from sinks.session import Session

# Calls that have more messages than their last transcript. Only turns that were written lately are read.
_OPEN = """
SELECT t.tenant, t.call
FROM
(
    SELECT tenant, call, uniqExact(row_id) AS messages
    FROM turns_raw
    WHERE topic = {topic:String} AND `partition` = {partition:UInt32}
    GROUP BY tenant, call
    HAVING max(written_at) >= {since:DateTime64(3, 'UTC')}
) AS t
LEFT ANY JOIN
(
    SELECT tenant, call, max(messages) AS messages
    FROM calls_raw
    WHERE topic = {topic:String} AND `partition` = {partition:UInt32}
    GROUP BY tenant, call
) AS c USING (tenant, call)
WHERE t.messages > c.messages
"""
_TURNS = """
SELECT tenant, call, number, row_id, `offset`, final, documents, event_time
FROM turns_raw FINAL
WHERE topic = {topic:String} AND `partition` = {partition:UInt32}
    AND (call, tenant) IN {calls:Array(Tuple(String, String))}
"""
_WORDS = """
SELECT row_id, author, lang, text FROM source_rows_raw FINAL WHERE row_id IN {rows:Array(UInt128)}
"""
_CLOSED = """
SELECT tenant, call, argMax(row_id, (messages, closed_at))
FROM calls_raw
WHERE topic = {topic:String} AND `partition` = {partition:UInt32}
    AND (call, tenant) IN {calls:Array(Tuple(String, String))}
GROUP BY tenant, call
"""


class CallKey(NamedTuple):
    """A call and the partition that its turns stand in."""

    topic: str
    partition: int
    tenant: str
    call: str


class StoredTurn(NamedTuple):
    """A turn of a call. number: its place; offset: of its message."""

    number: int
    row_id: int
    offset: int
    final: bool
    documents: tuple[str, ...]
    time: datetime
    speaker: str
    lang: str
    text: str


@dataclass(frozen=True, slots=True)
class StoredCall:
    """turns: in no order. transcript: row id of its last transcript; 0 if there was none."""

    turns: list[StoredTurn]
    transcript: int


class Calls:
    """Finds calls, many at a time (`Lookup`)."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-calls")
        self._calls = Lookup(self._session, _find)

    def start(self) -> None:
        """Begin to answer. Must be called inside the event loop."""
        self._calls.start("clickhouse-calls")

    async def find(self, key: CallKey) -> StoredCall | None:
        """What is known of a call; None for nothing."""
        return await self._calls.find(key)

    async def open(self, topic: str, partition: int, since: datetime) -> list[CallKey]:
        """Calls of a partition that have messages which no transcript has; only those with any stored after `since`."""
        return await self._session.run(partial(_open, topic, partition, since))

    async def close(self) -> None:
        """Stop. Callers that wait get CancelledError."""
        await self._calls.close()
        self._session.close()


def _open(topic: str, partition: int, since: datetime, client: Client) -> list[CallKey]:
    parameters = {"topic": topic, "partition": partition, "since": since}
    rows = client.query(_OPEN, parameters=parameters, settings=CONSISTENT).result_rows
    return [CallKey(topic, partition, tenant, call) for tenant, call in rows]


def _find(keys: Collection[CallKey], client: Client) -> Mapping[CallKey, StoredCall]:
    partitions: dict[tuple[str, int], list[tuple[str, str]]] = defaultdict(list)
    for key in keys:
        partitions[key.topic, key.partition].append((key.call, key.tenant))
    found: dict[CallKey, StoredCall] = {}
    for (topic, partition), calls in partitions.items():
        found |= _of_partition(topic, partition, calls, client)
    return found


def _of_partition(
    topic: str, partition: int, calls: list[tuple[str, str]], client: Client
) -> Mapping[CallKey, StoredCall]:
    place = {"topic": topic, "partition": partition, "calls": calls}
    turns = client.query(_TURNS, parameters=place, settings=CONSISTENT, tz_mode="aware").result_rows
    ids = [row_id for _, _, _, row_id, *_ in turns]
    words: dict[int, tuple[str, str, str]] = {}
    for start in range(0, len(ids), KEYS_A_QUERY):
        rows = {"rows": ids[start : start + KEYS_A_QUERY]}
        words |= {row: said for row, *said in client.query(_WORDS, parameters=rows, settings=CONSISTENT).result_rows}
    closed = client.query(_CLOSED, parameters=place, settings=CONSISTENT).result_rows
    transcripts = {(tenant, call): row_id for tenant, call, row_id in closed}
    found: dict[CallKey, list[StoredTurn]] = defaultdict(list)
    for tenant, call, number, row_id, offset, final, documents, time in turns:
        if row_id in words:  # a row of the store's own TTL leaves the turn behind
            turn = StoredTurn(number, row_id, offset, final, tuple(documents), time, *words[row_id])
            found[CallKey(topic, partition, tenant, call)].append(turn)
    return {key: StoredCall(turns, transcripts.get((key.tenant, key.call), 0)) for key, turns in found.items()}
