"""The command `weir`, on real servers."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.embedded.broker import TansuBroker
from deploy.embedded.process import free_port
from sinks.clickhouse import StoreSettings
from sinks.rows import LineageEdgeRow, SourceRow
from sinks.writer import Writer
from streams.asyncapi import document
from streams.identity import uuid_text
from streams.metrics import document as metrics_page
from streams.pipeline import Pipeline, load_all
from streams.settings import document as settings_page
from tests.streams.cli.conftest import Weir

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("logging_as_before")


def test_good_pipelines_are_told(weir: Weir, shipped: Path) -> None:
    status, out, err = weir("check", shipped)
    assert (status, err) == (0, "")
    assert "support.tickets -> triage -> support.triage" in out
    assert "  classify: billing, shipping, account, technical, refund, other; " in out


def test_the_limits_of_a_pipeline_are_told(weir: Weir, shipped: Path, tmp_path: Path) -> None:
    file = tmp_path / "limited.yaml"
    limits = "limits: {requests_per_second: 5, tenants: {acme: {usd_per_day: 1}}}\n"
    file.write_text((shipped / "ticket-triage.yaml").read_text() + limits)
    status, out, _ = weir("check", file)
    assert status == 0
    assert "  limits of all tenants: 5 requests/s\n  limits of tenant acme: 1 USD a day, then review\n" in out


def test_mistakes_in_pipelines_are_told(weir: Weir, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("name: bad\nslo: 5s\n")
    status, out, err = weir("check", file)
    assert (status, out) == (2, "")
    assert err.startswith(f"weir: {file}:2: slo: unknown field slo; ")
    assert "Traceback" not in err


def test_generated_documents(weir: Weir, shipped: Path) -> None:
    assert json.loads(weir("schema", "pipeline")[1]) == Pipeline.model_json_schema()
    assert json.loads(weir("schema", "asyncapi", "-p", shipped)[1]) == document(load_all([shipped]))
    assert weir("schema", "metrics")[1] == metrics_page()
    assert weir("schema", "settings")[1] == settings_page()


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["migrate"], ["CLICKHOUSE"]),
        (["tail", "t"], ["KAFKA"]),
        (["produce", "t"], ["KAFKA"]),
        (["lineage", "00000000-0000-7000-8000-000000000000"], ["CLICKHOUSE"]),
        (["worker", "-p", "deploy/pipelines"], ["KAFKA", "ENGINE", "CLICKHOUSE"]),
    ],
)
def test_a_command_needs_only_the_settings_that_it_uses(weir: Weir, arguments: list[str], missing: list[str]) -> None:
    status, _, err = weir(*arguments)
    assert status == 2
    title, *lines = err.splitlines()
    assert title == "weir: settings:"
    assert [line.split(":")[0].strip() for line in lines] == [f"WEIR_{name}_URL" for name in missing]


@pytest.mark.usefixtures("kafka")
def test_topics_are_created_once(weir: Weir, tmp_path: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"t-{uuid4().hex}"
    file = tmp_path / "one.yaml"
    text = (shipped / "ticket-triage.yaml").read_text(encoding="utf-8")
    file.write_text(text.replace("support.tickets", name).replace("support.triage", f"{name}.out"), encoding="utf-8")
    monkeypatch.setenv("WEIR_REVIEWS_TOPIC", f"{name}.reviews")
    for state in ("created", "exists "):
        status, out, _ = weir("topics", "create", "-p", file, "--partitions", 2)
        assert status == 0
        assert [line.split(":")[0] for line in out.splitlines()] == [
            f"{state} {name}",
            f"{state} {name}.dlq",
            f"{state} {name}.out",
            f"{state} {name}.reviews",
            f"{state} {name}.reviews.dlq",
        ]


@pytest.fixture
def topic(new_topic: Callable[..., Awaitable[str]]) -> str:
    return asyncio.run(new_topic())  # the commands have loops of their own


@pytest.mark.usefixtures("kafka")
def test_what_is_produced_can_be_read(weir: Weir, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "héllo", "id": "e-1", "thread": "t", "label": "ok"}\n\n{"text": "two"}\n', encoding="utf-8"
    )
    assert weir("produce", topic, file, "--source", "/here")[:2] == (0, f"published 2 messages to {topic}\n")
    assert weir("produce", topic, answer='{"text": "three"}\n')[:2] == (0, f"published 1 messages to {topic}\n")
    status, out, _ = weir("tail", topic, "--from-start", "-n", 3)
    first, second, third = map(json.loads, out.splitlines())
    assert status == 0
    assert (first["value"]["text"], second["value"]["text"], third["value"]["text"]) == ("héllo", "two", "three")
    assert (first["key"], first["headers"]["ce_id"], first["headers"]["ce_source"]) == ("t", "e-1", "/here")
    assert (second["key"], third["headers"]["ce_source"]) == (None, "/weir/produce")


@pytest.mark.usefixtures("kafka")
def test_messages_that_are_no_json_can_be_read(weir: Weir, topic: str, broker: TansuBroker) -> None:
    async def publish() -> None:
        from aiokafka import AIOKafkaProducer

        async with AIOKafkaProducer(bootstrap_servers=broker.url.removeprefix("kafka://")) as producer:
            await producer.send_and_wait(topic, b"a\xff", b"\xfe", headers=[("h", b"\xff"), ("none", None)])
            await producer.send_and_wait(topic, None, b"tombstone")

    asyncio.run(publish())
    _, out, _ = weir("tail", topic, "--from-start", "--count", 2)
    first, second = map(json.loads, out.splitlines())
    assert first == {
        "partition": 0,
        "offset": 0,
        "key": "\\xfe",
        "headers": {"h": "\\xff", "none": ""},
        "value": "a\\xff",
    }
    assert (second["key"], second["value"]) == ("tombstone", None)


@pytest.mark.usefixtures("kafka")
@pytest.mark.parametrize(
    ("content", "says"), [("{\n", "line 1 is not JSON"), (None, "No such file"), ("\xff", "utf-8")]
)
def test_a_file_that_cannot_be_produced(weir: Weir, topic: str, tmp_path: Path, content: str | None, says: str) -> None:
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    status, _, err = weir("produce", topic, file)
    assert status == 2
    assert err.startswith(f"weir: {file}: ")
    assert says in err


def test_the_schema_is_brought_up_to_date_once(
    weir: Weir, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", store.url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_DATABASE", f"{store.database}_more")
    names = ["0001_initial", "0002_reuse_and_rollups", "0003_operators", "0004_calls"]
    names += ["0005_reviews", "0006_evaluations", "0007_cascade", "0008_erasures"]
    assert weir("migrate")[:2] == (0, "".join(f"applied {name}\n" for name in names))
    assert weir("migrate")[:2] == (0, "the schema is up to date\n")


@pytest.mark.parametrize("command", [["migrate"], ["lineage", "00000000-0000-7000-8000-000000000000"]])
def test_a_store_that_does_not_answer(weir: Weir, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", url)
    status, _, err = weir(*command)
    assert status == 2
    assert err.startswith(f"weir: ClickHouse {url}")
    assert "Traceback" not in err


def test_a_broker_that_does_not_answer(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_KAFKA_URL", f"kafka://127.0.0.1:{free_port()}")
    status, _, err = weir("tail", "t")
    assert status == 2
    assert err.splitlines()[-1].startswith("weir: ")
    assert "Traceback" not in err


@pytest.mark.usefixtures("clickhouse")
def test_lineage_of_a_row(weir: Weir, store: StoreSettings) -> None:
    parent = 1_772_600_767_000 << 80 | 0x7 << 76 | 0b10 << 62 | 1
    row = SourceRow(parent, NOW, NOW, "/forum", "e-1", "messages", 3, 41, "", "t", "ann", "en", "hello", NOW)

    async def write() -> None:
        writer = Writer(store, linger=0)
        writer.start()
        await writer.write([row, LineageEdgeRow(parent + 1, parent, "input", NOW)])
        await writer.close()

    asyncio.run(write())
    status, out, _ = weir("lineage", uuid_text(parent + 1))
    assert status == 0
    assert "not in the store" in out
    assert "└── input message, ann: “hello”" in out
    tree = json.loads(weir("lineage", uuid_text(parent + 1), "--json")[1])
    assert (tree["kind"], tree["parents"][0]["facts"]["text"]) == ("missing", "hello")
    missing = uuid_text(5)
    assert weir("lineage", missing)[::2] == (1, f"weir: no row {missing}\n")


def test_a_row_id_that_is_none(weir: Weir) -> None:
    assert weir("lineage", "e-1")[0] == 2


def test_logs_have_the_level_of_the_settings(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_LOG_LEVEL", "ERROR")
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", f"http://127.0.0.1:{free_port()}")
    weir("migrate")
    assert logging.getLogger().level == logging.ERROR


def test_standard_output_is_for_answers(weir: Weir, shipped: Path) -> None:
    for name in ("pipeline", "metrics", "settings"):
        status, out, err = weir("schema", name)
        assert (status, err) == (0, "")
        assert out.endswith("\n")
    assert weir("check", shipped)[2] == ""


def test_words_that_no_command_has(weir: Weir) -> None:
    status, _, err = weir("judge")
    assert status == 2
    assert "judge" in err
