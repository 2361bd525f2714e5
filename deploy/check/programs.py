"""The containers' own command lines and environments, with the real programs as far as they can be had here.

Addresses of other containers become ports on loopback, and paths inside the images become those of the checkout.
Nothing else differs. What stands in for a program that cannot be had is said.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deploy.check import facts
from deploy.check.documents import compose, some_variables
from deploy.check.fetch import missing
from deploy.check.paths import DEPLOY, PROMETHEUS, ROOT
from deploy.check.report import Report
from deploy.embedded import kafka
from deploy.embedded.broker import TansuBroker
from deploy.embedded.process import ChildProcess, ProcessFailed, free_port, http_ok, tcp_open
from deploy.embedded.store import ChdbStore

SUBJECT = "programs"
_SECONDS = 240.0
_VLLM = ROOT / ".venv-vllm" / "bin" / "python"
_PARSE = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
validate_parsed_serve_args(make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:]))
"""
_NEVER = {
    "docker build, docker compose up": "no container runtime here",
    "ClickHouse server with clickhouse/*.xml": "no ClickHouse server in the registries; chDB took its place above",
    "health check of Kafka": "kafka-broker-api-versions.sh is in the image alone; the broker itself was asked above",
    "Grafana with its provisioning": "no Grafana in the registries; its files are compared with the services",
    "kubectl apply, KEDA, Strimzi, the Prometheus operator": "no cluster here",
    "CEL rules of custom resources": "need an API server; the schemas' other rules are checked",
}


def check(report: Report) -> None:
    """Start what can be started; tell what cannot."""
    if reason := missing("compose"):
        report.skip(SUBJECT, "all", reason)
        return
    services = {
        name: service
        for profile in ("gpu", "cpu")
        for name, service in compose(some_variables(), profile)["services"].items()
    }
    _prometheus(report, services["prometheus"])
    _vllm(report, services["vllm"])
    with tempfile.TemporaryDirectory(prefix="weir-check-") as folder, ExitStack() as stack:
        _flow(report, services, Path(folder), stack)
    for what, why in _NEVER.items():
        report.skip(SUBJECT, what, why)


def _prometheus(report: Report, service: Any) -> None:
    tools = {
        name: shutil.which(name, path=str(PROMETHEUS)) or shutil.which(name) for name in ("prometheus", "promtool")
    }
    if not all(tools.values()):
        report.skip(SUBJECT, "Prometheus", "not fetched: make deploy-tools")
        return
    promtool, config = str(tools["promtool"]), str(DEPLOY / "prometheus" / "prometheus.yml")
    report.add(SUBJECT, "promtool check config", _said([promtool, "check", "config", config]))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, report.checking(SUBJECT, "Prometheus with its command line") as wrong:
        command = [word.replace("/etc/prometheus", str(DEPLOY / "prometheus")) for word in service["command"]]
        command = [word.replace("=/prometheus", f"={folder}") for word in command]
        argv = [str(tools["prometheus"]), *command, f"--web.listen-address=127.0.0.1:{port}"]
        with ChildProcess("prometheus", argv, Path(folder) / "log") as child:
            test = _health(service, {"9090": port})
            child.wait_ready(lambda: not _said(test), _SECONDS)
            if not http_ok(f"http://127.0.0.1:{port}/api/v1/rules"):
                wrong.append("its rules cannot be asked for")


def _vllm(report: Report, service: Any) -> None:
    what = "vLLM's own parser takes the flags"
    if not _VLLM.exists():
        report.skip(SUBJECT, what, "no .venv-vllm: make test-vllm builds it (5 GB)")
        return
    report.add(SUBJECT, what, _said([str(_VLLM), "-c", _PARSE, *service["entrypoint"][2:], *service["command"]]))


def _flow(report: Report, services: Any, folder: Path, stack: ExitStack) -> None:
    """Kafka, the store and the engine, then migrate, topics and worker as Compose orders them."""
    broker = _kafka(report, services["kafka"], folder, stack)
    if broker is None:
        broker = _started(report, "Tansu instead of Kafka", lambda: stack.enter_context(TansuBroker(folder)).url)
    store = _started(
        report, "the store (chDB instead of ClickHouse)", lambda: stack.enter_context(ChdbStore(folder)).url
    )
    engine = _started(report, "the CPU engine", lambda: _llama(services["llama"], folder, stack))
    if not (broker and store and engine):
        return
    addresses = {"kafka://kafka:9092": broker, "http://clickhouse:8123": store, "http://engine:8000": engine}
    store_port = int(store.rpartition(":")[2])
    with report.checking(SUBJECT, "health check of ClickHouse") as mistakes:
        mistakes.extend(_said(_health(services["clickhouse"], {"8123": store_port})))
    for name in ("migrate", "topics"):
        with report.checking(SUBJECT, f"{name}: weir {' '.join(services[name]['command'])}") as mistakes:
            mistakes.extend(_said(_weir(services[name]), _environment(services[name], addresses)))
    with report.checking(
        SUBJECT, f"worker: weir {' '.join(services['worker']['command'])}, ready, SIGTERM"
    ) as mistakes:
        port = free_port()
        environment = _environment(services["worker"], addresses) | {"WEIR_WEB_PORT": str(port)}
        with ChildProcess("worker", _weir(services["worker"]), folder / "worker.log", environment) as worker:
            test = _health(services["worker"], {"8080": port})
            worker.wait_ready(lambda: not _said(test), _SECONDS)
            mistakes.extend(
                [f"{p} does not answer" for p in facts.routes() if not http_ok(f"http://127.0.0.1:{port}{p}")]
            )
            worker.signal(signal.SIGTERM)
            if status := worker.wait(_SECONDS):
                mistakes.append(f"after SIGTERM it ends with status {status}:\n{worker.log_tail()}")


def _kafka(report: Report, service: Any, folder: Path, stack: ExitStack) -> str | None:
    """Address of an Apache Kafka that its image's own set-up has configured from the environment of Compose."""
    what = "Kafka: the image's set-up and the broker, with the environment of Compose"
    jars, java = kafka.default_jars(), shutil.which("java")
    reason = kafka.unavailable(jars)
    if java is None or reason:
        report.skip(SUBJECT, what, reason or "no Java")
        return None
    kafka.fetch(jars)
    ports = {number: free_port() for number in ("9092", "9093", "9094")}
    home = folder / "kafka"
    for part in ("default", "mounted", "final", "data"):
        (home / part).mkdir(parents=True)
    (home / "default" / "server.properties").touch()
    environment = {name: _with_ports(value, ports) for name, value in service["environment"].items()}
    environment = {name: value.replace("kafka:", "127.0.0.1:") for name, value in environment.items()}
    environment["KAFKA_LOG_DIRS"] = str(home / "data")
    heap = environment.pop("KAFKA_HEAP_OPTS").split()
    argv = [java, *heap, "-Dorg.slf4j.simpleLogger.logFile=System.out", "-cp", f"{jars}/*"]
    folders = {"default": "default", "mounted": "mounted", "final": "final"}
    options = [f"--{name}-configs-dir={home / part}" for name, part in folders.items()]
    with report.checking(SUBJECT, what) as mistakes:
        mistakes.extend(_said([*argv, "kafka.docker.KafkaDockerWrapper", "setup", *options], environment))
        if mistakes:
            return None
        command = [*argv, "kafka.Kafka", str(home / "final" / "server.properties")]
        child = stack.enter_context(ChildProcess("kafka", command, home / "log"))
        child.wait_ready(lambda: all(tcp_open(port) for port in ports.values()), _SECONDS)
        return f"kafka://127.0.0.1:{ports['9092']}"
    return None


def _llama(service: Any, folder: Path, stack: ExitStack) -> str:
    """Address of the engine, started as its container does; on loopback alone."""
    port = free_port()
    command = [f"--port={port}" if word.startswith("--port") else word for word in service["command"]]
    command = ["--host=127.0.0.1" if word.startswith("--host") else word for word in command]
    argv = [sys.executable, "-m", "deploy.embedded.engine_server", *command]
    child = stack.enter_context(ChildProcess("llama", argv, folder / "llama.log"))
    child.wait_ready(lambda: not _said(_health(service, {"8000": port})), _SECONDS)
    return f"http://127.0.0.1:{port}"


def _started(report: Report, what: str, start: Callable[[], str]) -> str | None:
    with report.checking(SUBJECT, what):
        return start()
    return None


def _weir(service: Any) -> list[str]:
    """The command of a container, with the pipelines of the checkout."""
    command = [word.replace("/etc/weir/pipelines", str(DEPLOY / "pipelines")) for word in service["command"]]
    return [sys.executable, "-m", "streams", *command]


def _environment(service: Any, addresses: Mapping[str, str]) -> dict[str, str]:
    """The environment of a container, with other addresses. Loopback alone is listened on."""
    found = {name: addresses.get(value, value) for name, value in service["environment"].items()}
    return found | ({"WEIR_WEB_HOST": "127.0.0.1"} if "WEIR_WEB_HOST" in found else {})


def _health(service: Any, ports: Mapping[str, int]) -> list[str]:
    """The health check of a container as a command here."""
    _, program, *words = service["healthcheck"]["test"]
    here = {"python": sys.executable, "python3": sys.executable}.get(program, program)
    return [here, *(_with_ports(word, ports) for word in words)]


def _with_ports(text: str, ports: Mapping[str, int]) -> str:
    return re.sub(r":(\d+)\b", lambda match: f":{ports.get(match[1], match[1])}", text)


def _said(argv: list[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The last lines of what a command said, if it failed."""
    return list(_failure(argv, environment or {}))


def _failure(argv: list[str], environment: Mapping[str, str]) -> Iterator[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    try:
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env={**clean, **environment},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, ProcessFailed) as error:
        yield str(error)
        return
    if done.returncode:
        yield from (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-5:]
