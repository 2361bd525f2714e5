"""How commands begin and run."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import typer
import uvloop
from clickhouse_connect.driver.client import Client
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from sinks import clickhouse
from streams import logs, settings
from streams.errors import WorkerMisconfigured
from streams.pipeline import seconds_of

T = TypeVar("T")

_TIME = TypeAdapter(AwareDatetime)


def load_settings(*needs: settings.Server) -> settings.Settings:
    """Settings of the environment, with the addresses of the servers needed; logs as they say.

    Raises WorkerMisconfigured.
    """
    chosen = settings.load(needs)
    logs.configure(chosen.log_level)
    return chosen


def run_async(work: Coroutine[Any, Any, Any]) -> Any:
    """What the work returns. Ctrl-C ends the command with status 130."""
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def point_in_time(option: str, text: str) -> datetime:
    """The time that an option names: RFC 3339, or how long ago, for example 2h. Raises WorkerMisconfigured."""
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds_of(text))
    except (ValueError, OverflowError):
        pass
    try:
        return _TIME.validate_strings(text)
    except ValidationError as error:
        raise WorkerMisconfigured(
            f"{option} {text!r} is neither a time, such as 2026-11-22T09:30:00Z, nor how long ago, such as 2h"
        ) from error


def ask_store(store: clickhouse.StoreSettings, question: Callable[[Client], T]) -> T:
    """The store's answer. Raises StoreUnavailable, StoreMisconfigured, and what the question raises."""
    client = clickhouse.connect(store)
    try:
        return question(client)
    except clickhouse.UNAVAILABLE as error:
        raise clickhouse.store_error(error, store.url) from error
    finally:
        client.close()
