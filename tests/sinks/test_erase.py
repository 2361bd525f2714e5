"""What an author wrote leaves every table and view, and nothing else does."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from sinks import judged_messages
from sinks.clickhouse import StoreSettings, connect
from sinks.documents import Documents
from sinks.erase import Author, found, record, sweep
from sinks.erasures import ErasureLog, digest_of
from sinks.lineage import ancestors
from sinks.rows import (
    TABLES,
    AnyRow,
    CallRow,
    DocumentRow,
    LineageEdgeRow,
    ReviewRow,
    SourceRow,
    TurnRow,
    VerdictRow,
)

Make = Callable[..., Any]

ANN = "u-ann-4711"
WORDS = "zebra"
NOW = datetime.now(UTC)
(MESSAGE, REPLY, TRANSCRIPT, CLAIM, OTHER, PAGE) = range(10, 16)
(ON_MESSAGE, ON_REPLY, ON_CLAIM, ON_OTHER) = range(20, 24)


def put(client: Client, *rows: AnyRow) -> None:
    for row in rows:
        client.insert(TABLES[type(row)], [row], column_names=list(type(row)._fields))


def everything(client: Client) -> Iterator[tuple[str, str]]:
    """Each row of each table and view of the database, as text."""
    names = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    for (name,) in names:
        for row in client.query(f"SELECT toString(tuple(*)) FROM {name}").result_rows:
            yield name, row[0]


def holding(client: Client, *words: str) -> set[str]:
    return {name for name, row in everything(client) if any(word in row for word in words)}


@pytest.fixture
def written(tables: Client, make: Make) -> Client:
    """Ann's message, a reply that was judged with it, a transcript and a claim of it, a page of hers; and what others
    wrote.
    """

    def said(row_id: int, text: str, **columns: Any) -> SourceRow:
        row: SourceRow = make(SourceRow, row_id=row_id, text=text, **{"author": "bob", "attributes": ""} | columns)
        return row

    def judged(row_id: int, source: int, output: str = "") -> VerdictRow:
        row: VerdictRow = make(VerdictRow, row_id=row_id, source_row_id=source, output=output)
        return row

    def edge(child: int, parent: int, kind: str = "input") -> LineageEdgeRow:
        row: LineageEdgeRow = make(LineageEdgeRow, child=child, parent=parent, kind=kind)
        return row

    quoted = f'{{"evidence":"{WORDS}"}}'
    put(
        tables,
        said(MESSAGE, f"{WORDS} one", author=ANN, thread=ANN, event_id=f"{ANN}/1", attributes=f'{{"key":"{ANN}"}}'),
        said(REPLY, "a reply"),
        said(TRANSCRIPT, f"ann: {WORDS} one", author=""),
        said(CLAIM, "a claim", author="agent", attributes=f'{{"context":["ann: {WORDS} one"]}}'),
        said(OTHER, "another text", tenant="other"),
        make(DocumentRow, row_id=PAGE, text=f"{WORDS} page", author=ANN),
        judged(ON_MESSAGE, MESSAGE, quoted),
        judged(ON_REPLY, REPLY, quoted),
        judged(ON_CLAIM, CLAIM, quoted),
        judged(ON_OTHER, OTHER, '{"summary":"other"}'),
        *(edge(ON_MESSAGE, MESSAGE), edge(ON_REPLY, REPLY), edge(ON_REPLY, MESSAGE, "context")),
        *(edge(TRANSCRIPT, MESSAGE), edge(CLAIM, TRANSCRIPT), edge(ON_CLAIM, CLAIM), edge(ON_CLAIM, PAGE, "document")),
        *(edge(ON_OTHER, OTHER), edge(ON_OTHER, ON_MESSAGE, "reused")),
        make(ReviewRow, row_id=ON_MESSAGE, source_row_id=MESSAGE, reviewer="carl", comment=f"said {WORDS}"),
        make(ReviewRow, row_id=ON_OTHER, source_row_id=OTHER, reviewer="carl", comment="kept"),
        make(ReviewRow, row_id=ON_OTHER, review_id=77, source_row_id=OTHER, reviewer=ANN, comment="hers"),
        make(TurnRow, row_id=MESSAGE, call=ANN),
        make(CallRow, row_id=TRANSCRIPT, call=ANN),
    )
    kept = "INSERT INTO verdict_versions_raw SELECT * FROM verdicts_raw WHERE source_row_id = {row:UInt128}"
    tables.command(kept, parameters={"row": MESSAGE})
    return tables


def test_words_and_name_leave_every_table_and_view(written: Client) -> None:
    before = holding(written, ANN, WORDS)
    assert {
        "source_rows",
        "verdicts",
        "verdict_versions",
        "reviews",
        "reviewed_verdicts",
        "documents",
        "calls",
    } <= before
    ann = Author(ANN)
    counts = found(written, ann, NOW)
    record(written, ann, NOW)
    changed = sweep(written, ann, NOW)
    assert changed == {name: counts[name] for name in changed}
    assert holding(written, ANN, WORDS) == set()
    mutations = written.query("SELECT command FROM system.mutations WHERE database = currentDatabase()").result_rows
    assert mutations
    assert not [command for (command,) in mutations if ANN in command]


def test_what_others_wrote_stays(written: Client) -> None:
    sweep(written, Author(ANN), NOW)
    texts = dict(written.query("SELECT row_id, text FROM source_rows WHERE erased_at IS NULL").result_rows)
    assert texts == {REPLY: "a reply", OTHER: "another text"}
    outputs = dict(written.query("SELECT row_id, output FROM verdicts WHERE output != ''").result_rows)
    assert outputs == {ON_OTHER: '{"summary":"other"}'}
    comments = written.query("SELECT comment FROM reviews WHERE comment != ''").result_rows
    assert comments == [("kept",)]
    assert written.query("SELECT count() FROM verdicts").result_rows == [(4,)]
    assert written.query("SELECT count() FROM lineage_edges").result_rows == [(9,)]


def test_only_looking_changes_nothing(written: Client) -> None:
    before = sorted(everything(written))
    counts = found(written, Author(ANN), NOW)
    assert counts["messages and documents of the author"] == 2
    assert counts["texts"] == 3
    assert counts["outputs of models"] == 3
    assert sorted(everything(written)) == before


@pytest.mark.parametrize("tenant", ["acme", None])
def test_a_tenants_author_is_not_anothers(tables: Client, make: Make, tenant: str | None) -> None:
    put(tables, *(make(SourceRow, row_id=row, author=ANN, tenant=of) for row, of in ((1, "acme"), (2, "umbrella"))))
    sweep(tables, Author(ANN, tenant), NOW)
    left = tables.query("SELECT tenant FROM source_rows WHERE author != ''").result_rows
    assert left == ([("umbrella",)] if tenant else [])
    assert digest_of(ANN, "acme") != digest_of(ANN, "umbrella")
    assert digest_of("b/c", "a") != digest_of("c", "a/b")


def test_what_the_author_writes_later_stays(tables: Client, make: Make) -> None:
    later = NOW + timedelta(seconds=1)
    put(tables, make(SourceRow, author=ANN, event_time=later, written_at=later))
    sweep(tables, Author(ANN), NOW)
    assert tables.query("SELECT author FROM source_rows").result_rows == [(ANN,)]


def test_a_transcript_that_was_made_meanwhile_goes_at_the_next_sweep(written: Client, make: Make) -> None:
    sweep(written, Author(ANN), NOW)
    put(written, make(SourceRow, row_id=99, text=WORDS), make(LineageEdgeRow, child=99, parent=MESSAGE))
    changed = sweep(written, Author(ANN), NOW)
    assert changed["texts"] == 1
    assert holding(written, WORDS) == set()


def test_lineage_says_that_it_was_erased(written: Client) -> None:
    sweep(written, Author(ANN), NOW)
    node = ancestors(written, UUID(int=ON_MESSAGE))
    assert node is not None
    (words,) = node.parents
    assert (words.kind, words.facts["text"]) == ("source", "")
    assert abs(words.facts["erased_at"] - NOW) < timedelta(milliseconds=1)
    other = ancestors(written, UUID(int=OTHER))
    assert other is not None
    assert "erased_at" not in other.facts


async def test_erased_words_are_judged_by_nobody(written: Client, settings: StoreSettings) -> None:
    sweep(written, Author(ANN), NOW)
    assert judged_messages.find(written, "moderation", "moderate", [ON_MESSAGE]) == []
    documents = Documents(settings)
    documents.start()
    page = await documents.find("acme", "page-1", NOW)
    await documents.close()
    assert page is not None
    assert page.withdrawn


async def test_workers_learn_what_was_erased(written: Client, settings: StoreSettings) -> None:
    log = ErasureLog(settings)
    assert (await log.read()).until == {}
    client = connect(settings)
    record(client, Author(ANN), NOW)
    client.close()
    sweep(written, Author(ANN), NOW)
    first, again = await log.read(), await log.read()
    log.close()
    assert first.until.keys() == {digest_of(ANN, None)}
    assert set(first.made) == set(again.made) == {TRANSCRIPT, CLAIM}
    assert set(again.rows) == {MESSAGE, PAGE, TRANSCRIPT, CLAIM, ON_MESSAGE, ON_REPLY, ON_CLAIM}
