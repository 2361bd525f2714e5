"""Transient errors are tried again; any other reaches the caller."""

import logging

import pytest

from sinks.errors import StoreUnavailable
from streams.errors import WorkerMisconfigured
from streams.patience import persist


async def test_it_goes_on_until_the_call_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    errors = [StoreUnavailable("away"), ConnectionResetError()]

    async def call() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    with caplog.at_level(logging.WARNING):
        assert await persist(lambda: call(), backoff_seconds=0) == "done"  # noqa: PLW0108  as callers do
    assert [record.getMessage() for record in caplog.records] == [
        "away; trying again in 0.0 s",
        "ConnectionResetError; trying again in 0.0 s",
    ]


async def test_it_does_not_go_on_after_other_errors() -> None:
    async def call() -> None:
        raise WorkerMisconfigured("no such model")

    with pytest.raises(WorkerMisconfigured, match="no such model"):
        await persist(call)
