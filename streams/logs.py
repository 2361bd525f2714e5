"""One line an event on standard error, without the traceback of an error that is retried."""

import logging
import math
import sys

from streams.secrets import hide

_SELDOM_SECONDS = 10.0
_DIFFERENT_MESSAGES = 1000
_QUIET = ("aiokafka", "faust", "mode", "asyncio", "clickhouse_connect")


class _WithoutSecrets(logging.Formatter):
    """Also the traceback of an error may quote what a server said."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


class _FirstLine(logging.Filter):
    """Libraries report outages with tracebacks; we retry those, and one line each says enough."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None and record.name.split(".")[0] in _QUIET:
            record.msg = f"{record.getMessage()}: {record.exc_info[1]}".splitlines()[0]
            record.args = None
            record.exc_info = None
            record.exc_text = None
        return True


class _Seldom(logging.Filter):
    """While a broker is away, aiokafka reports each attempt of each client, ten a second. One of them says as much."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] not in _QUIET:
            return True
        key = (record.name, str(record.msg))
        if record.created - self._last.get(key, -math.inf) < self._seconds:
            return False
        if len(self._last) >= _DIFFERENT_MESSAGES:
            self._last.clear()
        self._last[key] = record.created
        return True


def configure(level: str) -> None:
    """Log to standard error. level: of our own modules; libraries log warnings and errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handler.addFilter(_Seldom(_SELDOM_SECONDS))
    handler.addFilter(_FirstLine())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in (*_QUIET, "streams.consumer"):  # Faust logs the life of a service under its class's module
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("clickhouse_connect", "openlineage", "urllib3"):  # retries of their own, beside ours
        logging.getLogger(name).setLevel(logging.ERROR)
