"""Whether ClickHouse keeps what it acknowledged: it takes rows older than their table's TTL, and drops them later."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import CONSISTENT, KEYS_A_QUERY
from sinks.errors import RowNotKept
from sinks.rows import TABLES, AnyRow, SourceRow, VerdictRow

# A TTL must not be shorter, so that fresh rows, which are nearly all, need no look-up.
_FRESH = timedelta(days=1)
_SOURCES = "SELECT row_id FROM source_rows_raw WHERE row_id IN {row_id:Array(UInt128)}"
_VERDICTS = """
SELECT pipeline, stage, row_id FROM verdicts_raw
WHERE pipeline IN {pipeline:Array(String)} AND stage IN {stage:Array(String)} AND row_id IN {row_id:Array(UInt128)}
"""
# A table's sorting key, and the query for those of its rows that may be wanted.
_LOOKUPS: dict[type[AnyRow], tuple[tuple[str, ...], str]] = {
    SourceRow: (("row_id",), _SOURCES),
    VerdictRow: (("pipeline", "stage", "row_id"), _VERDICTS),
}


# Over a cluster the TTL is that of the local table.
_ENGINE = """
SELECT engine_full FROM system.tables
WHERE database = currentDatabase() AND name IN ({table:String}, concat({table:String}, '_local'))
ORDER BY length(name) DESC LIMIT 1
"""
_TTL = re.compile(r" TTL (?P<elements>.+?)(?: SETTINGS .*)?$", re.DOTALL)
# Elements that move, recompress or sum up rows delete none.
_DELETES = re.compile(
    r"(?P<time>(?:(?! TO | RECOMPRESS | GROUP BY ).)+?)(?: DELETE)?(?: WHERE (?P<rows>.+))?", re.DOTALL
)


def not_kept(client: Client, rows: Sequence[AnyRow]) -> dict[int, RowNotKept]:
    """What to tell about each of the inserted rows that is gone or will be, by `id(row)`.

    Only events and verdicts older than a day are looked up. Raises clickhouse-connect's errors.
    """
    limit = (datetime.now(UTC) - _FRESH).timestamp()
    old: dict[type[AnyRow], list[AnyRow]] = {kind: [] for kind in _LOOKUPS}
    for row in rows:
        if isinstance(row, (SourceRow, VerdictRow)) and row.event_time.timestamp() < limit:
            old[type(row)].append(row)
    return {
        id(row): RowNotKept(
            f"ClickHouse took a row for {TABLES[kind]} and did not keep it: its event is probably older than the "
            "table's TTL"
        )
        for kind in _LOOKUPS
        for start in range(0, len(old[kind]), KEYS_A_QUERY)
        for row in _absent(client, kind, old[kind][start : start + KEYS_A_QUERY])
    }


def _absent(client: Client, kind: type[AnyRow], rows: Sequence[AnyRow]) -> list[AnyRow]:
    names, sql = _LOOKUPS[kind]
    keys = [tuple(getattr(row, name) for name in names) for row in rows]
    parameters = {name: sorted(set(part)) for name, part in zip(names, zip(*keys, strict=True), strict=True)}
    # Whether a merge has dropped an expired row already is chance, so those that are still there do not count.
    query = sql + "".join(f" AND NOT ({condition})" for condition in _expired(client, TABLES[kind]))
    # On a cluster another replica may answer than the one that took the rows.
    found = {tuple(key) for key in client.query(query, parameters=parameters, settings=CONSISTENT).result_rows}
    return [row for key, row in zip(keys, rows, strict=True) if key not in found]


def _expired(client: Client, table: str) -> list[str]:
    """Conditions of which one holds for each row that the table's TTL deletes."""
    ((engine,),) = client.query(_ENGINE, parameters={"table": table}).result_rows
    ttl = _TTL.search(engine)
    deletes = [_DELETES.fullmatch(element.strip()) for element in _split(ttl["elements"])] if ttl else []
    return [f"({match['time']}) <= now() AND ({match['rows'] or 1})" for match in deletes if match]


def _split(elements: str) -> list[str]:
    """The parts between commas that are not inside brackets."""
    parts, depth = [""], 0
    for char in elements:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts
