"""Whose messages were erased, as workers ask for it: they do not take older ones of that author again.

The store does not keep the author's name, but SHA-256 of it, which tells whether a given name is meant. Who has both
the table and a list of names can find the name out.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, ask, time_text
from sinks.session import Session

_ERASURES = "SELECT digest, max(erased_at) FROM erasures_raw GROUP BY digest"
_ROWS = """
SELECT row_id, kind, written_at FROM erased_rows_raw
WHERE written_at >= {since:DateTime64(3, 'UTC')} AND (kind = 'made' OR {all:Bool})
"""
_EPOCH = datetime(1971, 1, 1, tzinfo=UTC)  # before all of them
# Clocks of those who erase may differ, and rows can be read later than they were written.
_OVERLAP = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Erasures:
    """until: by digest, the time up to which an author's messages are erased. rows: ids of rows that went with them;
    made: those of them that others made, such as a transcript.
    """

    until: dict[str, datetime]
    rows: Collection[int]
    made: Collection[int]


def digest_of(author: str, tenant: str | None) -> str:
    """What stands for an author of a tenant; None for every tenant. 64 hexadecimal digits."""
    whose = "*" if tenant is None else f"{len(tenant)}:{tenant}"
    return hashlib.sha256(f"{whose}/{author}".encode(errors="surrogatepass")).hexdigest()


class ErasureLog:
    """Reads what was erased, again and again."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-erasures")
        self._since: datetime | None = None

    async def read(self) -> Erasures:
        """All erasures, and the rows that went with those since the last call; the first time, only those that others
        made. Waits while the store is unavailable.
        """
        found, self._since = await self._session.run(partial(_read, self._since))
        return found

    def close(self) -> None:
        """Disconnect."""
        self._session.close()


def _read(since: datetime | None, client: Client) -> tuple[Erasures, datetime]:
    until = dict(ask(client, _ERASURES))
    if not until:
        return Erasures({}, (), ()), since or _EPOCH
    rows = ask(client, _ROWS, since=time_text((since or _EPOCH) - _OVERLAP), all=since is not None)
    made = [row for row, kind, _ in rows if kind == "made"]
    return Erasures(until, [row for row, _, _ in rows], made), max((at for _, _, at in rows), default=since or _EPOCH)
