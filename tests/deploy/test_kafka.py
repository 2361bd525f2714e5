"""Apache Kafka as a second broker: it starts, behaves like one, and its jars are the pinned ones."""

import asyncio
import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.embedded import kafka
from deploy.embedded.kafka import ApacheKafka, FetchFailed, default_jars, fetch, unavailable
from deploy.embedded.process import ProcessFailed, free_port, tcp_open

PARTITIONS = 3
MESSAGES = 60
MESSAGES_A_PARTITION = MESSAGES // PARTITIONS
SECONDS = 60.0  # a client that waits for a broken broker would otherwise wait for ever
EVENT_TIME = 1_600_000_000_000  # years ago: older than any default retention


@pytest.fixture(scope="module")
def node(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    with ApacheKafka(jars, tmp_path_factory.mktemp("kafka")) as started:
        yield started


def bootstrap(node: ApacheKafka) -> str:
    return node.url.removeprefix("kafka://")


def port_of(node: ApacheKafka) -> int:
    return int(node.url.rsplit(":")[-1])


async def create_topic(node: ApacheKafka, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap(node))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=PARTITIONS, replication_factor=1)])
    finally:
        await admin.close()


async def produce(node: ApacheKafka, topic: str) -> None:
    """Send the messages 0, 1, 2, ... over the partitions in turn."""
    async with (
        asyncio.timeout(SECONDS),
        AIOKafkaProducer(bootstrap_servers=bootstrap(node), enable_idempotence=True, acks="all") as producer,
    ):
        for number in range(MESSAGES):
            await producer.send(topic, str(number).encode(), partition=number % PARTITIONS, timestamp_ms=EVENT_TIME)
        await producer.flush()


def consumer(node: ApacheKafka, topic: str, group: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap(node),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )


async def read(node: ApacheKafka, topic: str, group: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The next `count` messages that the group has not committed; commits them."""
    async with asyncio.timeout(SECONDS), consumer(node, topic, group) as reader:
        records = [await anext(reader) for _ in range(count)]
        await reader.commit()
    return records


async def ends(node: ApacheKafka, topic: str) -> list[int]:
    """End offset of each partition."""
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap(node)) as reader:
        offsets = await reader.end_offsets(partitions)
    return [offsets[partition] for partition in partitions]


def numbers(records: Sequence[ConsumerRecord[bytes, bytes]]) -> list[int]:
    return sorted(int(record.value or b"") for record in records)


def listening(pid: int) -> set[str]:
    """Local addresses that a process listens on, in the kernel's hexadecimal."""
    sockets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


@pytest.mark.asyncio
async def test_group_reads_back_what_an_idempotent_producer_sent(node: ApacheKafka) -> None:
    await create_topic(node, "events")
    await produce(node, "events")

    records = await read(node, "events", "readers", MESSAGES)

    assert numbers(records) == list(range(MESSAGES))
    assert {record.timestamp for record in records} == {EVENT_TIME}
    assert await ends(node, "events") == [MESSAGES_A_PARTITION] * PARTITIONS


@pytest.mark.asyncio
async def test_transaction_shows_only_committed_messages(node: ApacheKafka) -> None:
    await create_topic(node, "verdicts")
    async with (
        asyncio.timeout(SECONDS),
        AIOKafkaProducer(bootstrap_servers=bootstrap(node), transactional_id="judge") as producer,
    ):
        await producer.begin_transaction()
        await producer.send_and_wait("verdicts", b"1", partition=0)
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait("verdicts", b"2", partition=0)

    assert numbers(await read(node, "verdicts", "auditors", 1)) == [2]
    assert await ends(node, "verdicts") == [4, 0, 0]  # two messages, and the markers of an abort and a commit


@pytest.mark.asyncio
async def test_message_of_several_megabytes_is_taken(node: ApacheKafka) -> None:
    await create_topic(node, "large")
    value = os.urandom(7 * 1024 * 1024)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap(node), max_request_size=8 * 1024 * 1024) as producer:
        await producer.send_and_wait("large", value)

    [record] = await read(node, "large", "readers", 1)

    assert record.value == value


@pytest.mark.asyncio
async def test_restart_keeps_messages_and_group(jars: Path, tmp_path: Path) -> None:
    port = None
    for run, end in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGTERM]):
        with ApacheKafka(jars, tmp_path, port) as node:
            assert kafka._serves(port_of(node))
            if run == 0:
                await create_topic(node, "events")
                port = port_of(node)
            assert port_of(node) == port
            before = run * MESSAGES_A_PARTITION
            assert await ends(node, "events") == [before] * PARTITIONS
            await produce(node, "events")
            new = await read(node, "events", "readers", MESSAGES)
            assert numbers(new) == list(range(MESSAGES))
            assert {record.offset for record in new} == set(range(before, before + MESSAGES_A_PARTITION))
            node.signal(end)
            node.wait(timeout=30)


@pytest.mark.asyncio
async def test_topics_never_lose_messages_by_age(node: ApacheKafka) -> None:
    await create_topic(node, "replayed")
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap(node))
    await admin.start()
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "replayed")])
    finally:
        await admin.close()
    settings = {name: value for name, value, *_ in answer.resources[0][-1]}
    assert settings["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (struct.pack(">iii", 8, 1, 1), True),
        (struct.pack(">iii", 8, 1, 0), False),  # no broker was admitted yet
        (struct.pack(">ii", 8, 1), False),
        (b"", False),
    ],
    ids=["one broker", "no broker", "cut off", "closed"],
)
def test_ready_when_the_metadata_name_a_broker(answer: bytes, ready: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert kafka._serves(server.getsockname()[1]) is ready
        thread.join()


def test_not_ready_while_the_port_is_closed() -> None:
    assert kafka._serves(free_port()) is False


def test_listens_on_loopback_only(node: ApacheKafka) -> None:
    loopback_four = "0100007F"
    loopback_mapped = f"0000000000000000FFFF0000{loopback_four}"

    assert listening(node.pid) <= {loopback_four, loopback_mapped}
    assert listening(node.pid)


def test_refuses_a_port_in_use(node: ApacheKafka, jars: Path, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="in use"):
        ApacheKafka(jars, tmp_path, port=port_of(node))


def test_failed_start_tells_the_log(jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kafka._SETTINGS, "message.max.bytes", "many")

    with pytest.raises(ProcessFailed, match=r"kafka format ended with status 1(.|\n)*message\.max\.bytes"):
        ApacheKafka(jars, tmp_path)


def test_foreground_ends_in_order_on_ctrl_c(jars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the address has to come through a pipe at once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    argv = [sys.executable, "-m", "deploy.embedded.kafka", "--jars", str(jars), "--data", str(tmp_path)]
    with subprocess.Popen([*argv, "--port", str(free_port())], stdout=subprocess.PIPE, text=True) as command:
        try:
            assert command.stdout
            assert select.select([command.stdout], [], [], SECONDS)[0]
            url = command.stdout.readline().strip()
            assert url.startswith("kafka://127.0.0.1:")
            command.send_signal(signal.SIGINT)
            assert command.wait(timeout=SECONDS) == 0
        finally:
            command.kill()
    assert not tcp_open(int(url.rsplit(":")[-1]))
    assert (tmp_path / "topics" / ".kafka_cleanshutdown").exists()


# A stand-in for Maven or Java: it appends a line to `calls`, then runs the lines given.
_STAND_IN = "#!{python}\nimport pathlib, sys\nopen({calls!r}, 'a').write('called\\n')\n{body}"

_COPIES_ONE_JAR = """
folder = next(word for word in sys.argv if word.startswith('-DoutputDirectory=')).split('=', 1)[1]
pathlib.Path(folder).mkdir()
pathlib.Path(folder, 'one.jar').write_bytes(b'one')
"""
_FAILS = r"print('\x1b[0m[ERROR] no route'); sys.exit(1)"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole search path, with one pinned jar to fetch."""
    pins = tmp_path / "jars.sha256"
    pins.write_text(f"{hashlib.sha256(b'one').hexdigest()}  one.jar\n")
    monkeypatch.setattr(kafka, "PINS", pins)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def install(tools: Path, name: str, body: str) -> Path:
    """Put a stand-in on the path; returns the file that counts its calls."""
    calls = tools / f"{name}.calls"
    program = tools / name
    program.write_text(_STAND_IN.format(python=sys.executable, calls=str(calls), body=body))
    program.chmod(0o755)
    return calls


def install_java(tools: Path, version: str) -> None:
    install(tools, "java", f"print('openjdk version \"{version}\" 2025-04-15', file=sys.stderr)")


def test_fetch_runs_maven_once(tools: Path, tmp_path: Path) -> None:
    calls = install(tools, "mvn", _COPIES_ONE_JAR)
    target = tmp_path / "new" / "jars"

    fetch(target)
    fetch(target)

    assert (target / "one.jar").read_bytes() == b"one"
    assert calls.read_text() == "called\n"
    assert list(target.parent.iterdir()) == [target]  # no temporary folder stays


@pytest.mark.parametrize(
    "pins",
    [
        f"{hashlib.sha256(b'other').hexdigest()}  one.jar\n",
        f"{hashlib.sha256(b'one').hexdigest()}  two.jar\n",
        "",
    ],
    ids=["changed", "renamed", "unknown"],
)
def test_fetch_refuses_other_jars_than_the_pinned(tools: Path, tmp_path: Path, pins: str) -> None:
    install(tools, "mvn", _COPIES_ONE_JAR)
    kafka.PINS.write_text(pins)
    target = tmp_path / "new" / "jars"

    with pytest.raises(FetchFailed, match=r"not those of jars\.sha256.*one\.jar"):
        fetch(target)

    assert list(target.parent.iterdir()) == []


def test_fetch_refuses_a_folder_that_was_changed(tools: Path, tmp_path: Path) -> None:
    calls = install(tools, "mvn", _COPIES_ONE_JAR)
    fetch(tmp_path / "jars")
    (tmp_path / "jars" / "one.jar").write_bytes(b"two")

    with pytest.raises(FetchFailed, match=r"one\.jar; remove the folder"):
        fetch(tmp_path / "jars")

    assert calls.read_text() == "called\n"


def test_fetch_tells_why_maven_failed(tools: Path, tmp_path: Path) -> None:
    install(tools, "mvn", _FAILS)

    with pytest.raises(FetchFailed, match=r"failed: \[ERROR\] no route"):
        fetch(tmp_path / "jars")

    assert not (tmp_path / "jars").exists()


@pytest.mark.parametrize("version", [None, "1.8.0_442", "11.0.26"])
def test_unavailable_without_a_recent_java(tools: Path, tmp_path: Path, version: str | None) -> None:
    install(tools, "mvn", "")
    if version:
        install_java(tools, version)

    assert unavailable(tmp_path / "jars") == "no Java 17 or later"


@pytest.mark.parametrize("version", ["17.0.15", "21", "25-ea"])
def test_unavailable_without_maven(tools: Path, tmp_path: Path, version: str) -> None:
    install_java(tools, version)

    assert unavailable(tmp_path / "jars") == f"not fetched to {tmp_path / 'jars'} and Maven is missing"


def test_unavailable_when_maven_cannot_resolve(tools: Path, tmp_path: Path) -> None:
    install_java(tools, "17.0.15")
    install(tools, "mvn", _FAILS)

    reason = unavailable(tmp_path / "jars")

    assert reason
    assert "is Maven Central reachable?" in reason
    assert "no route" in reason


def test_available_once_fetched_even_without_maven(tools: Path, tmp_path: Path) -> None:
    install(tools, "mvn", _COPIES_ONE_JAR)
    fetch(tmp_path / "jars")
    (tools / "mvn").unlink()
    install_java(tools, "17.0.15")

    assert unavailable(tmp_path / "jars") is None


def test_default_jars_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kafka.JARS_VARIABLE, raising=False)
    assert default_jars() == Path(__file__).resolve().parents[2] / ".kafka" / "jars"
    monkeypatch.setenv(kafka.JARS_VARIABLE, "/elsewhere")
    assert default_jars() == Path("/elsewhere")
