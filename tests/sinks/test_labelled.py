"""Texts of a stage come with what a person said of them, or else the model, in pages."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.labelled import Band, labelled, rows_by_band
from sinks.rows import TABLES, AnyRow, ReviewRow, SourceRow, VerdictRow

Make = Callable[..., Any]

BEGAN = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
STAGE = ("moderation", "moderate", "allow")


def put(client: Client, *rows: AnyRow) -> None:
    for row in rows:
        client.insert(TABLES[type(row)], [row], column_names=list(type(row)._fields))


def judged(make: Make, number: int, **columns: Any) -> list[AnyRow]:
    """An event so many milliseconds after the first, and its verdict."""
    verdict = make(VerdictRow)
    source, row = verdict.source_row_id + (number << 80), verdict.row_id + (number << 80)
    at = BEGAN + timedelta(milliseconds=number)
    return [
        make(SourceRow, row_id=source, event_time=at, text=f"words {number}"),
        make(VerdictRow, **{"row_id": row, "source_row_id": source, "event_time": at} | columns),
    ]


def review(make: Make, number: int, decision: str, minutes: int = 0) -> ReviewRow:
    first = make(ReviewRow)
    at = first.reviewed_at + timedelta(minutes=minutes)
    row = first.row_id + (number << 80)
    made: ReviewRow = make(ReviewRow, row_id=row, review_id=row + 50 - minutes, reviewed_at=at, decision=decision)
    return made


@pytest.fixture
def stage(tables: Client, make: Make) -> Client:
    decisions = ["allow", "block", "review", "allow", "block"]
    for number, decision in enumerate(decisions):
        put(tables, *judged(make, number, decision=decision, lang="en" if number else "pt"))
    put(tables, *judged(make, 7, stage="another"), *judged(make, 8, pipeline="another"))
    put(tables, review(make, 3, "allow", 9), review(make, 3, "block", 30), review(make, 3, "allow", 20))
    put(tables, review(make, 4, "allow"))
    return tables


@pytest.mark.parametrize("page_rows", [1, 2, 5, 1000])
def test_the_last_review_counts_and_else_the_model(stage: Client, page_rows: int) -> None:
    pages = list(labelled(stage, *STAGE, BEGAN, 10, page_rows))
    assert all(0 < len(page) <= page_rows for page in pages)
    assert [(one.text, one.lang, one.flagged, one.by, one.overturned) for page in pages for one in page] == [
        ("words 0", "pt", False, "model", False),
        ("words 1", "en", True, "model", False),
        ("words 2", "en", True, "model", False),
        ("words 3", "en", True, "person", True),
        ("words 4", "en", False, "person", True),
    ]
    assert [(one.label, one.judged) for page in pages for one in page][2:] == [
        ("ok", True),
        ("spam", True),
        ("spam", True),
    ]


def test_only_events_since_then(stage: Client) -> None:
    (page,) = labelled(stage, *STAGE, BEGAN + timedelta(milliseconds=3), 10)
    assert [one.text for one in page] == ["words 3", "words 4"]
    assert list(labelled(stage, *STAGE, BEGAN + timedelta(days=1), 10)) == []
    assert len(next(labelled(stage, *STAGE, datetime(1960, 1, 1, tzinfo=UTC), 10))) == 5


def test_what_the_model_did_not_read_counts_only_if_a_person_did(stage: Client, make: Make) -> None:
    for number in (10, 11):
        put(stage, *judged(make, number, decision="review", confidence_source="prior", model="prior"))
    put(stage, review(make, 11, "allow"))
    (page,) = labelled(stage, *STAGE, BEGAN + timedelta(milliseconds=10), 10)
    assert [(one.text, one.flagged, one.by, one.judged) for one in page] == [("words 11", False, "person", False)]


def test_a_verdict_whose_words_are_lost_is_left_out(stage: Client, make: Make) -> None:
    put(stage, judged(make, 10)[1], *judged(make, 11))
    pages = list(labelled(stage, *STAGE, BEGAN + timedelta(milliseconds=10), 10, 1))
    assert [[one.text for one in page] for page in pages] == [[], ["words 11"]]


def test_rows_are_counted_by_the_risk_that_the_screen_saw(stage: Client, make: Make) -> None:
    seen = {"screen": "s-1", "risk": 0.31}
    decided = seen | {"confidence_source": "screen", "tier": "screen"}
    put(stage, *judged(make, 10, **seen), *judged(make, 11, **decided), *judged(make, 12, **decided | {"risk": 0.39}))
    put(stage, *judged(make, 13, screen="s-1", risk=1.0), *judged(make, 14, screen="s-2", risk=0.31))
    put(stage, *judged(make, 15, **seen, confidence_source="prior"), *judged(make, 16, **seen, reused_from=7))
    assert rows_by_band(stage, *STAGE[:2], BEGAN, 10) == {
        Band("", 0): (5, 5),
        Band("s-1", 3): (3, 1),
        Band("s-1", 9): (1, 1),
        Band("s-2", 3): (1, 1),
    }
    assert set(rows_by_band(stage, *STAGE[:2], BEGAN + timedelta(milliseconds=13), 10)) == {
        Band("s-1", 9),
        Band("s-2", 3),
    }
    put(stage, review(make, 11, "block"))
    (page,) = labelled(stage, *STAGE, BEGAN + timedelta(milliseconds=10), 10)
    assert {one.text: (one.band, one.judged) for one in page} == {
        "words 10": (Band("s-1", 3), True),
        "words 11": (Band("s-1", 3), False),
        "words 13": (Band("s-1", 9), True),
        "words 14": (Band("s-2", 3), True),
        "words 16": (Band("s-1", 3), True),
    }
