"""What holds for the whole repository: who may import whom, and what no file may name."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# What each package must not import; `streams` puts the others together.
FORBIDDEN = {
    "inference": {"streams", "deploy", "sinks", "faust", "aiokafka", "clickhouse_connect"},
    "sinks": {"streams", "deploy", "inference", "faust", "aiokafka", "llama_cpp", "xllamacpp", "vllm", "openai"},
    "deploy": {"streams", "inference", "sinks"},
}


def imported(file: Path) -> Iterator[str]:
    """The first name of every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield file.name if node.level else str(node.module).split(".")[0]


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN.items(), ids=FORBIDDEN)
def test_packages_do_not_know_each_other(root: Path, package: str, forbidden: set[str]) -> None:
    files = sorted((root / package).rglob("*.py"))
    assert files
    assert {str(file): found for file in files if (found := set(imported(file)) & forbidden)} == {}


def test_imports_are_absolute(root: Path) -> None:
    for package in ("streams", *FORBIDDEN):
        for file in (root / package).rglob("*.py"):
            assert file.name not in set(imported(file)), f"{file} has a relative import"


@pytest.fixture(scope="module")
def tracked(root: Path) -> dict[str, str]:
    """Every text file that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        file = root / name
        if file.is_file():
            found[name] = file.read_text(encoding="utf-8", errors="ignore")
    return found


@pytest.mark.parametrize("pattern", [r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+)/", r"(?<![\w./-])/tmp/\w"])
def test_no_path_of_a_particular_machine(tracked: dict[str, str], pattern: str) -> None:
    assert [name for name, text in tracked.items() if name != _OWN and re.search(pattern, text)] == []


def test_the_lock_names_no_index(tracked: dict[str, str]) -> None:
    lock = tracked["requirements.lock"]
    assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links|--trusted-host", lock)


_OWN = "tests/streams/test_repository.py"
