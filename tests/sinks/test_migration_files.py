"""What a migration says of itself is so."""

import re

import pytest

from sinks.migration_files import BLOCKING, Migration, Script, migrations, parse

_REWRITES = re.compile(
    r"ALTER TABLE (\w+) (?:DROP (?:COLUMN|INDEX|PROJECTION)|MATERIALIZE|MODIFY COLUMN|UPDATE|DELETE)"
)
_DELETES = re.compile(r"DROP TABLE|DROP COLUMN|DELETE|TRUNCATE")


@pytest.fixture(params=migrations(), ids=lambda migration: migration.label)
def migration(request: pytest.FixtureRequest) -> Migration:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["up", "down"])
def test_it_says_which_parts_it_rewrites_and_what_it_deletes(migration: Migration, way: str) -> None:
    script = migration.up if way == "up" else migration.down
    assert script.blocking in BLOCKING
    rewritten = {table for statement in script.statements for table in _REWRITES.findall(statement)}
    dropped = {table for s in script.statements for table in re.findall(r"DROP TABLE IF EXISTS (\w+)", s)}
    assert set(script.rewrites) == rewritten - dropped
    assert bool(script.loses) == any(map(_DELETES.search, script.statements))


def test_statements_may_run_twice(migration: Migration) -> None:
    for statement in migration.up.statements + migration.down.statements:
        assert re.search(r"IF (NOT )?EXISTS|OR REPLACE", statement), statement


def test_a_header_is_read() -> None:
    script = parse(
        "-- blocking: inserts\n-- rewrites: a_raw, b_raw\n-- loses: b\n-- loses: no header\n\n-- x\nA;\nB\n;\n"
    )
    assert script == Script(("A", "B"), "inserts", ("a_raw", "b_raw"), "no header")
    assert script.about == "blocks inserts; rewrites parts of a_raw, b_raw; deletes no header"
    assert parse("-- blocking: no\nA;").about == "blocks nothing; metadata only"


@pytest.mark.parametrize(
    "sql", ["A;", "-- rewrites: a_raw\nA;", "-- blocking: perhaps\nA;", "A;\n-- blocking: no\n", ""]
)
def test_a_file_that_does_not_say_whether_it_blocks_is_refused(sql: str) -> None:
    with pytest.raises(ValueError, match="the first line must be '-- blocking: '"):
        parse(sql)
