"""The two forms of the schema: on one server, or replicated and sharded over a cluster."""

import re
from dataclasses import dataclass

from sinks import sharded
from sinks.errors import SchemaMismatch

JOURNAL = "schema_migrations"
LOCK = "schema_lock"

_DATABASE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CLUSTER = re.compile(r"[\w.{}-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Form:
    """The statements that make a schema. cluster: as in the servers' `remote_servers`; empty for one server.

    On a cluster, journal and lock have the same rows on every server. Raises SchemaMismatch if a name is none.
    """

    database: str
    cluster: str = ""

    def __post_init__(self) -> None:
        if not _DATABASE.fullmatch(self.database):
            raise SchemaMismatch(f"{self.database!r} is no name for a database; use letters, digits and underscores")
        if self.cluster and not _CLUSTER.fullmatch(self.cluster):
            raise SchemaMismatch(f"{self.cluster!r} is no name for a cluster; use the one in `remote_servers`")

    def create_database(self) -> str:
        """To run on any database."""
        return f"CREATE DATABASE IF NOT EXISTS `{self.database}`{self._on} ENGINE = Atomic"

    def create_journal(self) -> str:
        """The table of what was applied. applied: 0 no, 1 yes, 2 begun, in either way."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self._name(JOURNAL)}{self._on}\n"
            "(version UInt32, name String, checksum String, applied UInt8, changed_at DateTime64(6, 'UTC'))\n"
            f"ENGINE = {self._engine('ReplacingMergeTree', JOURNAL, 'changed_at')} ORDER BY version"
        )

    def record(self, version: int, name: str, checksum: str, applied: int) -> str:
        """A line of the journal, with the server's time. On a cluster most servers have it before this returns."""
        quorum = "SETTINGS insert_quorum = 'auto', insert_quorum_parallel = 0 " if self.cluster else ""
        return (
            f"INSERT INTO {self._name(JOURNAL)} (version, name, checksum, applied, changed_at) {quorum}"
            f"SELECT {version}, '{name}', '{checksum}', {applied}, now64(6, 'UTC')"
        )

    def render(self, statement: str) -> tuple[str, ...]:
        """The statements of this form for one of a migration. Raises ValueError if it has none."""
        return sharded.render(statement, self.database, self.cluster) if self.cluster else (statement,)

    def create_lock(self, token: str, holder: str) -> str:
        """Fails if there is a lock. holder: for people."""
        return (
            f"CREATE TABLE {self._name(LOCK)}{self._on} (token String, renewed_at DateTime64(3, 'UTC')) "
            f"ENGINE = {self._engine('MergeTree', f'{LOCK}_{token}')} ORDER BY renewed_at "
            f"COMMENT {sharded.quote(f'{token} {holder}')}"
        )

    def move_lock(self, token: str) -> str:
        """Fails if there is no lock, or if this holder's lock was moved already."""
        return f"RENAME TABLE {self._name(LOCK)} TO {self._name(f'{LOCK}_{token}')}{self._on}"

    def drop_lock(self, table: str) -> str:
        """table: of a lock, moved or not."""
        return f"DROP TABLE IF EXISTS {self._name(table)}{self._on} SYNC"

    @property
    def _on(self) -> str:
        return sharded.on_cluster(self.cluster) if self.cluster else ""

    def _engine(self, engine: str, path: str, argument: str = "") -> str:
        if not self.cluster:
            return f"{engine}({argument})"
        arguments = [sharded.quote(f"/clickhouse/tables/{self.database}/{path}"), "'{shard}-{replica}'", argument]
        return f"Replicated{engine}({', '.join(filter(None, arguments))})"

    def _name(self, table: str) -> str:
        return f"`{self.database}`.`{table}`"
