"""The documents that claims are checked against, each in the version that held at a time."""

from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import CONSISTENT, StoreSettings
from sinks.lookup import Lookup
from sinks.session import Session

# All versions: documents change seldom.
_VERSIONS = """
SELECT tenant, document, event_time, row_id, withdrawn OR erased_at IS NOT NULL, text
FROM documents_raw FINAL
WHERE (document, tenant) IN {keys:Array(Tuple(String, String))}
ORDER BY document, tenant, event_time, `offset`
"""


class Document(NamedTuple):
    """A version of a document. withdrawn: it says nothing any more, or was erased. held_from: from when on it holds."""

    row_id: int
    text: str
    withdrawn: bool
    held_from: datetime


class _Key(NamedTuple):
    tenant: str
    document: str
    time: datetime


class Documents:
    """Finds documents, many at a time (`Lookup`)."""

    def __init__(self, settings: StoreSettings) -> None:
        self._session = Session(settings, "clickhouse-documents")
        self._versions = Lookup(self._session, _find)

    def start(self) -> None:
        """Begin to answer. Must be called inside the event loop."""
        self._versions.start("clickhouse-documents")

    async def find(self, tenant: str, document: str, time: datetime) -> Document | None:
        """The version of a tenant's document that held at a time, or the first one if none held yet; None if there is
        none at all.
        """
        return await self._versions.find(_Key(tenant, document, time))

    async def close(self) -> None:
        """Stop. Callers that wait get CancelledError."""
        await self._versions.close()
        self._session.close()


def _find(keys: Collection[_Key], client: Client) -> Mapping[_Key, Document]:
    wanted = sorted({(key.document, key.tenant) for key in keys})
    rows = client.query(_VERSIONS, parameters={"keys": wanted}, settings=CONSISTENT, tz_mode="aware").result_rows
    versions = {
        (tenant, document): [Document(row_id, text, withdrawn, time) for _, _, time, row_id, withdrawn, text in group]
        for (tenant, document), group in groupby(rows, lambda row: (row[0], row[1]))
    }
    found: dict[_Key, Document] = {}
    for key in keys:
        if known := versions.get((key.tenant, key.document)):
            found[key] = next((v for v in reversed(known) if v.held_from <= key.time), known[0])
    return found
