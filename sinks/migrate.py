"""Brings the schema to a version, up or down, and says where it stands.

The table `schema_migrations` says what was applied. One migrator works at a time; one that was killed half way leaves
its migration there as begun, and the next one runs its statements again, which does no harm.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from clickhouse_connect.driver.client import Client

from sinks import migration_lock
from sinks.clickhouse import UNAVAILABLE, StoreSettings, ask, connect, store_error
from sinks.errors import SchemaMismatch, StoreUnavailable
from sinks.migration_files import Migration, Way, migrations
from sinks.schema_forms import JOURNAL, Form

__all__ = [
    "Migration",
    "State",
    "Step",
    "WouldDelete",
    "check",
    "down",
    "migrate",
    "migrations",
    "plan_down",
    "plan_up",
    "script",
    "status",
]

_APPLIED, _BEGUN = 1, 2
_STATEMENT_SECONDS = 3600.0  # some rewrite parts


class WouldDelete(Exception):
    """Rows would be deleted, and whoever asked for it did not say that they may be. The message says which."""


@dataclass(frozen=True, slots=True)
class Step:
    """A migration to be run in one way."""

    migration: Migration
    way: Way


@dataclass(frozen=True, slots=True)
class State:
    """Where one migration stands. migration: None for one that this code does not know. since: of the last change.

    `begun`: it was interrupted on its way up or down. `changed`: its file was, after it was applied.
    """

    version: int
    name: str
    migration: Migration | None
    state: Literal["applied", "missing", "begun", "changed", "unknown"]
    since: datetime | None


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the journal: name, checksum, 0, 1 or 2, and when."""

    name: str
    checksum: str
    applied: int
    changed_at: datetime


def migrate(settings: StoreSettings, *, to: int | None = None, again: bool = False) -> list[Migration]:
    """Create the database and apply what it lacks up to a version. Returns what was applied.

    again: run the statements of what was applied too, for example on servers that a cluster got since.

    Raises StoreUnavailable, StoreMisconfigured, SchemaMismatch.
    """
    form = Form(settings.database, settings.cluster)
    with _server(settings) as server:
        if not _steps_up(_journal(server, settings), to, again=again):
            return []
        server.command(form.create_database())
        with _connection(settings) as client, migration_lock.held(settings, form, client) as still_held:
            client.command(form.create_journal())
            journal = _journal(server, settings)  # another migrator may have been at work until now
            return _run(client, form, _steps_up(journal, to, again=again), still_held)


def down(settings: StoreSettings, *, to: int, delete: bool = False) -> list[Migration]:
    """Take back what was applied after a version. Returns what was taken back. delete: also where rows go with it.

    Raises WouldDelete, StoreUnavailable, StoreMisconfigured, SchemaMismatch.
    """
    form = Form(settings.database, settings.cluster)
    with _server(settings) as server:
        steps = _steps_down(_journal(server, settings), to)
        if not steps:
            return []
        losses = [f"{step.migration.label}: {step.migration.down.loses}" for step in steps if step.migration.down.loses]
        if losses and not delete:
            raise WouldDelete(f"down to {to:04} deletes: {'; '.join(losses)}")
        with _connection(settings) as client, migration_lock.held(settings, form, client) as still_held:
            return _run(client, form, _steps_down(_journal(server, settings), to), still_held)


def plan_up(settings: StoreSettings, *, to: int | None = None, again: bool = False) -> list[Step]:
    """What `migrate` would do now. Changes nothing. Raises as it does."""
    with _server(settings) as server:
        return _steps_up(_journal(server, settings), to, again=again)


def plan_down(settings: StoreSettings, *, to: int) -> list[Step]:
    """What `down` would do now. Changes nothing. Raises as it does, but for WouldDelete."""
    with _server(settings) as server:
        return _steps_down(_journal(server, settings), to)


def script(settings: StoreSettings, steps: Iterable[Step]) -> Iterator[str]:
    """The statements of a plan, with those that keep the journal. Raises SchemaMismatch for a name that is none."""
    form = Form(settings.database, settings.cluster)
    yield form.create_database()
    yield f"USE `{form.database}`"
    yield form.create_journal()
    for step in steps:
        yield from _statements(form, step)


def status(settings: StoreSettings) -> list[State]:
    """Where each migration stands, in order, also of a schema that this code does not know.

    Raises StoreUnavailable, StoreMisconfigured.
    """
    with _server(settings) as server:
        journal = _read_journal(server, settings, _engines(server, settings))
    states = []
    shipped = {migration.version: migration for migration in migrations()}
    for version in sorted(shipped.keys() | journal.keys()):
        migration, line = shipped.get(version), journal.get(version)
        name = migration.name if migration else line.name if line else ""
        state: Literal["applied", "missing", "begun", "changed", "unknown"]
        if line is None or not line.applied:
            if migration is None:
                continue  # it was taken back by a version that knew it
            state = "missing"
        elif migration is None:
            state = "unknown"
        elif line.applied == _BEGUN:
            state = "begun"
        else:
            state = "applied" if line.checksum == migration.checksum else "changed"
        states.append(State(version, name, migration, state, line.changed_at if line else None))
    return states


def check(settings: StoreSettings) -> None:
    """Return if the schema is the one that this code writes.

    Raises StoreUnavailable if there is no store or it lacks a migration, so that waiting may help, and SchemaMismatch
    or StoreMisconfigured if it never will.
    """
    with _server(settings) as server:
        journal = _read_journal(server, settings, _engines(server, settings))
    if not journal:
        raise StoreUnavailable(f"database {settings.database!r} has no tables of Weir; run: weir migrate")
    _refuse_unknown(journal)
    missing = _missing(journal, len(migrations()))
    if missing:
        raise StoreUnavailable(f"the schema lacks migration {missing[0].label}; run: weir migrate")


def _run(client: Client, form: Form, steps: list[Step], still_held: migration_lock.Check) -> list[Migration]:
    for step in steps:
        for statement in _statements(form, step):
            still_held()
            client.command(statement)
    return [step.migration for step in steps]


def _statements(form: Form, step: Step) -> Iterator[str]:
    """The statements of a step, between the lines of the journal that say that it was begun and done."""
    migration = step.migration
    yield form.record(migration.version, migration.name, migration.checksum, _BEGUN)
    for statement in migration.script(step.way).statements:
        yield from form.render(statement)
    yield form.record(migration.version, migration.name, migration.checksum, _APPLIED if step.way == "up" else 0)


def _steps_up(journal: dict[int, _Line], to: int | None, *, again: bool) -> list[Step]:
    target = _target(to)
    wanted = [m for m in migrations() if m.version <= target] if again else _missing(journal, target)
    return [Step(migration, "up") for migration in wanted]


def _steps_down(journal: dict[int, _Line], to: int) -> list[Step]:
    target = _target(to)
    there = [m for m in migrations() if m.version > target and (line := journal.get(m.version)) and line.applied]
    return [Step(migration, "down") for migration in reversed(there)]


def _missing(journal: dict[int, _Line], target: int) -> list[Migration]:
    applied = {version for version, line in journal.items() if line.applied == _APPLIED}
    return [m for m in migrations() if m.version <= target and m.version not in applied]


def _target(to: int | None) -> int:
    last = migrations()[-1].version
    if to is not None and not 0 <= to <= last:
        raise SchemaMismatch(f"there is no migration {to}; the last one is {last:04}, and 0 is the empty schema")
    return last if to is None else to


def _journal(server: Client, settings: StoreSettings) -> dict[int, _Line]:
    """The journal of a schema that this code may change. Raises SchemaMismatch if it is not."""
    engines = _engines(server, settings)
    journal = _read_journal(server, settings, engines)
    _refuse_unknown(journal)
    _refuse_other_form(settings, engines.get("source_rows_raw"))
    return journal


def _read_journal(server: Client, settings: StoreSettings, engines: Collection[str]) -> dict[int, _Line]:
    """Empty if there is none."""
    if JOURNAL not in engines:
        return {}
    lines = ask(
        server,
        f"SELECT version, name, checksum, applied, changed_at FROM `{settings.database}`.{JOURNAL} FINAL",  # noqa: S608
    )
    return {int(version): _Line(*line) for version, *line in lines}


def _engines(server: Client, settings: StoreSettings) -> dict[str, str]:
    """The engine of each table; none if there is no database."""
    query = "SELECT name, engine FROM system.tables WHERE database = {database:String}"
    return dict(ask(server, query, database=settings.database))


def _refuse_unknown(journal: dict[int, _Line]) -> None:
    shipped = {migration.version: migration for migration in migrations()}
    for version, line in sorted(journal.items()):
        if not line.applied:
            continue
        if version not in shipped:
            raise SchemaMismatch(
                f"the schema has migration {version:04}_{line.name}, which this version of Weir does not know; upgrade "
                f"Weir, or take it back with the version that knows it: weir migrate down --to {max(shipped)}"
            )
        if shipped[version].checksum != line.checksum:
            raise SchemaMismatch(
                f"migration {shipped[version].label} was applied from a file with other statements; "
                "migrations must not change once applied"
            )


def _refuse_other_form(settings: StoreSettings, engine: str | None) -> None:
    """engine: of a table, if there are any."""
    if engine == "Distributed" and not settings.cluster:
        raise SchemaMismatch(
            f"the tables of {settings.database!r} are spread over a cluster; name it: WEIR_CLICKHOUSE_CLUSTER"
        )
    if engine not in {None, "Distributed"} and settings.cluster:
        raise SchemaMismatch(
            f"the tables of {settings.database!r} are those of one server, not of cluster {settings.cluster!r}; "
            "name another database, and copy the rows"
        )


@contextmanager
def _server(settings: StoreSettings) -> Iterator[Client]:
    """A connection that needs no database of ours. Errors in the block become those of `sinks.errors`."""
    with _connection(settings, "default") as client:
        try:
            yield client
        except UNAVAILABLE as error:
            raise store_error(error, settings.url) from error


@contextmanager
def _connection(settings: StoreSettings, database: str | None = None) -> Iterator[Client]:
    client = connect(replace(settings, timeout=_STATEMENT_SECONDS), database=database)
    try:
        yield client
    finally:
        client.close()
