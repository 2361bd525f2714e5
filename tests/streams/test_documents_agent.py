"""Each version of a document is stored, and found by who needs it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.documents import Document
from streams.documents import DocumentsAgent
from streams.pipeline import Documents, Pipeline
from streams.settings import Settings
from tests.streams.agents import Delivery, Running, acked, named, share

MORNING = datetime(2026, 3, 4, 6, tzinfo=UTC)

Read = Callable[..., Awaitable[list[Any]]]


class Keeping(Running):
    """An agent at work, with documents of names of their own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.name = f"page-{uuid4().hex}"

    def publish(self, value: Any, hours: float = 0, tenant: str = "acme", **fields: Any) -> Delivery:
        """Deliver a version that holds from so many hours after the morning on; None withdraws the document."""
        time = MORNING + timedelta(hours=hours)
        given: dict[str, Any] = {"key": self.name.encode(), "partition": 0} | fields
        if value is None:
            return self.put(None, timestamp=time.timestamp(), headers=[("ce_tenant", tenant.encode())], **given)
        return self.put({"text": value, "time": time.isoformat(), "tenant": tenant}, **given)

    async def at(self, hours: float, tenant: str = "acme") -> Document | None:
        return await self.services.documents.find(tenant, self.name, MORNING + timedelta(hours=hours))


@pytest.fixture
async def keeping(
    settings: Settings, store: StoreSettings, message: Any, new_topic: Callable[..., Awaitable[str]]
) -> AsyncIterator[Keeping]:
    topic = await new_topic()
    stage = {"name": "cut", "writes": await new_topic(), "cut": {"into": "claims", "answers": ["agent"]}}
    made = {"name": "review", "version": "1", "source": await new_topic(), "sla": "3h", "stages": [stage]}
    pipeline = Pipeline.model_validate(made | {"documents": {"topic": topic}})
    async with AsyncExitStack() as stack:
        shared = await share(stack, settings, store, pipeline)
        running = Keeping(DocumentsAgent("review", Documents(topic=topic), shared.services), shared, message)
        stack.push_async_callback(running.close)
        yield running


async def test_every_version_is_kept(keeping: Keeping, store: StoreSettings) -> None:
    await acked(keeping.publish("Towing: 15 miles"), keeping.publish("Towing: 50 miles", hours=5))
    found = [await keeping.at(hours) for hours in (-1, 1, 5)]
    assert [one and one.text for one in found] == ["Towing: 15 miles", "Towing: 15 miles", "Towing: 50 miles"]
    client = connect(store)
    query = f"SELECT text, withdrawn, offset FROM documents WHERE document = '{keeping.name}' ORDER BY event_time"
    stored = client.query(query).result_rows
    client.close()
    assert stored == [("Towing: 15 miles", False, 1), ("Towing: 50 miles", False, 2)]


async def test_a_message_without_a_value_withdraws(keeping: Keeping) -> None:
    await acked(keeping.publish("Towing: 15 miles"), keeping.publish("of another", tenant="other"))
    await acked(keeping.publish(None, hours=2))
    found = [await keeping.at(hours) for hours in (1, 3)]
    assert [one and (one.withdrawn, one.text) for one in found] == [(False, "Towing: 15 miles"), (True, "")]
    other = await keeping.at(3, tenant="other")
    assert other is not None
    assert not other.withdrawn


async def test_the_key_is_the_name(keeping: Keeping) -> None:
    """As it is for the topic's compaction, whatever the event is called."""
    await acked(keeping.publish("Towing: 15 miles", headers=[("ce_id", b"event-1"), ("ce_source", b"/crm")]))
    assert await keeping.at(0) is not None


async def test_without_a_key_the_id_is_the_name(keeping: Keeping) -> None:
    body = {"text": "Towing", "id": keeping.name, "tenant": "acme", "time": MORNING.isoformat()}
    await acked(keeping.put(body, partition=0))
    assert await keeping.at(0) is not None


@pytest.mark.parametrize(
    ("value", "fields", "reason"),
    [
        ({"text": "no name"}, {}, "wrong_field"),
        ({"text": " "}, {"key": b"page"}, "empty_text"),
        (b"no JSON", {"key": b"page"}, "not_json"),
        (None, {}, "no_value"),
        (None, {"key": b"page", "timestamp": 1e8}, "time_out_of_range"),
    ],
)
async def test_what_is_no_document_is_a_dead_letter(
    keeping: Keeping, read: Read, value: Any, fields: dict[str, Any], reason: str
) -> None:
    await acked(keeping.put(value, **{"partition": 0} | fields))
    (found,) = await read(keeping.dead, 1)
    assert named(found.headers)["weir_dlq_reason"] == reason
    assert keeping.stopped_by == []


async def test_a_version_that_comes_again_is_the_same_row(keeping: Keeping) -> None:
    await acked(keeping.publish("Towing"))
    first = await keeping.at(0)
    await acked(keeping.publish("Towing", offset=1))
    again = await keeping.at(0)
    assert first is not None
    assert again is not None
    assert again.row_id == first.row_id
