"""What others say of our secrets is not repeated."""

import logging
import sys

import pytest

from sinks import migrate
from streams import logs, settings
from streams.cli import main
from streams.secrets import hide

pytestmark = pytest.mark.usefixtures("logging_as_before")

PASSWORD, KEY = "correct-horse-battery", "sk-0123456789abcdef"
BASIC = "d2Vpcjpjb3JyZWN0LWhvcnNlLWJhdHRlcnk"  # of weir and the password


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_CLICKHOUSE_USER", "weir")
    monkeypatch.setenv("WEIR_CLICKHOUSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("WEIR_ENGINE_API_KEY", KEY)
    settings.load([])


def test_a_secret_gives_way_to_stars() -> None:
    assert hide(f"Bearer {KEY}: no; Basic {BASIC}==, {PASSWORD}!") == "Bearer ***: no; Basic ***==, ***!"
    assert hide("nothing of ours") == "nothing of ours"


def test_log_lines_and_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    try:
        raise OSError(f"refused: {KEY}")
    except OSError:
        logging.getLogger("streams.worker").exception("with %s", PASSWORD)
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert KEY not in told
    assert PASSWORD not in told


def test_an_error_that_nobody_foresaw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"refused: {KEY}")

    monkeypatch.setattr(migrate, "migrate", fail)
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(sys, "argv", ["weir", "migrate"])
    with pytest.raises(SystemExit, match="1"):
        main()
    told = capsys.readouterr().err
    assert "RuntimeError: refused: ***" in told
    assert KEY not in told
