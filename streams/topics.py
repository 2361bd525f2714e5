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
    compacted: bool = False


def dead_letters(topic: str) -> str:
    """The topic for messages of `topic` that cannot be processed."""
    return f"{topic}.dlq"


def deferred(topic: str) -> str:
    """The topic for messages of `topic` that wait for another day."""
    return f"{topic}.deferred"


def topics_of(pipelines: Iterable[Pipeline]) -> list[Topic]:
    """Every topic that the pipelines read or write, once, in the order of the flow."""
    found: dict[str, Topic] = {}
    for topic in (topic for pipeline in pipelines for topic in _of(pipeline)):
        found.setdefault(topic.name, topic)
    return list(found.values())


def _of(pipeline: Pipeline) -> Iterable[Topic]:
    if pipeline.documents is not None:
        name = pipeline.documents.topic
        yield Topic(name, f"documents of {pipeline.name}", compacted=True)
        yield _dead_letters(name)
    for stage in pipeline.stages:
        reads, reader = pipeline.reads(stage), f"{pipeline.name}/{stage.name}"
        yield Topic(reads, f"read by {reader}")
        yield _dead_letters(reads)
        if stage.judge is not None and pipeline.limits.defers:
            yield Topic(deferred(reads), f"what waits for another day of {reads}", MAX_DEAD_LETTER_BYTES)
        yield Topic(stage.writes, f"written by {reader}")
        if stage.escalate is not None:
            yield Topic(stage.escalate.writes, f"what {reader} wants a person to see")


def _dead_letters(topic: str) -> Topic:
    return Topic(dead_letters(topic), f"what could not be processed of {topic}", MAX_DEAD_LETTER_BYTES)


async def create(settings: Settings, topics: Iterable[Topic], partitions: int, replication: int) -> dict[str, bool]:
    """Create the topics that do not exist. Returns name to whether it was created now. Raises KafkaError."""
    created: dict[str, bool] = {}
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        for topic in topics:
            config = {"max.message.bytes": str(topic.max_message_bytes)}
            if topic.compacted:
                config["cleanup.policy"] = "compact"
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
