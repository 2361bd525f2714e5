"""How commands begin and run."""

from collections.abc import Coroutine
from typing import Any

import typer
import uvloop

from streams import logs, settings


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
