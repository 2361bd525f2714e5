"""Apache Kafka itself, on the JVM, with its jars from Maven Central: a second broker to test against."""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.process import ChildProcess, ProcessFailed, free_port, tcp_open

NAME = "kafka"
JARS_VARIABLE = "WEIR_TEST_KAFKA_JARS"
DEFAULT_PORT = 9092

POM = Path(__file__).resolve().parents[1] / "kafka" / "pom.xml"
PINS = POM.with_name("jars.sha256")  # in the format of sha256sum(1)

_OLDEST_JAVA = 17
_MAVEN_SECONDS = 600.0
_LARGEST_MESSAGE = 8 * 1024 * 1024
_CLUSTER_ID = "weir-embedded-kafka-1A"  # has to be 16 bytes in URL-safe base64

_JVM_OPTIONS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # a short life gains more from a quick start than from the optimising compiler
    "-XX:+ExitOnOutOfMemoryError",  # a dead server is noticed, a limping one is not
    "-XX:-UsePerfData",  # otherwise a file per JVM outside the data folder
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",  # it logs every setting of every client
)

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(_LARGEST_MESSAGE),
    # Replayed messages keep the time of their event, which may be older than any retention.
    "log.retention.ms": "-1",
    "group.initial.rebalance.delay.ms": "0",
    # The internal topics: their defaults ask for three brokers, and for 50 partitions that take seconds to create.
    "offsets.topic.num.partitions": "5",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # After a kill, the controller admits the node again only when the session of the one before has run out.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Half of the heap by default.
    "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


class FetchFailed(RuntimeError):
    """Maven did not deliver the jars, or they are not the pinned ones; the message says which."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """A second listener of a node: TLS in both directions, and a login by SCRAM-SHA-512 or PLAIN.

    identity: file of the node's private key (PKCS #8) and its certificates, PEM. authority: file of the certificate
    authority of clients, PEM. user, password: of the one who may log in.
    """

    identity: Path
    authority: Path
    user: str
    password: str


class ApacheKafka(ChildProcess):
    """A single node on loopback, ready when the constructor returns. Its topics stay in its data folder."""

    def __init__(
        self,
        jars: Path,
        data: Path,
        port: int | None = None,
        timeout: float = 60.0,
        entrance: Entrance | None = None,
    ) -> None:
        """Start a node on `data`, which is formatted the first time.

        jars: folder filled by `fetch`. data: folder for its topics, settings and log. port: None takes a free one.
        timeout: seconds to become ready. entrance: a listener at `entrance_url` as well. Raises ProcessFailed, and
        FileNotFoundError without Java 17 or later.
        """
        port = free_port() if port is None else port
        if tcp_open(port):  # otherwise the server found there would be taken for this one
            raise ProcessFailed(f"{NAME}: port {port} on loopback is in use")
        self.url = f"kafka://127.0.0.1:{port}"
        entrance_port = free_port()
        self.entrance_url = f"kafka://127.0.0.1:{entrance_port}" if entrance else ""
        data = data.resolve()
        topics = data / "topics"
        temporary = data / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        settings = data / "server.properties"
        listener = _entrance(entrance, entrance_port) if entrance else {}
        settings.write_text(_properties(port, topics, listener))
        user = ["--add-scram", f"SCRAM-SHA-512=[name={entrance.user},password={entrance.password}]"] if entrance else []
        java = [
            _required_java(),
            *_JVM_OPTIONS,
            f"-Djava.io.tmpdir={temporary}",  # native libraries are unpacked there, and stay after a kill
            "-cp",
            f"{jars.resolve()}/*",
        ]
        if not (topics / "meta.properties").exists():
            _format(java, settings, data / "format.log", timeout, user)
        super().__init__(NAME, [*java, "kafka.Kafka", str(settings)], data / "broker.log")
        self.wait_ready(lambda: _serves(port), timeout)


def default_home() -> Path:
    """Folder for jars and data: `.kafka` in the checkout, else in the working folder."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").is_file() else Path.cwd()) / ".kafka"


def default_jars() -> Path:
    """Folder of the jars: what WEIR_TEST_KAFKA_JARS says, else `jars` in the default home."""
    return Path(os.environ.get(JARS_VARIABLE) or default_home() / "jars")


def fetch(target: Path) -> None:
    """Have the pinned jars in the folder `target`; Maven runs only if it holds none.

    They appear all at once, by a rename, and are checked whether they are new or not. Raises FetchFailed.
    """
    if not _fetched(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as folder:
            fresh = Path(folder) / "jars"
            _maven("dependency:copy-dependencies", f"-DoutputDirectory={fresh}")
            _check_pins(fresh)
            _publish(fresh, target)
    _check_pins(target)


def unavailable(target: Path) -> str | None:
    """Why Kafka cannot be had, in words, or None when `fetch(target)` followed by a start should work.

    Where the jars are not there yet, Maven is asked to resolve them: its own cache has them afterwards.
    """
    if _java() is None:
        return f"no Java {_OLDEST_JAVA} or later"
    if _fetched(target):
        return None
    if shutil.which("mvn") is None:
        return f"not fetched to {target} and Maven is missing"
    try:
        _maven("dependency:resolve")
    except FetchFailed as error:
        return f"not fetched to {target} and Maven cannot get it (is Maven Central reachable?): {error}"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node in the foreground until Ctrl-C or SIGTERM; returns 1 if it cannot start or ends by itself."""
    parser = argparse.ArgumentParser(prog="python -m deploy.embedded.kafka", description=__doc__)
    parser.add_argument("--jars", type=Path, default=default_jars(), help="folder of the jars (%(default)s)")
    parser.add_argument("--data", type=Path, default=default_home() / "data", help="folder of the topics (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="port on loopback (%(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(options.jars, options.data, options.port)
    except KeyboardInterrupt:
        return 0
    except (FetchFailed, ProcessFailed, FileNotFoundError) as error:
        print(error, file=sys.stderr)
    return 1


def _run(jars: Path, data: Path, port: int) -> None:
    """Fetch, start, tell the address, and wait for the node to end."""
    if not _fetched(jars):
        print(f"fetching the jars to {jars}", file=sys.stderr)
    fetch(jars)
    with ApacheKafka(jars, data, port) as kafka:
        print(kafka.url, flush=True)
        status = kafka.wait()
        raise ProcessFailed(f"{NAME} ended with status {status}:\n{kafka.log_tail()}")


def _java() -> str | None:
    """The `java` of JAVA_HOME, else of the path, if it is new enough."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    if java is None:
        return None
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    version = re.search(r'version "(\d+)', answer)
    return java if version and int(version[1]) >= _OLDEST_JAVA else None


def _required_java() -> str:
    java = _java()
    if java is None:
        raise FileNotFoundError(f"{NAME}: no Java {_OLDEST_JAVA} or later")
    return java


def _fetched(target: Path) -> bool:
    """Whether there are jars; whether they are the right ones is for `_check_pins` to say."""
    return any(target.glob("*.jar"))


def _maven(goal: str, *options: str) -> None:
    """Run a goal on the pom, or raise FetchFailed with Maven's own first words."""
    argv = ["mvn", "-q", "-B", "-C", "-Dstyle.color=never", "-f", str(POM), goal, *options]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MAVEN_SECONDS, check=False
        )
    except FileNotFoundError:
        raise FetchFailed("Maven is missing") from None
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"Maven did not finish within {_MAVEN_SECONDS:.0f} s") from None
    if done.returncode:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)  # it resets colours even when told to use none
        said = plain.strip().splitlines() or [f"status {done.returncode}"]
        raise FetchFailed(f"Maven failed: {said[0]}")


def _check_pins(folder: Path) -> None:
    """Raise FetchFailed unless the folder holds exactly the jars of the checked-in list."""
    pinned = {name: digest for digest, name in (line.split() for line in PINS.read_text().splitlines())}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
    wrong = sorted(name for name in pinned.keys() | found.keys() if pinned.get(name) != found.get(name))
    if wrong:
        raise FetchFailed(
            f"the jars in {folder} are not those of {PINS.name}: {len(wrong)} missing, unknown or changed, "
            f"among them {wrong[0]}; remove the folder to fetch them anew"
        )


def _publish(fresh: Path, target: Path) -> None:
    """Move the folder to its place, unless another process was quicker."""
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _entrance(entrance: Entrance, port: int) -> dict[str, str]:
    """Settings of a listener with TLS and a login."""
    login = f'required user_{entrance.user}="{entrance.password}";'
    of = "listener.name.sasl_ssl"
    return {
        "listeners": f"SASL_SSL://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        f"{of}.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        f"{of}.plain.sasl.jaas.config": f"org.apache.kafka.common.security.plain.PlainLoginModule {login}",
        f"{of}.ssl.keystore.type": "PEM",
        f"{of}.ssl.keystore.location": str(entrance.identity),
        f"{of}.ssl.truststore.type": "PEM",
        f"{of}.ssl.truststore.location": str(entrance.authority),
        f"{of}.ssl.client.auth": "required",
    }


def _properties(port: int, topics: Path, more: dict[str, str]) -> str:
    """The text of server.properties. more: settings beside those of every node; its listeners are added."""
    controller = port
    while controller == port:
        controller = free_port()
    listeners = [f"PLAINTEXT://127.0.0.1:{port}", f"CONTROLLER://127.0.0.1:{controller}", more.get("listeners", "")]
    settings = _SETTINGS | more
    settings |= {
        "listeners": ",".join(filter(None, listeners)),
        # Named here, and not in the log, so that a restart may take another port for the controller.
        "controller.quorum.voters": f"{_SETTINGS['node.id']}@127.0.0.1:{controller}",
        "log.dirs": json.dumps(str(topics))[1:-1],  # JSON escapes what a properties file wants escaped
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _format(java: Sequence[str], settings: Path, log: Path, timeout: float, options: Sequence[str]) -> None:
    """Write the first records of the cluster; raises ProcessFailed."""
    argv = [*java, "kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID, "--config", str(settings)]
    argv += options
    with ChildProcess(f"{NAME} format", argv, log) as tool:
        try:
            status = tool.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{tool.name} did not finish within {timeout:.0f} s:\n{tool.log_tail()}") from None
        if status:
            raise ProcessFailed(f"{tool.name} ended with status {status}:\n{tool.log_tail()}")


def _serves(port: int) -> bool:
    """Whether a Metadata request is answered with a broker in it.

    An open port is not enough: topics can be placed once the controller has admitted the broker, which this tells.
    """
    metadata, version, correlation, no_client_id, no_topics = 3, 0, 1, -1, 0
    request = struct.pack(">hhihi", metadata, version, correlation, no_client_id, no_topics)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as answer:
                _size, _correlation, brokers = struct.unpack(">iii", answer.read(12))
    except (OSError, struct.error):  # refused, or closed before an answer
        return False
    return bool(brokers > 0)


if __name__ == "__main__":
    sys.exit(main())
