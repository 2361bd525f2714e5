"""The service where everything is locked: TLS and logins everywhere, and no secret in anything that people can read."""

import asyncio
import base64
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from locked import Certificates, behind_tls, environment, quoting

from bench.instant_engine import InstantEngine
from deploy.embedded.kafka import ApacheKafka, Entrance
from deploy.embedded.process import ChildProcess, free_port, http_ok
from deploy.embedded.store import ChdbStore
from sinks.clickhouse import StoreSettings, connect
from streams.kafka import client_options
from streams.settings import Settings

SECONDS = 120.0
PIPELINE = """
name: watch
version: "1"
source: said
sla: 1m
stages:
  - name: judge
    writes: verdicts
    judge:
      operator: moderate
      categories: [{name: spam, definition: advertising}]
      calibration: {content_free: []}
"""


def secret(name: str) -> str:
    return f"S3CR3T{name}{uuid4().hex}"


PASSWORD, KEY, STORE_PASSWORD, CATALOGUE_KEY, WRONG = map(secret, ("kafka", "engine", "store", "catalogue", "wrong"))
SECRETS = (PASSWORD, KEY, STORE_PASSWORD, CATALOGUE_KEY, WRONG)


def shows(text: str) -> list[str]:
    """The secrets that stand in a text, as they are or as HTTP has them."""
    encoded = [base64.b64encode(f"weir:{value}".encode()).decode().rstrip("=") for value in SECRETS]
    return [value for value in (*SECRETS, *encoded) if value in text]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("locked")
    (made / "pipeline.yaml").write_text(PIPELINE)
    return made


@pytest.fixture(scope="module")
def settings(jars: Path, folder: Path, certificates: Certificates) -> Iterator[Settings]:
    entrance = Entrance(certificates.identity, certificates.authority, "weir", PASSWORD)
    with (
        ApacheKafka(jars, folder / "kafka", entrance=entrance) as kafka,
        ChdbStore(folder / "store") as store,
        InstantEngine(folder) as engine,
        behind_tls(store.url, certificates) as store_url,
        behind_tls(engine.url, certificates) as engine_url,
        quoting() as catalogue,
    ):
        yield Settings(
            kafka_url=kafka.entrance_url,
            kafka_session_seconds=6,
            kafka_tls=True,
            kafka_ca_file=str(certificates.authority),
            kafka_cert_file=str(certificates.cert),
            kafka_key_file=str(certificates.key),
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_user="weir",
            kafka_password=PASSWORD,
            engine_url=engine_url,
            engine_ca_file=str(certificates.authority),
            engine_api_key=KEY,
            clickhouse_url=store_url,
            clickhouse_user="weir",
            clickhouse_password=STORE_PASSWORD,
            clickhouse_ca_file=str(certificates.authority),
            openlineage_url=catalogue,
            openlineage_api_key=CATALOGUE_KEY,
            web_port=free_port(),
            log_level="DEBUG",
        )


def page(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())


def weir(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command; it must show no secret, however it ends."""
    done = subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        env={**os.environ, **environment(settings)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert not shows(done.stdout + done.stderr), done.stderr
    return done


async def judged(settings: Settings, source: str) -> dict[str, Any]:
    """Publish a message and read a verdict."""
    async with AIOKafkaProducer(**client_options(settings), acks="all") as producer:
        await producer.send_and_wait(source, b'{"text": "free coins, click here", "author": "ann"}')
        await producer.send_and_wait(source, b"{")
    async with AIOKafkaConsumer("verdicts", **client_options(settings), auto_offset_reset="earliest") as consumer:
        verdict: dict[str, Any] = orjson.loads((await consumer.getone()).value)
        return verdict


async def test_a_worker_behind_tls_and_logins_shows_no_secret(settings: Settings, folder: Path) -> None:
    for command in (["migrate"], ["topics", "create", "-p", str(folder), "--partitions", "1"], ["check", str(folder)]):
        done = weir(settings, *command)
        assert done.returncode == 0, done.stderr
    log = folder / "worker.log"
    argv = [sys.executable, "-m", "streams", "worker", "--pipelines", str(folder)]
    with ChildProcess("worker", argv, log, environment(settings)) as worker:
        root = f"http://127.0.0.1:{settings.web_port}"
        worker.wait_ready(lambda: http_ok(f"{root}/health/ready"), SECONDS)
        verdict = await judged(settings, "said")
        pages = [await asyncio.to_thread(page, f"{root}{path}") for path in ("/", "/metrics", "/health/ready")]
    assert verdict["author"] == "ann"
    assert "dead letter" in log.read_text()
    assert not shows(log.read_text())
    assert not shows("".join(pages))
    client = connect(settings.store)
    tables = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_rows
    rows = [row for (name,) in tables for row in client.query(f"SELECT toString(tuple(*)) FROM {name}").result_rows]
    client.close()
    assert rows
    assert not shows(str(rows))
    async with AIOKafkaConsumer(
        "said.dlq", "verdicts", **client_options(settings), auto_offset_reset="earliest"
    ) as consumer:
        assert not shows("".join(map(str, [await consumer.getone(), await consumer.getone()])))


def test_plain_login(settings: Settings, folder: Path) -> None:
    plain = settings.model_copy(update={"kafka_sasl_mechanism": "PLAIN"})
    assert weir(plain, "topics", "create", "-p", str(folder)).returncode == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kafka_password": WRONG}, "uthentication"),
        ({"kafka_sasl_mechanism": "PLAIN", "kafka_password": WRONG}, "uthentication"),
        ({"kafka_ca_file": "other"}, "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_kafka_does_not_let_us_in(
    settings: Settings, folder: Path, certificates: Certificates, changed: dict[str, Any], told: str
) -> None:
    values = {name: getattr(settings, name) for name in settings.model_fields_set} | changed
    if "kafka_ca_file" in changed:
        values["kafka_ca_file"] = str(certificates.other)
    done = weir(Settings(**values), "topics", "create", "-p", str(folder))
    assert done.returncode == 2
    assert re.search(told, done.stderr), done.stderr


def test_servers_that_quote_our_secrets(folder: Path) -> None:
    with quoting() as url:
        known = Settings(
            kafka_url="kafka://127.0.0.1:1",
            engine_url=url,
            engine_api_key=KEY,
            clickhouse_url=url,
            clickhouse_user="weir",
            clickhouse_password=STORE_PASSWORD,
            log_level="DEBUG",
            web_port=0,
        )
        for command in (["migrate"], ["worker", "-p", str(folder)]):
            done = weir(known, *command)
            assert done.returncode == 2
            assert "***" in done.stderr


def test_secrets_are_in_no_repr() -> None:
    known = Settings(engine_api_key=KEY, clickhouse_password=STORE_PASSWORD, openlineage_api_key=CATALOGUE_KEY)
    shown = [repr(known), str(known), repr(known.engine), repr(known.store), known.model_dump_json()]
    assert not shows("".join(shown))
    assert StoreSettings("http://a:1", password=WRONG).password == WRONG


@pytest.mark.parametrize("name", ["KAFKA_URL", "ENGINE_URL", "CLICKHOUSE_URL", "OPENLINEAGE_URL"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streams.cli import main

    scheme = "kafka" if name == "KAFKA_URL" else "https"
    monkeypatch.setenv(f"WEIR_{name}", f"{scheme}://weir:{WRONG}@host:1")
    monkeypatch.setattr(sys, "argv", ["weir", "migrate"])
    with pytest.raises(SystemExit, match="2"):
        main()
    told = capsys.readouterr()
    assert f"WEIR_{name}" in told.err
    assert not shows(told.out + told.err)
