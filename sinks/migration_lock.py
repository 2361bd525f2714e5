"""One migrator at a time.

The lock is a table: `CREATE TABLE` without `IF NOT EXISTS` succeeds once on a server, and on a cluster the queue of its
DDL, which is in Keeper, puts two of them in one order on every server. The table's comment names the holder, its rows
are the holder's signs of life, by the server's clock. A holder that has given none for a minute has lost the lock: who
waits renames the table, which again succeeds once. A `KeeperMap` table could be the lock of a cluster as well, but
servers have it only where an administrator gave it a path.

This orders migrators; it does not fence them. One that was asleep for longer than a minute notices before its next
statement, yet the statement that it was in may run beside another migrator's. So statements must bear to run twice.
"""

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error

from sinks.clickhouse import UNAVAILABLE, StoreSettings, ask, connect
from sinks.errors import StoreMisconfigured, StoreUnavailable
from sinks.schema_forms import LOCK, Form
from sinks.sharded import quote

log = logging.getLogger(__name__)

Check = Callable[[], None]

LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.25
_GONE, _THERE = 60, 57  # UNKNOWN_TABLE, TABLE_ALREADY_EXISTS

_LOCKS = """
SELECT name, comment, toFloat64(dateDiff('millisecond', toDateTime64(metadata_modification_time, 3), now64(3))) / 1000
FROM system.tables WHERE database = currentDatabase() AND startsWith(name, {name:String})
"""
_SILENT = f"""
SELECT dateDiff('millisecond', max(renewed_at), now64(3)) / 1000
FROM {LOCK} WHERE token = {{token:String}} HAVING count()
"""  # noqa: S608


@contextmanager
def held(settings: StoreSettings, form: Form, client: Client, *, lease: float = LEASE_SECONDS) -> Iterator[Check]:
    """Wait for the lock and hold it. What is yielded raises StoreUnavailable if the lock was lost; call it often.

    client: of the database. lease: seconds of silence after which a holder counts as dead.

    Raises clickhouse-connect's errors.
    """
    token = uuid.uuid4().hex
    _take(client, form, token, lease)
    life = _Life(settings, token, lease)
    life.start()
    try:
        yield life.check
    finally:
        life.stop()
        with suppress(*UNAVAILABLE):  # it lapses anyway
            _release(client, form, token)


def _take(client: Client, form: Form, token: str, lease: float) -> None:
    told = ""
    while True:
        with _suppress_code(_THERE):
            client.command(form.create_lock(token, f"{platform.node()}, process {os.getpid()}"))
            client.command(_sign(token))
            return
        found = _holder(client)
        if found is None:
            continue
        holder, silent = found
        if silent > lease:
            log.warning("took over from a migrator that has been silent for %.0f s: %s", silent, holder[33:])
            with _suppress_code(_GONE, _THERE):  # another one was faster
                client.command(form.move_lock(holder[:32]))
            continue
        if holder != told:
            log.warning("waiting for another migrator: %s", holder[33:])
            told = holder
        time.sleep(_POLL_SECONDS)


def _holder(client: Client) -> tuple[str, float] | None:
    """The comment of the lock, and the seconds since its holder's last sign of life; None if there is no lock."""
    for name, comment, age in ask(client, _LOCKS, name=LOCK):
        if name == LOCK:
            with _suppress_code(_GONE):
                signs = ask(client, _SILENT, token=comment[:32])
                return comment, float(signs[0][0] if signs else age)
    return None


def _release(client: Client, form: Form, token: str) -> None:
    """Drop the lock if it is ours, and with it those that were taken over."""
    tables = {name: comment for name, comment, _ in ask(client, _LOCKS, name=LOCK)}
    if tables.get(LOCK, "").startswith(token):
        for name in sorted(tables, reverse=True):
            client.command(form.drop_lock(name))


def _sign(token: str) -> str:
    return f"INSERT INTO {LOCK} SELECT {quote(token)}, now64(3)"


class _Life(threading.Thread):
    """Gives signs of life, three a lease, from a thread: a statement may take longer than the lease."""

    def __init__(self, settings: StoreSettings, token: str, lease: float) -> None:
        super().__init__(name="migration-lock", daemon=True)
        self._settings = settings
        self._token = token
        self._lease = lease
        self._renewed = time.monotonic()
        self._lost = False
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(self._lease / 3) and not self._lost:
            with suppress(*UNAVAILABLE, StoreUnavailable, StoreMisconfigured):
                self._renew()

    def _renew(self) -> None:
        client = connect(self._settings)
        try:
            asked = time.monotonic()
            held_by = [comment for name, comment, _ in ask(client, _LOCKS, name=LOCK) if name == LOCK]
            if held_by and held_by[0].startswith(self._token):
                client.command(_sign(self._token))
                self._renewed = asked
            else:
                self._lost = True
        finally:
            client.close()

    def check(self) -> None:
        """Return if the lock is ours still. Raises StoreUnavailable."""
        if self._lost or time.monotonic() - self._renewed > self._lease:
            raise StoreUnavailable(
                f"this migrator gave no sign of life for {self._lease:.0f} s, and another one may be at work; "
                "run it again: it goes on where the other one stops"
            )

    def stop(self) -> None:
        """End the thread."""
        self._stop_now.set()
        self.join()


@contextmanager
def _suppress_code(*codes: int) -> Iterator[None]:
    """Go on after the block if the server answered with one of these codes."""
    try:
        yield
    except Error as error:
        if error.code not in codes:
            raise
