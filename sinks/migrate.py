"""Numbered, reversible migrations: `NNNN_name.up.sql` and `NNNN_name.down.sql` in `sinks/migrations`.

Statements end with a semicolon at the end of a line, and are written so that running one again does no harm: two
migrators at once, or one that was killed half way, end in the same schema.
"""

import hashlib
import importlib.resources
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import UNAVAILABLE, StoreSettings, connect, store_error
from sinks.errors import SchemaMismatch, StoreUnavailable

_FILE = re.compile(r"^(?P<version>\d{4})_(?P<name>\w+)\.up\.sql$")
_JOURNAL = """
CREATE TABLE IF NOT EXISTS schema_migrations
(version UInt32, name String, checksum String, applied UInt8, changed_at DateTime64(6, 'UTC'))
ENGINE = ReplacingMergeTree(changed_at) ORDER BY version
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. up, down: statements. checksum: of `up`, to notice a file that was changed later."""

    version: int
    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    checksum: str


def migrations() -> list[Migration]:
    """All migrations that this code ships, in order."""
    folder = importlib.resources.files("sinks") / "migrations"
    found = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if match := _FILE.match(file.name):
            up = file.read_text(encoding="utf-8")
            down = (folder / file.name.replace(".up.sql", ".down.sql")).read_text(encoding="utf-8")
            checksum = hashlib.sha256(up.encode()).hexdigest()
            found.append(Migration(int(match["version"]), match["name"], _statements(up), _statements(down), checksum))
    return found


def migrate(settings: StoreSettings) -> list[Migration]:
    """Create the database and apply every migration that it lacks. Returns those applied.

    Raises StoreUnavailable, StoreMisconfigured, SchemaMismatch.
    """
    try:
        server = connect(settings, database="default")
        server.command(f"CREATE DATABASE IF NOT EXISTS {_identifier(settings.database)} ENGINE = Atomic")
        server.close()
        client = connect(settings)
        client.command(_JOURNAL)
        present = _applied(client)
        _refuse_unknown(present)
        missing = [migration for migration in migrations() if migration.version not in present]
        for migration in missing:
            for statement in migration.up:
                client.command(statement)
            _record(client, migration, applied=True)
        client.close()
    except UNAVAILABLE as error:
        raise store_error(error, settings.url) from error
    return missing


def check(settings: StoreSettings) -> None:
    """Return if the schema is the one that this code writes.

    Raises StoreUnavailable if there is no store or it lacks a migration, so that waiting may help, and SchemaMismatch
    or StoreMisconfigured if it never will.
    """
    try:
        client = connect(settings, database="default")
        known = client.query(
            "SELECT count() FROM system.tables WHERE database = {database:String} AND name = 'schema_migrations'",
            parameters={"database": settings.database},
        ).first_item
        client.close()
        if not known or not next(iter(known.values())):
            raise StoreUnavailable(f"database {settings.database!r} has no tables of Weir; run: weir migrate")
        client = connect(settings)
        present = _applied(client)
        client.close()
    except UNAVAILABLE as error:
        raise store_error(error, settings.url) from error
    _refuse_unknown(present)
    missing = [m for m in migrations() if m.version not in present]
    if missing:
        name = f"{missing[0].version:04}_{missing[0].name}"
        raise StoreUnavailable(f"the schema lacks migration {name}; run: weir migrate")


def _applied(client: Client) -> dict[int, str]:
    rows = client.query("SELECT version, checksum FROM schema_migrations FINAL WHERE applied").result_rows
    return {int(version): str(checksum) for version, checksum in rows}


def _refuse_unknown(present: dict[int, str]) -> None:
    shipped = {migration.version: migration for migration in migrations()}
    for version, checksum in present.items():
        if version not in shipped:
            raise SchemaMismatch(
                f"the schema has migration {version:04}, which this version of Weir does not know; upgrade Weir"
            )
        if shipped[version].checksum != checksum:
            raise SchemaMismatch(
                f"migration {version:04}_{shipped[version].name} was applied from a file with other statements; "
                "migrations must not change once applied"
            )


def _record(client: Client, migration: Migration, *, applied: bool) -> None:
    client.insert(
        "schema_migrations",
        [[migration.version, migration.name, migration.checksum, int(applied), datetime.now(UTC)]],
        column_names=["version", "name", "checksum", "applied", "changed_at"],
    )


def _statements(sql: str) -> tuple[str, ...]:
    code = "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))
    return tuple(s.strip() for s in re.split(r";\s*(?:\n|$)", code) if s.strip())


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise SchemaMismatch(f"{name!r} is no name for a database; use letters, digits and underscores")
    return f"`{name}`"
