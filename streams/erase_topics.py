"""What becomes of an author's messages in Kafka when their words are erased.

Kafka deletes no message by its key or its words: it deletes the oldest ones of a topic when they are past its
retention. What can be done is to say when that is, to see that nobody replays a dead letter, and to put tombstones
into compacted topics.
"""

from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from sinks.erase import Author
from streams import dlq
from streams.dlq import Position
from streams.dlq_entries import Entry
from streams.dlq_topic import DeadLetterTopic, scan
from streams.kafka import client_options
from streams.settings import Settings
from streams.tail import consumer
from streams.topics import Topic

_POLICY, _RETENTION, _SEGMENT = "cleanup.policy", "retention.ms", "segment.ms"
_LONGEST_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done in a topic, or would be.

    kept_until: when what it has now is gone at the latest; None if never, or if the broker does not say. forever: if
    never. dropped: dead letters of the author, which nobody will replay. tombstones: keys of the author's messages in a
    compacted topic.
    """

    topic: str
    kept_until: datetime | None
    forever: bool
    dropped: int = 0
    tombstones: int = 0


async def clean(settings: Settings, topics: Sequence[Topic], author: Author, *, dry_run: bool) -> list[Outcome]:
    """Drop dead letters and write tombstones, and say how long other messages stay. Topics that do not exist are left
    out. Raises KafkaError.
    """
    async with consumer(settings, from_start=True) as client:
        there = await client.topics()
    meant = [topic for topic in topics if topic.name in there]
    configs = await _configs(settings, [topic.name for topic in meant])
    return [await _clean(settings, topic, configs.get(topic.name, {}), author, dry_run=dry_run) for topic in meant]


async def _clean(settings: Settings, topic: Topic, config: dict[str, str], author: Author, *, dry_run: bool) -> Outcome:
    policy = config.get(_POLICY, "compact" if topic.compacted else "delete")
    dropped = tombstones = 0
    if topic.name != dlq.source_of(topic.name):
        letters = DeadLetterTopic(settings, topic.name)
        entries = await _dead(letters, author)
        dropped = len(entries)
        if not dry_run:
            async with aclosing(letters.drop(entries)) as settled:
                async for _ in settled:
                    pass
    if "compact" in policy:
        keys = await _keys(settings, topic.name, author)
        tombstones = len(keys)
        if not dry_run:
            await _bury(settings, topic.name, keys)
    until, forever = _until(config) if "delete" in policy else (None, False)
    return Outcome(topic.name, until, forever, dropped, tombstones)


async def _dead(letters: DeadLetterTopic, author: Author) -> list[Entry]:
    """Open dead letters of the author."""
    found = {entry.position: entry for entry in (await letters.entries()).entries if entry.action is None}
    async with aclosing(letters.records(found)) as records:
        return [
            found[Position(record.partition, record.offset)]
            async for record in records
            if _wrote(author, record.value) is not None
        ]


async def _keys(settings: Settings, topic: str, author: Author) -> dict[tuple[int, bytes], str]:
    """Partition and key of messages of the author that are the last of their key; and their tenant."""
    last: dict[tuple[int, bytes], str | None] = {}
    async with consumer(settings, topic, from_start=True) as client:
        starts = await client.beginning_offsets(client.assignment())
        ends = await client.end_offsets(client.assignment())
        spans: dict[TopicPartition, tuple[int, int]] = {part: (starts[part], end) for part, end in ends.items()}
        async with aclosing(scan(client, spans)) as records:
            async for record in records:
                if record.key is not None:
                    last[record.partition, record.key] = _wrote(author, record.value)
    return {place: tenant for place, tenant in last.items() if tenant is not None}


async def _bury(settings: Settings, topic: str, keys: dict[tuple[int, bytes], str]) -> None:
    """Publish a message without value for each key. A tenant goes along: a document is withdrawn for its own."""
    if not keys:
        return
    producer = AIOKafkaProducer(**client_options(settings), acks="all")
    try:
        await producer.start()
        for (partition, key), tenant in keys.items():
            headers = [("ce_tenant", tenant.encode())] if tenant else []
            await producer.send_and_wait(topic, None, key, partition, headers=headers)
    finally:
        await producer.stop()


def _wrote(author: Author, value: bytes | None) -> str | None:
    """The tenant of a message if this author wrote it, or if it is a verdict on what they wrote."""
    try:
        body: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(body, dict) or body.get("author") != author.name:
        return None
    tenant = body.get("tenant", "")
    return tenant if isinstance(tenant, str) and author.tenant in {None, tenant} else None


async def _configs(settings: Settings, topics: Collection[str]) -> dict[str, dict[str, str]]:
    """What the broker says of topics; nothing of those of which it does not."""
    admin = AIOKafkaAdminClient(**client_options(settings))
    wanted = dict.fromkeys((_POLICY, _RETENTION, _SEGMENT))
    try:
        await admin.start()
        asked = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in topics]
        answers = await admin.describe_configs(asked)
    except KafkaError:
        return {}
    finally:
        await admin.close()
    found: dict[str, dict[str, str]] = {}
    for answer in answers:
        for code, _, _, name, entries in answer.resources:
            if not code:
                found[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found


def _until(config: dict[str, str]) -> tuple[datetime | None, bool]:
    """When what is in a topic now is gone: past its retention, and once its segment is closed."""
    if _RETENTION not in config:
        return None, False
    if (kept := int(config[_RETENTION])) < 0:
        return None, True
    days = (kept + int(config.get(_SEGMENT, 0))) / 86_400_000
    return (datetime.now(UTC) + timedelta(days=days), False) if days < _LONGEST_DAYS else (None, True)
