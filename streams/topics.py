"""The topics of a set of pipelines, and their creation."""

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, client_options
from streams.pipeline import Pipeline
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic and what it is for."""

    name: str
    purpose: str
    max_message_bytes: int = MAX_MESSAGE_BYTES


def dead_letters(topic: str) -> str:
    """The topic for messages of `topic` that cannot be processed."""
    return f"{topic}.dlq"


def deferred(topic: str) -> str:
    """The topic for messages of `topic` that wait for another day."""
    return f"{topic}.deferred"


def topics_of(pipelines: Iterable[Pipeline]) -> list[Topic]:
    """Every topic that the pipelines read or write, once, in the order of the flow."""
    found: dict[str, Topic] = {}
    for pipeline in pipelines:
        for stage in pipeline.stages:
            reads = pipeline.reads(stage)
            found.setdefault(reads, Topic(reads, f"read by {pipeline.name}/{stage.name}"))
            dlq = dead_letters(reads)
            found.setdefault(dlq, Topic(dlq, f"what could not be processed of {reads}", MAX_DEAD_LETTER_BYTES))
            if pipeline.limits.defers:
                later = deferred(reads)
                found.setdefault(later, Topic(later, f"what waits for another day of {reads}", MAX_DEAD_LETTER_BYTES))
            found.setdefault(stage.writes, Topic(stage.writes, f"written by {pipeline.name}/{stage.name}"))
    return list(found.values())


async def create(settings: Settings, topics: Iterable[Topic], partitions: int, replication: int) -> dict[str, bool]:
    """Create the topics that do not exist. Returns name to whether it was created now. Raises KafkaError."""
    created: dict[str, bool] = {}
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        for topic in topics:
            config = {"max.message.bytes": str(topic.max_message_bytes)}
            new = NewTopic(topic.name, partitions, replication, topic_configs=config)
            try:
                response = await admin.create_topics([new])
            except TopicAlreadyExistsError:
                created[topic.name] = False
                continue
            created[topic.name] = _succeeded(response)
    finally:
        await admin.close()
    return created


def _succeeded(response: object) -> bool:
    """Whether the topic was created now; raises what the broker said otherwise. Some versions answer, some raise."""
    for _, code, *_rest in getattr(response, "topic_errors", ()):
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            return False
        if code:
            raise error
    return True
