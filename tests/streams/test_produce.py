"""A producer as any other, whose messages the worker can decode."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from streams.cloudevents import attributes
from streams.decode import decode
from streams.produce import Producer, read_rows
from streams.settings import Settings

NewTopic = Callable[..., Awaitable[str]]
Read = Callable[..., Awaitable[list[Any]]]
GetMessage = Callable[..., Any]


@pytest.fixture
async def published(settings: Settings, new_topic: NewTopic, read: Read) -> Callable[..., Awaitable[list[Any]]]:
    """`await published({"text": "hello"})`: the messages of these rows."""

    async def publish(*rows: dict[str, Any]) -> list[Any]:
        topic = await new_topic()
        async with Producer(settings, "/tests") as producer:
            for row in rows:
                await producer.publish(topic, row)
        return await read(topic, len(rows))

    return publish


async def test_a_row_is_a_text_message(published: Callable[..., Any], message: GetMessage) -> None:
    row = {"text": "hello", "id": "e-1", "thread": "t-1", "lang": "en", "time": "2026-03-04T05:06:07Z", "label": "ok"}
    (found,) = await published(row)
    assert json.loads(found.value) == {name: value for name, value in row.items() if name != "label"}
    assert found.key == b"t-1"
    event = decode(message(found.value, headers=found.headers))
    assert (event.event_id, event.source, event.thread) == ("e-1", "/tests", "t-1")
    assert event.event_time == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


async def test_an_event_has_a_name_and_a_time_of_its_own(published: Callable[..., Any], message: GetMessage) -> None:
    before = datetime.now(UTC)
    found = await published({"text": "hello"}, {"text": "hello", "id": None, "time": None})
    after = datetime.now(UTC)
    names = [attributes(each.headers)["id"] for each in found]
    assert len(set(names)) == 2
    assert all(names)
    assert [each.key for each in found] == [None, None]
    for each, name in zip(found, names, strict=True):
        event = decode(message(each.value, headers=each.headers))
        assert event.event_id == name
        assert before.replace(microsecond=0) <= event.event_time <= after


async def test_what_is_wrong_is_published_as_well(published: Callable[..., Any]) -> None:
    found = await published({"text": 5, "thread": 7, "id": 9}, {})
    assert json.loads(found[0].value) | {"time": None} == {"text": 5, "thread": 7, "id": 9, "time": None}
    assert found[0].key == b"7"
    assert set(json.loads(found[1].value)) == {"time"}


@pytest.mark.usefixtures("nothing_is_left_open")
async def test_no_broker(unused_kafka: Settings) -> None:
    with pytest.raises(KafkaError):
        async with Producer(unused_kafka, "/tests"):
            pass


def test_rows_of_a_file() -> None:
    assert list(read_rows(['{"text": "a"}\n', "\n", "  \n", '{"text": "b"}'])) == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("line", "says"), [("{", "line 2 is not JSON"), ("[1]", "line 2 is JSON, but no object"), ("5", "no object")]
)
def test_a_line_that_is_no_row(line: str, says: str) -> None:
    rows = iter(read_rows(['{"text": "a"}', line]))
    assert next(rows) == {"text": "a"}
    with pytest.raises(ValueError, match=says):
        next(rows)
