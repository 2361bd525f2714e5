"""Dead letters are fixed, replayed, and judged as if nothing had happened; on each broker."""

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import ConsumerRecord
from e2e_service import Message, Service

from sinks import clickhouse

pytestmark = pytest.mark.slow

TICKETS = "tickets"
NAMED = Message(b'{"text": "Where is my parcel?", "id": "t-1"')
NAMELESS = Message(b'{"text": "\xff"}', b"k")  # neither id nor time: it is known by its place and Kafka's time only
HOPELESS = Message(b"")
FIXED = {
    NAMED: b'{"text": "Where is my parcel?", "id": "t-1"}',
    NAMELESS: b'{"text": "I was charged twice for one parcel"}',
}


def listed(service: Service, *arguments: str) -> list[dict[str, Any]]:
    lines = service.weir("dlq", "list", TICKETS, "--json", *arguments).splitlines()
    return [orjson.loads(line) for line in lines]


def rows(service: Service, sql: str) -> list[tuple[Any, ...]]:
    client = clickhouse.connect(service.settings.store)
    try:
        return list(client.query(sql).result_rows)
    finally:
        client.close()


def found(records: list[ConsumerRecord[Any, Any]], message: Message) -> list[ConsumerRecord[Any, Any]]:
    return [record for record in records if record.value == message.value]


async def test_dead_letters_are_fixed_and_judged_once(service: Service, tmp_path: Path) -> None:
    await service.publish(TICKETS, NAMED, NAMELESS, HOPELESS)
    with service.worker():
        async with (
            service.reading(TICKETS) as sent,
            service.reading(f"{TICKETS}.dlq") as dead,
            service.reading("triage") as judged,
        ):
            await sent.count(3)
            await dead.count(3)
            origins = {message: found(sent.records, message)[0] for message in (NAMED, NAMELESS, HOPELESS)}
            position = {}
            for message, origin in origins.items():
                (entry,) = [
                    entry
                    for entry in listed(service)
                    if (entry["partition"], entry["offset"]) == (origin.partition, origin.offset)
                ]
                assert entry["timestamp_ms"] == origin.timestamp
                position[message] = entry["position"]
            assert service.weir("dlq", "show", TICKETS, position[NAMED], "--value").encode() == NAMED.value

            for message, value in FIXED.items():
                file = tmp_path / "fixed.json"
                file.write_bytes(value)
                service.weir("dlq", "replay", TICKETS, position[message], "--value", str(file), "--yes")
            service.weir("dlq", "drop", TICKETS, position[HOPELESS], "--yes")
            await judged.count(2)

            await sent.count(5)
            for record in sent.records[3:]:  # as if the replay had been interrupted, and done again
                await service.publish(TICKETS, Message(record.value, record.key, record.headers))
            await service.publish(TICKETS, Message(b'{"text": "the last one", "id": "last"}'))
            await judged.until(lambda records: any(b'"last"' in record.value for record in records))
            await judged.quiet()
            assert len(await dead.quiet()) == 3 + 3  # nothing died again; three resolutions

    verdicts = {
        verdict["source"]["id"]: verdict for verdict in (orjson.loads(record.value) for record in judged.records)
    }
    assert (len(judged.records), verdicts.keys()) == (3, {"t-1", "", "last"})
    assert listed(service) == []
    assert sorted(entry["action"] for entry in listed(service, "--all")) == ["dropped", "replayed", "replayed"]
    for message, name in ((NAMED, "t-1"), (NAMELESS, "")):
        origin, verdict = origins[message], verdicts[name]
        place = (TICKETS, origin.partition, origin.offset)
        source = verdict["source"]
        assert (source["topic"], source["partition"], source["offset"]) == place
        assert datetime.fromisoformat(verdict["event_time"]).timestamp() == origin.timestamp / 1000
        here = f"topic = '{TICKETS}' AND `partition` = {origin.partition} AND `offset` = {origin.offset}"
        for table, row_id in (("verdicts", verdict["row_id"]), ("source_rows", source["row_id"])):
            assert rows(service, f"SELECT row_id FROM {table} WHERE {here}") == [(UUID(row_id).int,)]
