"""A claim is checked against the version of a document that held when it was made."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings
from sinks.documents import Documents
from sinks.rows import TABLES, DocumentRow

MORNING = datetime(2026, 3, 4, 6, tzinfo=UTC)

Make = Callable[..., Any]


@pytest.fixture
async def documents(settings: StoreSettings) -> AsyncIterator[Documents]:
    opened = Documents(settings)
    opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def put(tables: Client, make: Make) -> Callable[..., None]:
    """`put(hours, text="...")`: a version that holds from so many hours after the morning on."""

    def version(hours: float, **columns: Any) -> None:
        time = MORNING + timedelta(hours=hours)
        given = {"event_time": time, "row_id": 1000 + round(hours * 10), "offset": 1} | columns
        tables.insert(TABLES[DocumentRow], [make(DocumentRow, **given)], column_names=list(DocumentRow._fields))

    return version


async def text(documents: Documents, hours: float, name: str = "page-1", tenant: str = "acme") -> str | None:
    found = await documents.find(tenant, name, MORNING + timedelta(hours=hours))
    return None if found is None else "withdrawn" if found.withdrawn else found.text


async def test_the_version_that_held_is_found(put: Callable[..., None], documents: Documents) -> None:
    put(5, text="second")
    put(0, text="first")
    expected = {-1: "first", 0: "first", 4.9: "first", 5: "second", 99: "second"}
    assert {hours: await text(documents, hours) for hours in expected} == expected
    found = await documents.find("acme", "page-1", MORNING + timedelta(hours=7))
    assert found is not None
    assert (found.row_id, found.held_from) == (1050, MORNING + timedelta(hours=5))


async def test_of_two_versions_of_one_time_the_last_in_the_topic_holds(
    put: Callable[..., None], documents: Documents
) -> None:
    put(0, text="later", offset=7, row_id=1)
    put(0, text="earlier", offset=3, row_id=2)
    assert await text(documents, 0) == "later"


async def test_a_version_that_is_read_again_stands_once(put: Callable[..., None], documents: Documents) -> None:
    put(0, text="first", offset=1)
    put(0, text="second", offset=2, row_id=7)
    put(0, text="first", offset=3, written_at=datetime.now(UTC))
    assert await text(documents, 1) == "first"


async def test_a_withdrawn_document_says_nothing_from_then_on(put: Callable[..., None], documents: Documents) -> None:
    put(0, text="first")
    put(2, text="", withdrawn=True)
    put(4, text="back")
    assert [await text(documents, hours) for hours in (-1, 1, 2, 3, 4)] == [
        "first",
        "first",
        "withdrawn",
        "withdrawn",
        "back",
    ]


async def test_tenants_and_names_are_told_apart(put: Callable[..., None], documents: Documents) -> None:
    put(0, text="of acme")
    put(0, text="of nobody", tenant="", row_id=2)
    put(0, text="another", document="page-2", row_id=3)
    assert await text(documents, 1) == "of acme"
    assert await text(documents, 1, tenant="") == "of nobody"
    assert await text(documents, 1, name="page-2") == "another"
    assert await text(documents, 1, name="page-2", tenant="") is None
    assert await text(documents, 1, name="' OR 1 = 1 --") is None
