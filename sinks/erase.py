"""Erasing what an author wrote: the words go wherever they stand, and the rows stay as tombstones.

Which rows: those of the author, and by lineage those that were made of them or read with them. What stays of a row is
its id, times, place in Kafka, tenant, language, and what was decided; the words, their author, thread and event id,
what a message said beside its words, what a model wrote or quoted, and comments on its verdict do not.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY, ask, time_text
from sinks.erasures import digest_of
from sinks.errors import StoreUnavailable
from sinks.rows import ErasedRow, ErasureRow

_SWEEPS = 5
# An insert or an update is done when it is done on every replica.
_WAIT = {"mutations_sync": 2}

_IS_AUTHORS = "author = {author:String} AND ({every:Bool} OR tenant = {tenant:String})"
_OWN = f"""
SELECT DISTINCT row_id FROM source_rows_raw WHERE {_IS_AUTHORS} AND (written_at <= {{at:DateTime64(3, 'UTC')}}
    OR event_time <= {{at:DateTime64(3, 'UTC')}})
UNION DISTINCT
SELECT DISTINCT row_id FROM documents_raw WHERE {_IS_AUTHORS} AND (written_at <= {{at:DateTime64(3, 'UTC')}}
    OR event_time <= {{at:DateTime64(3, 'UTC')}})
"""  # noqa: S608
_KNOWN = "SELECT DISTINCT row_id FROM erased_rows_raw WHERE digest = {digest:String} AND kind = 'own'"
_MADE = """
WITH RECURSIVE tree AS
(
    SELECT child FROM lineage_edges_raw WHERE parent IN {rows:Array(UInt128)} AND kind != 'reused'
    UNION ALL
    SELECT child FROM lineage_edges_raw WHERE parent IN (SELECT child FROM tree) AND kind != 'reused'
)
SELECT DISTINCT child FROM tree
"""
_VERDICTS = "SELECT DISTINCT row_id FROM verdicts_raw WHERE row_id IN {rows:Array(UInt128)}"

_ERASED = "SELECT row_id FROM erased_rows_raw WHERE digest = {digest:String}"
_NEITHER = "SELECT row_id FROM erased_rows_raw WHERE digest = {digest:String} AND kind != 'verdict'"


@dataclass(frozen=True, slots=True)
class Author:
    """Whose words are meant. tenant: None for those of every tenant."""

    name: str
    tenant: str | None = None

    @property
    def digest(self) -> str:
        """What stands for the author in the store."""
        return digest_of(self.name, self.tenant)


@dataclass(frozen=True, slots=True)
class _Place:
    """Rows of a table that hold what is to go, and how they lose it. what: for people."""

    what: str
    table: str
    rows: str
    change: str


_HELD = "(text != '' OR author != '' OR thread != '' OR event_id != '' OR attributes != '' OR erased_at IS NULL)"
# The server keeps the text of an ALTER for a while, so that it must not hold the name.
_IS = "hex(sipHash128({})) = {{hashed:String}}"
_BY_AUTHOR = "{every:Bool} OR tenant = {tenant:String}"
_PLACES = (
    _Place(
        "texts",
        "source_rows_raw",
        f"row_id IN ({_NEITHER}) AND {_HELD}",
        "UPDATE text = '', author = '', thread = '', event_id = '', attributes = '', "
        "erased_at = ifNull(erased_at, {at:DateTime64(3, 'UTC')})",
    ),
    _Place(
        "documents",
        "documents_raw",
        f"row_id IN ({_NEITHER}) AND (text != '' OR author != '' OR erased_at IS NULL)",
        "UPDATE text = '', author = '', erased_at = ifNull(erased_at, {at:DateTime64(3, 'UTC')})",
    ),
    *(
        _Place(
            what,
            table,
            f"(row_id IN ({_ERASED}) OR source_row_id IN ({_ERASED})) AND output != ''",
            "UPDATE output = ''",
        )
        for what, table in (("outputs of models", "verdicts_raw"), ("outputs replaced since", "verdict_versions_raw"))
    ),
    _Place(
        "comments on verdicts",
        "reviews_raw",
        f"(row_id IN ({_ERASED}) OR source_row_id IN ({_ERASED})) AND comment != ''",
        "UPDATE comment = ''",
    ),
    _Place(
        "reviews by the author",
        "reviews_raw",
        f"{_IS.format('reviewer')} AND ({_BY_AUTHOR}) AND written_at <= {{at:DateTime64(3, 'UTC')}}",
        "UPDATE comment = '', reviewer = 'erased'",
    ),
    # What these are sorted by cannot be changed. Without them a call that is open is not put together.
    _Place("turns of a call named like the author", "turns_raw", f"{_IS.format('call')} AND ({_BY_AUTHOR})", "DELETE"),
    _Place("calls named like the author", "calls_raw", f"{_IS.format('call')} AND ({_BY_AUTHOR})", "DELETE"),
)  # fmt: skip


def found(client: Client, author: Author, at: datetime) -> dict[str, int]:
    """What there is to erase: how many rows of what. Nothing is changed. Raises clickhouse-connect's errors."""
    own = _own(client, author, at)
    rows = own | _made(client, own)
    return {
        "messages and documents of the author": len(own),
        **{place.what: _held(client, place, rows, author, at) for place in _PLACES},
    }


def record(client: Client, author: Author, at: datetime) -> None:
    """Have workers take no message of the author from before `at` any more. Raises clickhouse-connect's errors."""
    _insert(client, "erasures_raw", [ErasureRow(author.digest, at, datetime.now(UTC))])


def sweep(client: Client, author: Author, at: datetime) -> dict[str, int]:
    """Erase what the store has. Returns how many rows of what were changed. To call it again does no harm.

    Raises StoreUnavailable if rows are left all the same, and clickhouse-connect's errors.
    """
    changed: dict[str, int] = {place.what: 0 for place in _PLACES}
    for _ in range(_SWEEPS):
        _mark(client, author, at)
        left = 0
        for place in _PLACES:
            count = _count(client, place, author, at)
            if count:
                client.command(
                    f"ALTER TABLE {place.table} {place.change} WHERE {place.rows}",
                    parameters=_unnamed(client, author, at),
                    settings=_WAIT,
                )
            changed[place.what] += count
            left += count
        if not left:
            return changed
    raise StoreUnavailable(
        "rows are left after several attempts: does a worker still store the author's messages? Run it again"
    )


def _mark(client: Client, author: Author, at: datetime) -> None:
    """Note the rows that are meant, also those that were made of rows that are erased already."""
    own = _own(client, author, at)
    known = {row for (row,) in ask(client, _KNOWN, digest=author.digest)}
    made = _made(client, own | known)
    verdicts = {row for part in _parts(made) for (row,) in ask(client, _VERDICTS, rows=part)}
    now = datetime.now(UTC)
    kinds = [(own, "own"), (made - verdicts - own - known, "made"), (verdicts, "verdict")]
    _insert(
        client, "erased_rows_raw", [ErasedRow(author.digest, row, kind, now) for rows, kind in kinds for row in rows]
    )


def _own(client: Client, author: Author, at: datetime) -> set[int]:
    return {row for (row,) in ask(client, _OWN, **_named(author, at))}


def _made(client: Client, rows: Collection[int]) -> set[int]:
    return {child for part in _parts(rows) for (child,) in ask(client, _MADE, rows=part)}


def _count(client: Client, place: _Place, author: Author, at: datetime) -> int:
    sql = f"SELECT count() FROM {place.table} WHERE {place.rows}"  # noqa: S608
    ((count,),) = ask(client, sql, **_unnamed(client, author, at))
    return int(count)


def _held(client: Client, place: _Place, rows: Collection[int], author: Author, at: datetime) -> int:
    """As `_count`, for rows that are not noted."""
    if "row_id" not in place.rows:
        return _count(client, place, author, at)
    condition = place.rows.replace(_NEITHER, "{rows:Array(UInt128)}").replace(_ERASED, "{rows:Array(UInt128)}")
    ids: set[Any] = set()
    for part in _parts(rows):
        sql = f"SELECT DISTINCT row_id FROM {place.table} WHERE {condition}"  # noqa: S608
        ids.update(row for (row,) in ask(client, sql, rows=part, **_unnamed(client, author, at)))
    return len(ids)


def _named(author: Author, at: datetime) -> dict[str, Any]:
    return {
        "author": author.name,
        "tenant": author.tenant or "",
        "every": author.tenant is None,
        "at": time_text(at),
    }


def _unnamed(client: Client, author: Author, at: datetime) -> dict[str, Any]:
    """The same with what stands for the author in place of the name."""
    ((hashed,),) = ask(client, "SELECT hex(sipHash128({author:String}))", author=author.name)
    named = _named(author, at)
    del named["author"]
    return named | {"digest": author.digest, "hashed": hashed}


def _parts(rows: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(rows)
    return (ordered[start : start + KEYS_A_QUERY] for start in range(0, len(ordered), KEYS_A_QUERY))


def _insert(client: Client, table: str, rows: list[Any]) -> None:
    if rows:
        client.insert(table, rows, column_names=list(rows[0]._fields))
