"""What people said of verdicts, and the verdicts that they say it of."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, ask_named
from sinks.lookup import Lookup
from sinks.rows import ReviewRow
from sinks.session import Session

# Ids of a stage are sorted in its parts, so that an index of their ranges leaves few rows to read.
_VERDICTS = """
SELECT row_id, source_row_id, pipeline, stage, operator, tenant, lang, event_time, judged_at, topic, `partition`,
    `offset`, decision, label
FROM verdicts_raw WHERE row_id IN {rows:Array(UInt128)} ORDER BY judged_at DESC LIMIT 1 BY row_id
"""
_SOURCES = """
SELECT row_id, source, event_id, thread, attributes FROM source_rows_raw
WHERE row_id IN {rows:Array(UInt128)} ORDER BY written_at DESC LIMIT 1 BY row_id
"""
_COLUMNS = ", ".join(f"`{name}`" for name in ReviewRow._fields)
_REVIEWS = (
    f"SELECT {_COLUMNS} FROM reviews_raw FINAL WHERE row_id IN {{rows:Array(UInt128)}} "  # noqa: S608
    "ORDER BY reviewed_at, review_id"
)


@dataclass(frozen=True, slots=True)
class ReviewedVerdict:
    """A verdict as far as a review has to know it.

    source, event_id, thread, attributes: of its event; empty if the store has its words no more. reviews: those that
    the store has of it, the one whose word holds last.
    """

    row_id: int
    source_row_id: int
    pipeline: str
    stage: str
    operator: str
    tenant: str
    lang: str
    event_time: datetime
    judged_at: datetime
    topic: str
    partition: int
    offset: int
    decision: str
    label: str
    source: str
    event_id: str
    thread: str
    attributes: str
    reviews: Sequence[ReviewRow]


class Reviews:
    """Finds verdicts with their reviews, many at a time (`Lookup`)."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-reviews")
        self._verdicts = Lookup(self._session, _find)

    def start(self) -> None:
        """Begin to answer. Must be called inside the event loop."""
        self._verdicts.start("clickhouse-reviews")

    async def find(self, row_id: int) -> ReviewedVerdict | None:
        """The latest verdict with this row id, of whatever stage, or None if the store has none."""
        if not 0 <= row_id < 1 << 128:  # it would fail the query of everybody
            return None
        return await self._verdicts.find(row_id)

    async def close(self) -> None:
        """Stop. Callers that wait get CancelledError."""
        await self._verdicts.close()
        self._session.close()


def reviews_of(client: Client, rows: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    """What people said of these verdicts, by row id; the review whose word holds last.

    rows: as many as a query takes. Raises clickhouse-connect's errors.
    """
    names = ("reviewer", "reviewed_at", "decision", "label", "comment")
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for review in _reviews(client, rows):
        found[review.row_id].append({name: getattr(review, name) for name in names})
    return found


def _find(rows: Collection[int], client: Client) -> Mapping[int, ReviewedVerdict]:
    verdicts = ask_named(client, _VERDICTS, rows=sorted(rows))
    if not verdicts:
        return {}
    sources = {
        said.pop("row_id"): said
        for said in ask_named(client, _SOURCES, rows=sorted({v["source_row_id"] for v in verdicts}))
    }
    reviews: dict[int, list[ReviewRow]] = defaultdict(list)
    for review in _reviews(client, rows):
        reviews[review.row_id].append(review)
    lost = dict.fromkeys(("source", "event_id", "thread", "attributes"), "")
    return {
        verdict["row_id"]: ReviewedVerdict(
            **verdict, **sources.get(verdict["source_row_id"], lost), reviews=reviews[verdict["row_id"]]
        )
        for verdict in verdicts
    }


def _reviews(client: Client, rows: Collection[int]) -> list[ReviewRow]:
    return [ReviewRow(**found) for found in ask_named(client, _REVIEWS, rows=sorted(rows))]
