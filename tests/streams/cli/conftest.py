"""The command line as a person meets it."""

import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.broker import TansuBroker
from sinks.clickhouse import StoreSettings
from streams.cli import main

Weir = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


@pytest.fixture
def weir(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Weir:
    """`weir("check", path, answer="y\\n")`: exit status, standard output, standard error; answer: standard input.

    A module whose tests are of one command has a fixture of this name that begins with it.
    """
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: object, answer: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weir", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(answer.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsysbinary.readouterr()
        return int(ended.value.code or 0), captured.out.decode(errors="surrogateescape"), captured.err.decode()

    return run


@pytest.fixture
def kafka(broker: TansuBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the broker."""
    monkeypatch.setenv("WEIR_KAFKA_URL", broker.url)


@pytest.fixture
def clickhouse(store: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find the store."""
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", store.url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_DATABASE", store.database)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write([{"text": "hi"}], "rows.jsonl")`: a file with a line a row."""

    def rows(given: Iterable[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
        return file

    return rows
