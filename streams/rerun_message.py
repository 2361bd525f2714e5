"""The message of an event that a stage is to judge anew, made from what the store has of it."""

from collections.abc import Sequence

from msgspec import Struct

from sinks.judged_messages import StoredMessage
from streams import attributes, cloudevents, rerun_headers
from streams.cloudevents import Headers
from streams.identity import time_ms
from streams.origin import Origin, origin_headers
from streams.records import MESSAGE_TYPE, TextMessage


class Rebuilt(Struct, frozen=True):
    """A message to be published. partition: where the event stood."""

    partition: int
    key: bytes | None
    value: bytes
    headers: Headers


def rebuild(stored: StoredMessage, stage: str, read_with: Sequence[tuple[int, str]]) -> Rebuilt:
    """The message, with the identity that the event has.

    stage: `pipeline/stage`. read_with: row id and text of the earlier messages that were read with it.
    """
    said = attributes.read(stored.attributes, stored.thread)
    message = TextMessage(
        id=stored.event_id or None,
        text=stored.text,
        time=stored.event_time,
        thread=stored.thread,
        author=stored.author,
        lang=stored.lang,
        tenant=stored.tenant,
        documents=said.documents,
        context=(*said.context, *(text for _, text in read_with)),
        turn=said.turn,
    )
    named = cloudevents.headers(
        id=stored.event_id, source=stored.source, type=MESSAGE_TYPE, time=stored.event_time, subject=stored.thread
    )
    place = Origin(stored.topic, stored.partition, stored.offset, time_ms(stored.broker_time))
    headers = [
        *(header for header in named if header[1]),
        *origin_headers(place),
        *rerun_headers.write(stage, [row for row, _ in read_with]),
    ]
    return Rebuilt(stored.partition, said.key, message.encode(), headers)
