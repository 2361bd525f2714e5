"""A store with Weir's tables, and rows that fit them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, connect
from sinks.migrate import migrate
from sinks.rows import (
    AnyRow,
    CallRow,
    CascadeFitRow,
    DocumentRow,
    EngineUsageRow,
    EvaluatedRow,
    EvaluationRow,
    InferenceCallRow,
    LineageEdgeRow,
    PromptRow,
    ReviewRow,
    SourceRow,
    TurnRow,
    VerdictRow,
)

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
ROW_ID = (int(NOW.timestamp()) * 1000 + 89) << 80 | 0x7 << 76 | 0b10 << 62 | 1

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def new_database(store_url: str) -> Iterator[Callable[[], StoreSettings]]:
    """Settings for a database that does not exist yet; it is dropped at the end."""
    made: list[str] = []

    def name() -> StoreSettings:
        made.append(f"weir_{uuid4().hex}")
        return StoreSettings(store_url, database=made[-1])

    yield name
    client = connect(StoreSettings(store_url), database="default")
    for database in made:
        client.command(f"DROP DATABASE IF EXISTS `{database}`")
    client.close()


@pytest.fixture(scope="module")
def settings(new_database: Callable[[], StoreSettings]) -> StoreSettings:
    """A database with all migrations."""
    chosen = new_database()
    migrate(chosen)
    return chosen


@pytest.fixture(scope="module")
def client(settings: StoreSettings) -> Iterator[Client]:
    opened = connect(settings)
    yield opened
    opened.close()


@pytest.fixture
def tables(client: Client, settings: StoreSettings) -> Client:
    """A client of the tables, which are empty."""
    names = client.query(
        "SELECT name FROM system.tables WHERE database = {database:String} AND name LIKE '%\\_raw'",
        parameters={"database": settings.database},
    ).result_rows
    for (name,) in names:
        client.command(f"TRUNCATE TABLE {name}")
    return client


class _NoEntry(BaseHTTPRequestHandler):
    """Answers as ClickHouse does to a wrong password."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = (
            b"Code: 516. DB::Exception: weir: Authentication failed: password is incorrect, or there is no user with "
            b"such name.\n\nIf you use ClickHouse Cloud, ... (AUTHENTICATION_FAILED) (version 25.8.1.1)\n"
        )
        self.send_response(403)
        self.send_header("X-ClickHouse-Exception-Code", "516")
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def locked() -> Iterator[StoreSettings]:
    """Settings for a server that refuses their password."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoEntry) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield StoreSettings(f"http://127.0.0.1:{server.server_port}", user="weir", password="hunter2")
        server.shutdown()
        thread.join()


_ROWS: dict[type[AnyRow], dict[str, Any]] = {
    EngineUsageRow: {
        "period_start": NOW,
        "worker": "w-1",
        "engine": "http://engine:8000",
        "pipeline": "watch",
        "stage": "moderate",
        "tenant": "acme",
        "use": "judged",
        "seconds": 1.5,
        "cost_usd": 0.001,
        "calls": 3,
        "input_tokens": 900,
        "cached_tokens": 700,
        "output_tokens": 3,
        "written_at": NOW,
    },
    SourceRow: {
        "row_id": ROW_ID,
        "event_time": NOW,
        "broker_time": NOW,
        "source": "/tests",
        "event_id": "e-1",
        "topic": "messages",
        "partition": 3,
        "offset": 41,
        "tenant": "acme",
        "thread": "t-1",
        "author": "ann",
        "lang": "en",
        "text": "hello",
        "written_at": NOW,
        "attributes": '{"turn":7}',
    },
    VerdictRow: {
        "row_id": ROW_ID + 1,
        "source_row_id": ROW_ID,
        "pipeline": "moderation",
        "pipeline_version": "1",
        "stage": "moderate",
        "operator": "moderate",
        "tenant": "acme",
        "lang": "en",
        "event_time": NOW,
        "broker_time": NOW,
        "judged_at": NOW,
        "topic": "messages",
        "partition": 3,
        "offset": 41,
        "decision": "allow",
        "label": "ok",
        "scores": [0.75, 0.25],
        "confidence": 0.75,
        "model": "m-1",
        "prompt_hash": "a1",
        "parts": 1,
        "input_tokens": 30,
        "cached_tokens": 20,
        "output_tokens": 1,
        "cost_usd": 0.001,
        "latency_ms": 5,
        "engine_seconds": 0.25,
        "prompt_version": "v4",
    },
    DocumentRow: {
        "tenant": "acme",
        "document": "page-1",
        "event_time": NOW,
        "row_id": ROW_ID + 2,
        "withdrawn": False,
        "lang": "en",
        "topic": "documents",
        "partition": 0,
        "offset": 5,
        "text": "Towing: 15 miles",
        "written_at": NOW,
    },
    TurnRow: {
        "topic": "turns",
        "partition": 3,
        "tenant": "acme",
        "call": "call-1",
        "number": 7,
        "row_id": ROW_ID,
        "offset": 41,
        "final": True,
        "documents": ["page-1"],
        "event_time": NOW,
        "written_at": NOW,
    },
    CallRow: {
        "topic": "turns",
        "partition": 3,
        "tenant": "acme",
        "call": "call-1",
        "messages": 9,
        "row_id": ROW_ID + 3,
        "turns": 8,
        "missing": 1,
        "closed_by": "final",
        "started": NOW,
        "ended": NOW,
        "closed_at": NOW,
    },
    InferenceCallRow: {
        "row_id": ROW_ID + 1,
        "call": 0,
        "called_at": NOW,
        "model": "m-1",
        "prompt_hash": "a1",
        "input_tokens": 30,
        "cached_tokens": 20,
        "output_tokens": 1,
        "seconds": 0.5,
        "cost_usd": 0.001,
    },
    ReviewRow: {
        "row_id": ROW_ID + 1,
        "review_id": ROW_ID + 9,
        "source_row_id": ROW_ID,
        "pipeline": "moderation",
        "stage": "moderate",
        "operator": "moderate",
        "tenant": "acme",
        "lang": "en",
        "event_time": NOW,
        "judged_at": NOW,
        "reviewed_at": NOW,
        "reviewer": "ann",
        "decision": "block",
        "label": "spam",
        "model_decision": "allow",
        "model_label": "ok",
        "was_decision": "allow",
        "was_label": "ok",
        "was_by": "model",
        "comment": "seen before",
        "source": "/reviews",
        "event_id": "r-1",
        "topic": "reviews",
        "partition": 0,
        "offset": 7,
        "written_at": NOW,
    },
    LineageEdgeRow: {"child": ROW_ID + 1, "parent": ROW_ID, "kind": "input", "written_at": NOW},
    EvaluationRow: {
        "run": "a" * 32,
        "name": "small",
        "evaluated_at": NOW,
        "dataset": "rows.jsonl",
        "dataset_hash": "d1",
        "rows_hash": "r1",
        "rows": 2,
        "left_out": 0,
        "given_up": 0,
        "seed": 1,
        "pipeline": "moderation",
        "pipeline_version": "1",
        "stage": "moderate",
        "operator": "moderate",
        "prompt_version": "v4",
        "prompt_hash": "a1",
        "prompt_text": "Judge: {text}",
        "settings_hash": "s1",
        "settings": "{}",
        "model": "m-1",
        "engine": "small",
        "engine_url": "http://engine:8000",
        "engine_version": "0.32.0",
        "weir_version": "0.1.0",
        "labels": ["ok", "spam"],
        "fine": "ok",
        "coarse": [],
        "options": "{}",
        "metrics": "{}",
    },
    EvaluatedRow: {
        "run": "a" * 32,
        "row_key": "k1",
        "row_id": "e-1",
        "truth": "ok",
        "lang": "en",
        "decision": "allow",
        "predicted": "ok",
        "flagged": False,
        "scores": [0.75, 0.25],
        "confidence": 0.75,
        "seconds": 0.5,
        "engine_seconds": 0.25,
        "cost_usd": 0.001,
        "input_tokens": 30,
        "cached_tokens": 20,
        "output_tokens": 1,
        "judged_at": NOW,
    },
    CascadeFitRow: {
        "pipeline": "moderation",
        "stage": "moderate",
        "screen": "words-1",
        "prompt_hash": "a1",
        "model": "m-1",
        "goal": "recall 0.95",
        "fitted_at": NOW,
        "open": False,
        "pass_below": 0.25,
        "flag_from": None,
        "rows": 500,
        "flagged": 90,
        "claims": "[]",
        "reason": "it is new",
    },
    PromptRow: {
        "prompt_hash": "a1",
        "model": "m-1",
        "pipeline": "moderation",
        "pipeline_version": "1",
        "stage": "moderate",
        "operator": "moderate",
        "labels": ["ok", "spam"],
        "text": "Judge: {text}",
        "used_at": NOW,
    },
}


@pytest.fixture(scope="session")
def make() -> Make:
    """`make(SourceRow, text="x")`: a row that fits its table, but for the columns given."""

    def row(of: type[AnyRow], /, **columns: Any) -> AnyRow:
        return of(**{**_ROWS[of], **columns})

    return row


@pytest.fixture(scope="session")
def sql_folder() -> Path:
    return Path(__file__).parents[2] / "sinks" / "migrations"
