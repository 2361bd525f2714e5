"""The files as data: Compose as Compose resolves it, manifests as Kustomize renders them."""

import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy.check.paths import COMPOSE, DEPLOY, K8S, TOOLS

_SECONDS = 120.0


class Refused(RuntimeError):
    """A tool does not accept a file; the message is what it said."""


def load(file: Path) -> Any:
    """The one document of a YAML file."""
    return YAML(typ="safe").load(file.read_text(encoding="utf-8"))


def load_all(file: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(YAML(typ="safe").load_all(file.read_text(encoding="utf-8")))


def example_variables() -> dict[str, bool]:
    """The variables of .env.example, and whether each is required."""
    text = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    return {name: not mark for mark, name in re.findall(r"^(#?)([A-Z_]+)=", text, re.MULTILINE)}


def some_variables() -> dict[str, str]:
    """A value for each required variable."""
    values = {name: f"a-{name.lower()}" for name, required in example_variables().items() if required}
    return values | {"KAFKA_CLUSTER_ID": "MkU3OEVBNTcwNTJENDM2Qg"}


def compose(variables: Mapping[str, str], *profiles: str) -> Any:
    """The project as Docker Compose would run it. Raises Refused."""
    return json.loads(_run([str(TOOLS / "compose"), str(COMPOSE), *profiles], variables))


def rendered(overlay: str) -> list[Any]:
    """The manifests of an overlay. Raises Refused."""
    text = _run([str(TOOLS / "kustomize"), "build", str(K8S / "overlays" / overlay)], {})
    return [document for document in YAML(typ="safe").load_all(text) if document]


def lint(dockerfile: Path) -> list[str]:
    """What BuildKit's checks say against a Dockerfile."""
    try:
        _run([str(TOOLS / "dockerfile"), str(dockerfile)], {})
    except Refused as error:
        return str(error).splitlines()
    return []


def _run(argv: list[str], variables: Mapping[str, str]) -> str:
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": os.environ.get("HOME", ""), **variables}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip() or f"{argv[0]} ended with status {done.returncode}")
    return done.stdout
