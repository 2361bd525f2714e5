"""Statements of a migration, as they are written for one server, for a cluster of replicated shards.

Each table `x_raw` becomes `x_raw_local` on every server, replicated within its shard, and a `Distributed` table `x_raw`
over them, so that what reads and writes the one form does so with the other. All versions of a row are on one shard,
for a table is sharded by columns that it is sorted by; without that, FINAL would not find them.

The servers need the macros `{shard}` and `{replica}`.
"""

import re

_TABLE = re.compile(
    r"CREATE TABLE IF NOT EXISTS (?P<table>\w+_raw)(?P<columns>\s*\(.*\)|\s+AS (?P<pattern>\w+_raw))\s+"
    r"ENGINE = (?P<engine>\w*MergeTree)\((?P<arguments>[\w, ]*)\)(?P<rest>\s.*)",
    re.DOTALL,
)
_SORTED = re.compile(r"\bORDER BY (?:\((?P<many>[^()]+)\)|(?P<one>[\w`]+))")
_VIEW = re.compile(
    r"CREATE (?P<replace>OR REPLACE )?VIEW (?P<unless>IF NOT EXISTS )?(?P<view>\w+) AS\b(?P<select>.*)", re.DOTALL
)
_ALTER = re.compile(
    r"ALTER TABLE (?P<table>\w+_raw) (?P<action>(?:ADD|DROP|MODIFY) (?P<kind>COLUMN|INDEX|PROJECTION|SETTING|TTL)\b.*)",
    re.DOTALL,
)
_DROP = re.compile(r"DROP (?P<kind>TABLE|VIEW) IF EXISTS (?P<name>\w+)")
_SUBQUERY = re.compile(r"\b(NOT )?IN\s*\((?=\s*SELECT\b)")
_READ = re.compile(r"\bFROM (\w+_raw)\b")


def render(statement: str, database: str, cluster: str) -> tuple[str, ...]:
    """The statements that do on the cluster what this one does on a server.

    Raises ValueError for a kind of statement that this module does not know.
    """
    on = on_cluster(cluster)

    def name(table: str) -> str:
        return f"`{database}`.`{table}`"

    if match := _TABLE.fullmatch(statement):
        table = match["table"]
        local = f"{table}_local"
        columns = f" AS {name(match['pattern'] + '_local')}" if match["pattern"] else match["columns"]
        arguments = ", ".join(
            filter(None, ("'/clickhouse/tables/{shard}/{database}/{table}'", "'{replica}'", match["arguments"]))
        )
        shards = f"{quote(cluster)}, {quote(database)}, {quote(local)}, {_shard_key(match['rest'])}"
        engine = f"Replicated{match['engine']}({arguments}){match['rest']}"
        return (
            f"CREATE TABLE IF NOT EXISTS {name(local)}{on}{columns}\nENGINE = {engine}",
            f"CREATE TABLE IF NOT EXISTS {name(table)}{on} AS {name(local)}\nENGINE = Distributed({shards})",
        )
    if match := _VIEW.fullmatch(statement):
        # A subquery over all shards is asked once, not by each shard.
        select = _SUBQUERY.sub(lambda part: f"GLOBAL {part[1] or ''}IN (", match["select"])
        select = _READ.sub(lambda read: f"FROM {name(read[1])}", select)
        head = f"CREATE {match['replace'] or ''}VIEW {match['unless'] or ''}"
        return (f"{head}{name(match['view'])}{on} AS{select}",)
    if match := _ALTER.fullmatch(statement):
        local, whole = (
            f"ALTER TABLE {name(table)}{on} {match['action']}" for table in (f"{match['table']}_local", match["table"])
        )
        if match["kind"] != "COLUMN":
            return (local,)  # a Distributed table has columns and nothing else
        # The whole never shows a column that a shard lacks.
        return (whole, local) if match["action"].startswith("DROP") else (local, whole)
    if match := _DROP.fullmatch(statement):
        dropped = [match["name"]] + ([f"{match['name']}_local"] if match["kind"] == "TABLE" else [])
        # SYNC: when this returns, the table's path in Keeper is free again.
        return tuple(f"DROP {match['kind']} IF EXISTS {name(table)}{on} SYNC" for table in dropped)
    raise ValueError(f"no sharded form is known of: {statement}")


def on_cluster(cluster: str) -> str:
    """The clause that runs a statement on every server."""
    return f" ON CLUSTER {quote(cluster)}"


def quote(text: str) -> str:
    """A string as a statement writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _shard_key(rest: str) -> str:
    """By row where rows have an id: what belongs to a row is then on its shard. Edges go with the child."""
    match = _SORTED.search(rest)
    if match is None:
        raise ValueError(f"a table without ORDER BY cannot be sharded: {rest}")
    columns = [column.strip() for column in (match["many"] or match["one"]).split(",")]
    key = next(([column] for column in ("row_id", "child") if column in columns), columns)
    return f"cityHash64({', '.join(key)})"
