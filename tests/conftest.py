"""What all tests share."""

import fcntl
from pathlib import Path

import pytest

from deploy.embedded.kafka import default_jars, fetch, unavailable

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
