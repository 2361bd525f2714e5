"""Topics whose offsets have gaps: aborted messages and the markers of transactions. Only Apache Kafka has them."""

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from e2e_service import SECONDS, Service, text, verdicts

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("broker", ["apache"], indirect=True)]


async def transaction(service: Service, *names: str, commit: bool) -> None:
    """Publish events of these names in one transaction."""
    async with AIOKafkaProducer(bootstrap_servers=service.bootstrap, transactional_id="tests") as producer:
        await producer.begin_transaction()
        for name in names:
            await producer.send_and_wait("messages", text(f"gaps {name}", id=name).value, partition=0)
        await (producer.commit_transaction() if commit else producer.abort_transaction())


async def committed(service: Service) -> int:
    """Offset that the workers have committed of the partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=service.bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(service.settings.kafka_group)
    finally:
        await admin.close()
    return max((entry.offset for tp, entry in offsets.items() if tp == TopicPartition("messages", 0)), default=-1)


async def test_aborted_messages_are_no_events_and_gaps_stall_nothing(service: Service) -> None:
    await transaction(service, "kept-1", "kept-2", commit=True)  # offsets 0 and 1; 2 is the marker
    await transaction(service, "aborted", commit=False)  # 3; 4 is the marker
    await transaction(service, "kept-3", commit=True)  # 5; 6 is the marker
    async with service.reading("verdicts") as found:
        with service.worker() as worker:
            await found.count(3)
            worker.stop(SECONDS)
        assert await committed(service) == 6
        with service.worker() as second:
            await transaction(service, "kept-4", commit=True)
            await found.count(4)
            second.stop(SECONDS)
        records = await found.quiet()
    assert sorted(verdicts(records)) == ["kept-1", "kept-2", "kept-3", "kept-4"]  # without a key there is no order
    assert len(records) == 4
