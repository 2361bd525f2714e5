"""The agent of a topic of documents: each version is stored, so that whoever needs it finds it."""

from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

from sinks.rows import DocumentRow
from streams import cloudevents
from streams.agent import Services, TextAgent
from streams.decode import Event, KafkaMessage, broker_time_of, check_range
from streams.errors import DeadLetter, Reason
from streams.identity import document_row_id, time_ms
from streams.origin import origin_of
from streams.pipeline import Documents
from streams.window import Turn

NAME = "documents"


class DocumentsAgent(TextAgent):
    """Stores each version of a document, from when on it holds, and when it was withdrawn.

    The topic is compacted, so it has the last version of each document; the store has all that were ever read. A
    message without a value withdraws the document that is its key, of the tenant in its header `ce_tenant`.
    """

    def __init__(self, pipeline: str, documents: Documents, services: Services) -> None:
        super().__init__(pipeline, NAME, documents.topic, services)

    def _job(self, message: KafkaMessage) -> Coroutine[Any, Any, None]:
        if message.value is None and message.key is not None:
            return self._settle(message, self._turns.take(message.key), self._withdraw(message))
        return super()._job(message)

    def _begin(self, message: KafkaMessage, event: Event, turn: Turn) -> Coroutine[Any, Any, None]:
        return self._settle(message, turn, self._store(message, event))

    async def _store(self, message: KafkaMessage, event: Event) -> None:
        name = (message.key or b"").decode(errors="replace") or event.event_id
        if not name:
            raise DeadLetter(Reason.WRONG_FIELD, "key: a document needs its id as key")
        await self._writer.write(
            [
                DocumentRow(
                    tenant=event.tenant,
                    document=name,
                    event_time=event.event_time,
                    row_id=document_row_id(time_ms(event.event_time), event.tenant, name, event.text),
                    withdrawn=False,
                    lang=event.lang,
                    topic=event.topic,
                    partition=event.partition,
                    offset=event.offset,
                    text=event.text,
                    written_at=datetime.now(UTC),
                    author=event.author,
                )
            ]
        )

    async def _withdraw(self, message: KafkaMessage) -> None:
        place, now = origin_of(message), datetime.now(UTC)
        at = broker_time_of(place.timestamp_ms) or now
        check_range(at, now)
        name = (message.key or b"").decode(errors="replace")
        tenant = cloudevents.attributes(message.headers).get("tenant", "")
        await self._writer.write(
            [
                DocumentRow(
                    tenant=tenant,
                    document=name,
                    event_time=at,
                    row_id=document_row_id(time_ms(at), tenant, name, ""),
                    withdrawn=True,
                    lang="",
                    topic=place.topic,
                    partition=place.partition,
                    offset=place.offset,
                    text="",
                    written_at=now,
                )
            ]
        )
