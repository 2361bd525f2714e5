"""Dead letters in a real topic: reading them to the end, replaying and dropping them."""

from collections.abc import Awaitable, Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from faust.types.tuples import ConsumerMessage

from deploy.embedded.kafka import ApacheKafka
from streams import dlq, topics
from streams.dlq import Action, Position
from streams.dlq_entries import Entry
from streams.dlq_topic import DeadLetterTopic
from streams.errors import DeadLetter, Reason, WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, client_options
from streams.settings import Settings

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
NOW_MS = 1_772_600_767_089
ERROR = DeadLetter(Reason.NOT_JSON, "no JSON")

GetMessage = Callable[..., ConsumerMessage]
Die = Callable[..., Awaitable[Any]]
NewTopic = Callable[..., Awaitable[str]]
Read = Callable[..., Awaitable[list[Any]]]


@pytest.fixture
async def letters(settings: Settings, new_topic: NewTopic) -> DeadLetterTopic:
    """The dead letters of a new topic: two partitions each."""
    source = await new_topic(2)
    await topics.create(settings, [topics.Topic(f"{source}.dlq", "test", MAX_DEAD_LETTER_BYTES)], 2, 1)
    return DeadLetterTopic(settings, source)


@pytest.fixture
def die(letters: DeadLetterTopic, produce: Callable[..., Awaitable[Any]], message: GetMessage) -> Die:
    """`await die(b"{", offset=3, to=1)`: a message dead-lettered into that partition."""

    async def send(value: bytes | None, *, to: int = 0, **fields: Any) -> Any:
        dead = message(value, **({"topic": letters.source, "partition": 1} | fields))
        return await produce(
            letters.name,
            value,
            dead.key if value is not None or dead.key else b"",
            partition=to,
            headers=list(dlq.headers(dead, ERROR, "moderation/judge", NOW)),
        )

    return send


async def open_entries(letters: DeadLetterTopic) -> list[Entry]:
    return [entry for entry in (await letters.entries()).entries if entry.action is None]


async def replay(letters: DeadLetterTopic, entries: Collection[Entry], value: bytes | None = None) -> list[Position]:
    return [entry.position async for entry in letters.replay(entries, value)]


async def test_a_topic_without_dead_letters(letters: DeadLetterTopic) -> None:
    found = await letters.entries()
    assert (found.entries, found.strangers) == ([], 0)


async def test_everything_is_read_from_every_partition(
    letters: DeadLetterTopic, die: Die, produce: Callable[..., Awaitable[Any]]
) -> None:
    for offset in range(5):
        await die(b"{", offset=offset, to=offset % 2, headers=[("ce_id", b"e-%d" % offset)])
    await produce(letters.name, b"a stranger", partition=1)
    found = await letters.entries()
    assert {str(entry.position): entry.event_ids for entry in found.entries} == {
        "0:0": ("e-0",),
        "0:1": ("e-2",),
        "0:2": ("e-4",),
        "1:0": ("e-1",),
        "1:1": ("e-3",),
    }
    assert found.strangers == 1


async def test_records_are_found_at_their_positions(letters: DeadLetterTopic, die: Die) -> None:
    for offset in range(6):
        await die(b"%d" % offset, offset=offset, to=offset % 2)
    wanted = [Position(1, 2), Position(0, 1)]
    assert {record.value async for record in letters.records(wanted)} == {b"5", b"2"}
    assert [record.value async for record in letters.records([Position(1, 0)])] == [b"1"]


async def test_a_replay_goes_back_where_it_came_from(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(b"{", offset=41, key=b"k", headers=[("ce_id", b"e-1"), ("own", b"\xff")])
    entries = await open_entries(letters)
    assert await replay(letters, entries) == [Position(0, 0)]
    (found,) = await read(letters.source, 1)
    assert (found.key, found.value, found.partition) == (b"k", b"{", 1)
    assert found.timestamp > NOW_MS, "the broker must not find it as old as it is, and delete it"
    assert list(found.headers) == [
        ("ce_id", b"e-1"),
        ("own", b"\xff"),
        ("weir_origin_topic", letters.source.encode()),
        ("weir_origin_partition", b"1"),
        ("weir_origin_offset", b"41"),
        ("weir_origin_timestamp", str(NOW_MS).encode()),
        ("weir_dlq_replays", b"1"),
    ]


async def test_a_replay_is_settled_beside_the_entry(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(b"{", offset=41, key=b"k", to=1)
    await replay(letters, await open_entries(letters))
    assert await open_entries(letters) == []
    assert [entry.action for entry in (await letters.entries()).entries] == [Action.REPLAYED]
    _, resolution = await read(letters.name, 2)
    assert (resolution.partition, resolution.offset, resolution.key, resolution.value) == (1, 1, b"k", None)
    named = dict(resolution.headers)
    assert named.keys() == {"weir_dlq_action", "weir_dlq_entry", "weir_dlq_time"}
    assert (named["weir_dlq_action"], named["weir_dlq_entry"]) == (b"replayed", b"1:0")


async def test_a_fixed_value_takes_the_place_of_the_old_one(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(b"{", offset=41)
    await replay(letters, await open_entries(letters), b'{"text": "hello"}')
    (found,) = await read(letters.source, 1)
    assert found.value == b'{"text": "hello"}'


async def test_messages_without_key_or_value_can_be_replayed(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(None, offset=1, key=b"k")
    await die(None, offset=2)
    await die(b"{", offset=3)
    assert len(await replay(letters, await open_entries(letters))) == 3
    assert await open_entries(letters) == []
    assert [(found.key or None, found.value) for found in await read(letters.source, 3)] == [
        (b"k", None),
        (None, None),
        (None, b"{"),
    ]


async def test_a_message_without_timestamp_gets_none_in_its_headers(
    letters: DeadLetterTopic, die: Die, read: Read
) -> None:
    await die(b"{", offset=1, timestamp=None)
    await replay(letters, await open_entries(letters))
    (found,) = await read(letters.source, 1)
    assert "weir_origin_timestamp" not in dict(found.headers)
    assert "weir_origin_offset" in dict(found.headers)


async def test_a_partition_that_is_no_more(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(b"{", offset=1, partition=9)
    assert len(await replay(letters, await open_entries(letters))) == 1
    (found,) = await read(letters.source, 1)
    assert dict(found.headers)["weir_origin_partition"] == b"9"


async def test_what_is_dropped_is_not_published(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    await die(b"1", offset=1)
    await die(b"2", offset=2)
    first, second = await open_entries(letters)
    assert [entry async for entry in letters.drop([first])] == [first]
    assert await open_entries(letters) == [second]
    await replay(letters, [second])
    (found,) = await read(letters.source, 1)
    assert found.value == b"2"
    assert [entry.action for entry in (await letters.entries()).entries] == [Action.DROPPED, Action.REPLAYED]


async def test_many_are_replayed_in_their_order(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    """More than a batch."""
    for offset in range(450):
        await die(b"%d" % offset, offset=offset, to=0)
    assert await replay(letters, await open_entries(letters)) == [Position(0, offset) for offset in range(450)]
    assert await open_entries(letters) == []
    assert [int(found.value) for found in await read(letters.source, 450)] == list(range(450))


async def test_the_longest_messages_can_be_read_and_replayed(letters: DeadLetterTopic, die: Die, read: Read) -> None:
    for offset in range(3):
        await die(b"x" * (MAX_MESSAGE_BYTES - 1024), offset=offset)
    assert len(await replay(letters, await open_entries(letters))) == 3
    assert {len(found.value) for found in await read(letters.source, 3)} == {MAX_MESSAGE_BYTES - 1024}


async def test_a_value_that_is_too_long_stays_open(letters: DeadLetterTopic, die: Die) -> None:
    await die(b"1", offset=1)
    await die(b"2", offset=2)
    first, second = await open_entries(letters)
    size = MAX_DEAD_LETTER_BYTES + 64 * 1024
    with pytest.raises(
        WorkerMisconfigured, match=rf"{letters.source} refuses a message of {size} bytes; raise its max"
    ):
        await replay(letters, [first], b"x" * size)
    assert await open_entries(letters) == [first, second]


async def test_dead_letters_of_one_batch_are_all_read(
    letters: DeadLetterTopic, message: GetMessage, settings: Settings
) -> None:
    async with AIOKafkaProducer(**client_options(settings), linger_ms=1000) as producer:
        for offset in range(7):
            dead = message(b"{", topic=letters.source, offset=offset)
            headers = list(dlq.headers(dead, ERROR, "moderation/judge", NOW))
            await producer.send(letters.name, b"{", partition=0, headers=headers)
    assert [entry.position.offset for entry in await open_entries(letters)] == list(range(7))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.dlq"])
async def test_a_topic_that_is_not_there(letters: DeadLetterTopic, settings: Settings, name: str) -> None:
    missing = DeadLetterTopic(settings, name)
    with pytest.raises(WorkerMisconfigured, match=rf"there is no topic nowhere\.dlq; .*{letters.name}"):
        await missing.entries()
    with pytest.raises(WorkerMisconfigured, match="there is no topic nowhere;"):
        await replay(missing, [])
    with pytest.raises(WorkerMisconfigured):  # asking did not create it
        await missing.entries()


async def test_a_broker_that_does_not_answer(unused_kafka: Settings) -> None:
    with pytest.raises(KafkaError):
        await DeadLetterTopic(unused_kafka, "messages").entries()


@pytest.fixture(scope="module")
def apache(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """For what Tansu does not do: refuse long messages, delete records."""
    with ApacheKafka(jars, tmp_path_factory.mktemp("apache")) as started:
        yield Settings(kafka_url=started.url)


@pytest.fixture
async def small(apache: Settings, message: GetMessage) -> DeadLetterTopic:
    """A topic that takes 100 kB, with dead letters of 2, 200 000 and 3 bytes."""
    source = f"topic-{uuid4().hex}"
    wanted = [topics.Topic(source, "test", 100_000), topics.Topic(f"{source}.dlq", "test", MAX_DEAD_LETTER_BYTES)]
    await topics.create(apache, wanted, 1, 1)
    async with AIOKafkaProducer(**client_options(apache), max_request_size=MAX_DEAD_LETTER_BYTES) as producer:
        for offset, size in enumerate((2, 200_000, 3)):
            dead = message(b"x" * size, topic=source, partition=0, offset=offset)
            headers = list(dlq.headers(dead, ERROR, "moderation/judge", NOW))
            await producer.send_and_wait(f"{source}.dlq", dead.value, partition=0, headers=headers)
    return DeadLetterTopic(apache, source)


async def test_one_that_the_topic_refuses_stays_open_and_the_others_do_not(small: DeadLetterTopic) -> None:
    entries = await open_entries(small)
    told = rf"topic {small.source} refuses a message of 200000 bytes; raise its max\.message\.bytes"
    with pytest.raises(WorkerMisconfigured, match=told):
        await replay(small, entries)
    assert [entry.action for entry in (await small.entries()).entries] == [Action.REPLAYED, None, Action.REPLAYED]


async def test_entries_that_kafka_has_deleted_are_told(small: DeadLetterTopic, apache: Settings) -> None:
    entries = await open_entries(small)
    admin = AIOKafkaAdminClient(**client_options(apache))
    await admin.start()
    await admin.delete_records({TopicPartition(small.name, 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    told = rf"deleted 2 of these dead letters in the meantime, the first at 0:0; raise retention.ms of {small.name}"
    with pytest.raises(WorkerMisconfigured, match=told):
        await replay(small, entries)
    assert [(entry.position, entry.action) for entry in (await small.entries()).entries] == [
        (Position(0, 2), Action.REPLAYED)
    ]
