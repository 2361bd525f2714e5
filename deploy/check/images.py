"""Checks of the Dockerfile, its pins, and the versions of all images."""

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deploy.check import facts
from deploy.check.documents import lint
from deploy.check.fetch import missing
from deploy.check.paths import DEPLOY, DOCKERFILE, ROOT
from deploy.check.report import Report

SUBJECT = "deploy/Dockerfile"


def check(report: Report) -> None:
    """All checks of the Dockerfile alone."""
    if reason := missing("dockerfile"):
        report.skip(SUBJECT, "BuildKit's checks", reason)
    else:
        with report.checking(SUBJECT, "BuildKit's checks") as mistakes:
            mistakes.extend(lint(DOCKERFILE))
    with report.checking(SUBJECT, "what is copied exists and is in the build context") as mistakes:
        mistakes.extend(copied())
    with report.checking(SUBJECT, "not root, no version but that of pyproject.toml, bases pinned") as mistakes:
        mistakes.extend(labels())
    with report.checking("deploy/images", "pins are those of requirements.lock") as mistakes:
        mistakes.extend(pins())


def copied() -> Iterator[str]:
    """Sources of COPY that are not there, or that .dockerignore leaves out."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            found = sorted(ROOT.glob(source))
            if not found:
                yield f"there is no {source}"
            yield from (f"{file.relative_to(ROOT)} is left out by .dockerignore" for file in found if _ignored(file))


def _ignored(file: Path) -> bool:
    """As Docker reads the file: the last pattern that fits a path or a folder above it decides."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    name, ignored = file.relative_to(ROOT), False
    for pattern in patterns:
        plain = pattern.removeprefix("!").removeprefix("**/")
        if any(fnmatch(str(part), plain) for part in (name, *name.parents) if str(part) != "."):
            ignored = not pattern.startswith("!")
    return ignored


def labels() -> Iterator[str]:
    """Users, labels and base images."""
    text = DOCKERFILE.read_text(encoding="utf-8")
    versions = set(re.findall(r'image.version="([^"]+)"', text))
    if versions != {facts.version()}:
        yield f"labels have the versions {versions}, pyproject.toml has {facts.version()}"
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", text, re.MULTILINE)
    if set(re.findall(r'base.name="([^"]+)"', text)) != {base} or not re.search(r":\d+\.\d+\.\d+", base):
        yield f"the base image is {base}, the labels say otherwise or it has no version"
    users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
    if users != ["10001:10001"]:
        yield f"users are {users}"


def pins() -> Iterator[str]:
    """Versions and hashes that differ from those that the tests run with."""
    tested = _pins(ROOT / "requirements.lock")
    for file in sorted((DEPLOY / "images").glob("*.lock")):
        for name, pin in _pins(file).items():
            if tested.get(name, pin) != pin:
                yield f"{file.name}: {name} is {pin[0]}, tested is {tested[name][0]}"


def _pins(file: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Each requirement with its marker: version and hashes."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)(.*)$", text, re.MULTILINE)
    result: dict[str, tuple[str, frozenset[str]]] = {}
    for name, version, rest in found:
        hashes = frozenset(re.findall(r"--hash=(\S+)", rest))
        result[f"{name}=={version}" if name in {"numpy", "scipy"} else name] = (version, hashes)
    return result


def versions(images: dict[str, set[str]]) -> Iterator[str]:
    """One version of an image everywhere, and the one that the tests run, where they run it.

    images: each place with the images that it names.
    """
    found: dict[str, dict[str, str]] = {}
    for place, names in images.items():
        for image in names:
            name, _, tag = image.rpartition(":")
            found.setdefault(name.removeprefix("registry.example.com/"), {})[place] = tag
    tested: dict[str, str] = facts.tested_versions() | {"weir": facts.version(), "weir-engine": facts.version()}
    for name, tags in found.items():
        if len({*tags.values()} | ({tested[name]} if name in tested else set())) > 1:
            yield f"{name}: {tags}" + (f", tested is {tested[name]}" if name in tested else "")


def of_manifest(document: Any) -> set[str]:
    """Images of a workload."""
    template = document.get("spec", {}).get("template", {}) if isinstance(document.get("spec"), dict) else {}
    return {container["image"] for container in template.get("spec", {}).get("containers", ())}
