"""What all tests share."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.kafka import default_jars, fetch, unavailable
from deploy.embedded.store import ChdbStore

# Fixtures that start an engine or a JVM: `make unit` leaves out what uses them.
_SLOW = frozenset({"engine", "jars", "llama"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _SLOW & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def jars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jars of Apache Kafka; the test is skipped, with the reason, where they cannot be had."""
    folder = default_jars()
    with (tmp_path_factory.getbasetemp().parent / "jars.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Maven's cache is not made for two at once
        reason = unavailable(folder)
        if reason:
            pytest.skip(f"Apache Kafka: {reason}")
        fetch(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Settings of whoever runs the tests are not theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WEIR_") and not name.startswith("WEIR_TEST_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a store: the embedded one, or a ClickHouse server of yours."""
    given = os.environ.get("WEIR_TEST_CLICKHOUSE_URL")
    if given:
        yield given
        return
    pytest.importorskip("chdb", reason="the extra `embedded` is not installed")
    with ChdbStore(tmp_path_factory.mktemp("store")) as started:
        yield started.url
