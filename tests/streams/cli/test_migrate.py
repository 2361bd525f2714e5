"""`weir migrate`: up, down, status, and two at once."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Protocol
from uuid import uuid4

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.migrate import check, migrations
from sinks.migration_lock import held
from sinks.schema_forms import Form
from streams.cli import main

LABELS = [migration.label for migration in migrations()]


class Weir(Protocol):
    def __call__(self, *arguments: object) -> tuple[int, str, str]: ...


@pytest.fixture
def weir(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    """`weir("status")`: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weir", "migrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def bare(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreSettings]:
    """A database that does not exist yet."""
    settings = StoreSettings(store_url, database=f"weir_{uuid4().hex}")
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", store_url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_DATABASE", settings.database)
    yield settings
    client = connect(settings, database="default")
    client.command(f"DROP DATABASE IF EXISTS `{settings.database}`")
    client.close()


def test_up_and_down(weir: Weir, bare: StoreSettings) -> None:
    status, out, _ = weir("status")
    assert status == 1
    assert out.splitlines()[0].split() == [LABELS[0], "missing:", "blocks", "nothing;", "metadata", "only"]
    assert weir("down")[:2] == (0, "nothing to take back\n")
    assert weir("up", "--to", 2)[:2] == (0, f"applied {LABELS[0]}\napplied {LABELS[1]}\n")
    status, _, err = weir("down")
    assert status == 2
    assert err == (
        f"weir: down to 0001 deletes: {LABELS[1]}: {migrations()[1].down.loses}; if that is meant, say --delete\n"
    )
    assert weir("down", "--delete")[:2] == (0, f"took back {LABELS[1]}\n")
    assert weir("status")[1].splitlines()[1].startswith(f"{LABELS[1]}  ")
    assert weir("down", "--to", 0, "--delete")[:2] == (0, f"took back {LABELS[0]}\n")
    status, _, err = weir("up", "--to", 99)
    assert (status, err) == (
        2,
        f"weir: there is no migration 99; the last one is {LABELS[-1][:4]}, and 0 is the empty schema\n",
    )


@pytest.mark.usefixtures("bare")
def test_a_dry_run_prints_the_script(weir: Weir) -> None:
    status, out, _ = weir("up", "--dry-run", "--to", 1)
    assert status == 0
    assert out.startswith("-- 0001_initial up: blocks nothing; metadata only\nCREATE DATABASE IF NOT EXISTS `weir_")
    assert "\nENGINE = ReplacingMergeTree(written_at)\n" in out
    status, out, _ = weir("up", "--dry-run", "--to", 1, "--cluster", "main")
    assert status == 0
    assert "`verdicts_raw_local` ON CLUSTER 'main'" in out
    assert "ENGINE = Distributed('main', " in out
    assert weir("down", "--dry-run")[:2] == (0, "-- nothing to do\n")
    assert weir("up", "--cluster", "o'clock")[0] == 2


@pytest.mark.slow
def test_two_at_once_migrate_once(bare: StoreSettings) -> None:
    """Two processes that both found the schema missing, and were held back until both had."""
    form = Form(bare.database)
    server = connect(bare, database="default")
    server.command(form.create_database())
    server.close()
    client = connect(bare)
    with held(bare, form, client):
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "streams", "migrate"],
                env={**os.environ, "WEIR_LOG_LEVEL": "WARNING"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in both:
            assert process.stderr
            assert "waiting for another migrator: " in process.stderr.readline()
    client.close()
    said = sorted(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said == ["".join(f"applied {label}\n" for label in LABELS), "the schema is up to date\n"]
    check(bare)
