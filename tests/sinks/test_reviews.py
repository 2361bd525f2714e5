"""Reviews are found with the verdicts that they are of, and the last one by time holds."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings
from sinks.reviews import Reviews, reviews_of
from sinks.rows import TABLES, AnyRow, ReviewRow, SourceRow, VerdictRow

Make = Callable[..., Any]


@pytest.fixture
async def reviews(settings: StoreSettings) -> AsyncIterator[Reviews]:
    running = Reviews(settings)
    running.start()
    yield running
    await running.close()


def put(client: Client, *rows: AnyRow) -> None:
    for row in rows:
        client.insert(TABLES[type(row)], [row], column_names=list(type(row)._fields))


def later(make: Make, minutes: int, **columns: Any) -> ReviewRow:
    """A review so many minutes after the first."""
    first = make(ReviewRow)
    at = first.reviewed_at + timedelta(minutes=minutes)
    row: ReviewRow = make(ReviewRow, **{"review_id": first.review_id - minutes, "reviewed_at": at} | columns)
    return row


async def test_a_verdict_is_found_by_its_row_alone_with_its_event_and_reviews(
    tables: Client, reviews: Reviews, make: Make
) -> None:
    verdict, source = make(VerdictRow), make(SourceRow)
    third, first, second = later(make, 9), later(make, 0), later(make, 5)
    other = make(ReviewRow, row_id=verdict.row_id + 1)
    put(tables, source, verdict, third, first, second, other, make(VerdictRow, row_id=verdict.row_id + 1, stage="b"))
    found = await reviews.find(verdict.row_id)
    assert found is not None
    assert list(found.reviews) == [first, second, third]
    for name in ("pipeline", "stage", "operator", "decision", "label", "judged_at", "topic", "partition", "offset"):
        assert getattr(found, name) == getattr(verdict, name)
    assert (found.source, found.event_id, found.thread) == (source.source, source.event_id, source.thread)
    assert found.attributes == source.attributes


async def test_what_is_not_there_is_not_found(tables: Client, reviews: Reviews, make: Make) -> None:
    verdict = make(VerdictRow)
    put(tables, verdict, make(SourceRow))
    absent = [verdict.row_id + 1, verdict.source_row_id, -1, 1 << 128]
    assert await asyncio.gather(*map(reviews.find, absent)) == [None] * len(absent)


async def test_a_verdict_without_its_words_is_found(tables: Client, reviews: Reviews, make: Make) -> None:
    verdict = make(VerdictRow)
    put(tables, verdict)
    found = await reviews.find(verdict.row_id)
    assert found is not None
    assert (found.event_id, found.thread, list(found.reviews)) == ("", "", [])


async def test_the_latest_verdict_counts(tables: Client, reviews: Reviews, make: Make) -> None:
    verdict = make(VerdictRow)
    for seconds in (0, 2, 1):
        at = verdict.judged_at + timedelta(seconds=seconds)
        put(tables, verdict._replace(judged_at=at, label=f"after {seconds}"))
    found = await reviews.find(verdict.row_id)
    assert found is not None
    assert found.label == "after 2"


async def test_a_review_that_was_written_twice_stands_once(tables: Client, reviews: Reviews, make: Make) -> None:
    put(tables, make(VerdictRow), make(ReviewRow), make(ReviewRow))
    found = await reviews.find(make(VerdictRow).row_id)
    assert found is not None
    assert list(found.reviews) == [make(ReviewRow)]
    assert tables.query("SELECT count(), countIf(stands) FROM reviews").result_rows == [(1, 1)]


def test_the_view_shows_what_the_model_said_and_what_holds(tables: Client, make: Make) -> None:
    verdict = make(VerdictRow)
    put(tables, verdict, make(VerdictRow, row_id=verdict.row_id + 5))
    last = later(make, 9, decision="review", label="", reviewer="bob", comment="look again")
    put(tables, last, later(make, 0), later(make, 5, reviewer="eve"))
    columns = "row_id, model_decision, model_label, decision, label, reviewer, comment, reviewed_at, reviews, model"
    query = f"SELECT {columns} FROM reviewed_verdicts"
    assert tables.query(query, tz_mode="aware").result_rows == [
        (verdict.row_id, "allow", "ok", "review", "", "bob", "look again", last.reviewed_at, 3, "m-1")
    ]
    stands = "SELECT reviewer FROM reviews WHERE stands"
    assert tables.query(stands).result_rows == [("bob",)]


def test_of_two_of_a_moment_the_same_one_always_holds(tables: Client, make: Make) -> None:
    first = make(ReviewRow)
    put(tables, make(VerdictRow), later(make, 0, review_id=first.review_id + 1, decision="review"), first)
    assert tables.query("SELECT decision FROM reviewed_verdicts").result_rows == [("review",)]
    assert tables.query("SELECT decision FROM reviews WHERE stands").result_rows == [("review",)]
    assert reviews_of(tables, [first.row_id])[first.row_id][-1]["decision"] == "review"


def test_reviews_of_rows_are_told_in_the_order_of_time(tables: Client, make: Make) -> None:
    row = make(VerdictRow).row_id
    put(tables, later(make, 9, reviewer="bob"), later(make, 0), make(ReviewRow, row_id=row + 1, reviewer="eve"))
    found = reviews_of(tables, [row, row + 1, row + 2])
    told = {key: [one["reviewer"] for one in reviews] for key, reviews in found.items()}
    assert told == {row: ["ann", "bob"], row + 1: ["eve"]}


def test_the_queries_of_the_documentation_can_be_asked(tables: Client, make: Make, sql_folder: Path) -> None:
    put(tables, make(VerdictRow), make(SourceRow), make(ReviewRow))
    page = (sql_folder.parents[1] / "docs" / "reviews.md").read_text(encoding="utf-8")
    block = page.partition("```sql\n")[2].partition("```")[0]
    agreement, missed = (tables.query(query).result_rows for query in block.split(";\n") if query.strip())
    assert agreement == [("moderation", "moderate", "allow", 1, 0.0)]
    assert [row[1:] for row in missed] == [("block", "spam", "seen before", "hello")]
