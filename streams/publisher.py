"""Messages to Kafka, tried until they are acknowledged."""

from collections.abc import Iterable
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from streams.cloudevents import Headers
from streams.errors import TopicsMissing, WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, client_options
from streams.patience import persist
from streams.settings import Settings
from streams.tracing import UNTRACED, Tracing

_BACKOFF_SECONDS = 0.2
# With the default of 16 KiB a burst of verdicts waits for its batch to leave, each of them woken by every batch.
_BATCH_BYTES = 1024 * 1024
_OVERHEAD_BYTES = 16 * 1024


class Publisher:
    """A producer that waits for all replicas (`acks=all`) and does not give up.

    Messages of one key keep the order in which `send` was called and awaited. A message may stand in the topic twice
    when an acknowledgement was lost; readers tell by the row id.
    """

    def __init__(self, settings: Settings, tracing: Tracing = UNTRACED) -> None:
        self._tracing = tracing
        self._producer = AIOKafkaProducer(
            **client_options(settings),
            acks="all",
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_DEAD_LETTER_BYTES + _OVERHEAD_BYTES,
        )

    async def start(self) -> None:
        """Connect. Raises KafkaError."""
        await self._producer.start()

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int | None = None
    ) -> None:
        """Return when Kafka has acknowledged the message. partition: None for the one that the key gives.

        Raises WorkerMisconfigured if the topic refuses its size, and Kafka's own error if it may not be written to.
        """
        if key is None and value is None:
            key = b""  # aiokafka sends no message without both
        try:
            with self._tracing.sending(topic, headers) as sent:
                await persist(
                    partial(self._producer.send_and_wait, topic, value, key, partition, headers=sent), _BACKOFF_SECONDS
                )
        except MessageSizeTooLargeError as error:
            raise WorkerMisconfigured(
                f"topic {topic} refuses a message of {len(value or b'')} bytes; raise its max.message.bytes "
                f"to {MAX_DEAD_LETTER_BYTES} (weir topics create does that for new topics)"
            ) from error

    async def require(self, topics: Iterable[str]) -> None:
        """Return if all topics exist. Raises TopicsMissing, KafkaError."""
        metadata = await self._producer.client.fetch_all_metadata()
        missing = sorted(set(topics) - metadata.topics())
        if missing:
            raise TopicsMissing(f"topics are missing: {', '.join(missing)}; run: weir topics create")

    async def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """How many partitions each topic has; 0 for one that does not exist. Raises KafkaError."""
        metadata = await self._producer.client.fetch_all_metadata()
        return {topic: len(metadata.partitions_for_topic(topic) or ()) for topic in topics}

    async def ready(self) -> str | None:
        """None if the cluster answers, otherwise the reason why not."""
        try:
            metadata = await self._producer.client.fetch_all_metadata()
        except (TimeoutError, KafkaError, OSError) as error:
            return str(error) or type(error).__name__
        return None if metadata.brokers() else "no broker answers"

    async def close(self) -> None:
        """Send what is buffered and disconnect."""
        await self._producer.stop()
