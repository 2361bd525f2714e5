"""How long tables keep their rows, as ClickHouse's TTL."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import ask

# Younger rows are not looked up when they are written (`sinks.kept`), so that a shorter TTL would lose them silently.
SHORTEST_DAYS = 2
# Of each table that may have a TTL: the time that it counts from. Documents, prompts, open calls and what was erased
# are for as long as anything may ask for them.
TIMES = {
    "source_rows": "event_time",
    "verdicts": "event_time",
    "verdict_versions": "event_time",
    "inference_calls": "called_at",
    "lineage_edges": "written_at",
    "reviews": "event_time",
    "engine_usage": "period_start",
}
# A verdict is published once more from the store with its edges, and explained with its calls.
_WITH_VERDICTS = ("lineage_edges", "inference_calls")
_TTL = re.compile(r" TTL (.+?)(?: SETTINGS .*)?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Change:
    """A table whose TTL is another one than wanted. was, wanted: as ClickHouse writes them; empty for none."""

    table: str
    was: str
    wanted: str


def parse(text: str) -> dict[str, int | None]:
    """Days by table, of `source_rows=30, verdicts=400`; None for `forever`. Raises ValueError."""
    days: dict[str, int | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        table, _, number = (piece.strip() for piece in part.partition("="))
        if table not in TIMES:
            raise ValueError(f"{table!r} is no table with a retention; there are: {', '.join(TIMES)}")
        if number != "forever" and not re.fullmatch(r"[1-9][0-9]{0,4}", number):
            raise ValueError(f"{table}={number}: give whole days, such as {table}=30, or {table}=forever")
        days[table] = None if number == "forever" else int(number)
        if (given := days[table]) is not None and given < SHORTEST_DAYS:
            raise ValueError(f"{table}={number}: at least {SHORTEST_DAYS} days, or rows could vanish unseen")
    verdicts = days.get("verdicts", 0)
    for table in _WITH_VERDICTS:
        given = days.get(table)
        if given is not None and (verdicts is None or given < verdicts):
            raise ValueError(f"{table}={given}: verdicts are kept longer, and need these rows")
    return days


def changes(client: Client, days: Mapping[str, int | None]) -> list[Change]:
    """What would be changed so that tables keep their rows for so many days. Raises clickhouse-connect's errors."""
    engines: dict[str, str] = dict(
        ask(client, "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()")
    )
    found = []
    for table, number in days.items():
        has = _TTL.search(engines[f"{table}_raw"])
        wanted = "" if number is None else f"toDateTime({TIMES[table]}) + toIntervalDay({number})"
        was = has[1] if has else ""
        if was != wanted:
            found.append(Change(f"{table}_raw", was, wanted))
    return found


def apply(client: Client, change: Change) -> None:
    """Change the TTL of a table; ClickHouse then deletes what is older in the background. Raises like `changes`."""
    how = f"MODIFY TTL {change.wanted}" if change.wanted else "REMOVE TTL"
    client.command(f"ALTER TABLE {change.table} {how}")
