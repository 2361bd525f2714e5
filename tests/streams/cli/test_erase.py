"""`weir erase`, on a real broker and a real store."""

import asyncio
import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from faust.types.tuples import ConsumerMessage

from sinks.clickhouse import StoreSettings, connect
from streams import dlq, topics
from streams.cli import main
from streams.decode import decode
from streams.dlq_topic import DeadLetterTopic
from streams.errors import DeadLetter, Reason
from streams.kafka import client_options
from streams.pipeline import load
from streams.settings import Settings
from streams.tail import consumer
from streams.verdicts import source_row

pytestmark = pytest.mark.usefixtures("logging_as_before", "servers")

Weir = Callable[..., tuple[int, str, str]]

PIPELINE = """
name: {name}
version: "1"
source: {name}
sla: 10s
documents: {{topic: {name}.pages}}
stages:
  - name: check
    writes: {name}.findings
    judge: {{operator: check}}
"""


@pytest.fixture
def servers(settings: Settings, store: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_KAFKA_URL", settings.kafka_url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_URL", store.url)
    monkeypatch.setenv("WEIR_CLICKHOUSE_DATABASE", store.database)


@pytest.fixture
def weir(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    """`weir("--author", name)`: exit status, standard output, standard error."""

    def run(*arguments: object, answer: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weir", "erase", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def pipeline(settings: Settings, tmp_path: Path) -> Path:
    """A pipeline file with its topics."""
    file = tmp_path / "pipeline.yaml"
    file.write_text(PIPELINE.format(name=f"p{uuid4().hex}"))
    asyncio.run(topics.create(settings, topics.topics_of([load(file)]), 1, 1))
    return file


@pytest.fixture
def ann(settings: Settings, store: StoreSettings, pipeline: Path, message: Callable[..., ConsumerMessage]) -> str:
    """An author with a stored message, a dead letter and a document."""
    name, source = f"ann-{uuid4().hex}", load(pipeline).source
    body = {"text": "a zebra", "author": name, "tenant": "acme"}
    dead = message(body, topic=source, partition=0)
    letters = (dead, message(body | {"author": "bob"}, topic=source, partition=0, offset=42))

    async def publish() -> None:
        async with AIOKafkaProducer(**client_options(settings)) as producer:
            for letter in letters:
                error = DeadLetter(Reason.WRONG_FIELD, "no")
                headers = list(dlq.headers(letter, error, f"{source}/check", datetime.now(UTC)))
                await producer.send_and_wait(f"{source}.dlq", letter.value, b"k", headers=headers)
            for key, author in ((b"page-1", name), (b"page-2", name), (b"page-2", "bob")):
                value = json.dumps(body | {"author": author}).encode()
                await producer.send_and_wait(f"{source}.pages", value, key)

    asyncio.run(publish())
    client = connect(store)
    row = source_row(decode(dead), datetime.now(UTC))
    client.insert("source_rows_raw", [row], column_names=row._fields)
    client.close()
    return name


def last_of_each_key(settings: Settings, topic: str, count: int) -> dict[bytes, bytes | None]:
    async def read() -> dict[bytes, bytes | None]:
        async with consumer(settings, topic, from_start=True) as opened, asyncio.timeout(15):
            records = [await anext(opened) for _ in range(count)]
        return {record.key: record.value for record in records}

    return asyncio.run(read())


def texts(store: StoreSettings, author: str) -> list[str]:
    client = connect(store)
    query = "SELECT text FROM source_rows WHERE author = {author:String}"
    found = client.query(query, parameters={"author": author}).result_rows
    client.close()
    return [text for (text,) in found]


def test_store_dead_letters_and_compacted_topics(
    weir: Weir, ann: str, pipeline: Path, store: StoreSettings, settings: Settings
) -> None:
    source = load(pipeline).source
    status, out, err = weir("--author", ann, "-p", pipeline, "--dry-run")
    assert (status, err) == (0, "")
    assert "found 1 messages and documents of the author" in out
    assert f"{source}.dlq: 1 dead letters would be dropped" in out
    assert f"{source}.pages: 1 tombstones would be written" in out
    assert texts(store, ann) == ["a zebra"]

    assert weir("--author", ann, "-p", pipeline, "--wait", "0s", answer="n\n")[0] == 1
    assert texts(store, ann) == ["a zebra"]

    status, out, err = weir("--author", "-", "-p", pipeline, "--wait", "0s", "--yes", answer=f"{ann}\n")
    assert (status, err) == (0, "")
    assert "erased 1 texts" in out
    assert ann not in out
    assert texts(store, ann) == []
    entries = asyncio.run(DeadLetterTopic(settings, source).entries()).entries
    assert {entry.letter.origin.offset: entry.action for entry in entries} == {41: "dropped", 42: None}
    pages = last_of_each_key(settings, f"{source}.pages", 4)
    assert pages[b"page-1"] is None
    assert pages[b"page-2"] is not None


def test_of_another_tenant(weir: Weir, ann: str, store: StoreSettings) -> None:
    assert "found nothing" in weir("--author", ann, "--tenant", "umbrella", "--dry-run")[1]
    assert weir("--author", ann, "--tenant", "umbrella", "--wait", "0s", "-y")[0] == 0
    assert texts(store, ann) == ["a zebra"]


@pytest.mark.parametrize(
    ("arguments", "told"), [(("--author", ""), "is empty"), (("--author", "a", "--wait", "x"), "--wait")]
)
def test_what_is_meant_must_be_clear(weir: Weir, arguments: tuple[str, ...], told: str) -> None:
    status, _, err = weir(*arguments)
    assert status == 2
    assert told in err
