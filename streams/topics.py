"""The topics of a set of pipelines, and their creation."""

from collections.abc import Iterable
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from streams.errors import WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, client_options
from streams.pipeline import Pipeline
from streams.settings import Settings

REVIEWS = "reviews"


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


def topics_of(pipelines: Iterable[Pipeline], reviews: str = REVIEWS) -> list[Topic]:
    """Every topic that the pipelines read or write, once, in the order of the flow.

    reviews: topic of people's reviews of their verdicts, which is the last one; empty for none. Raises
    WorkerMisconfigured if a pipeline uses it for something else.
    """
    found: dict[str, Topic] = {}
    judged = False
    for pipeline in pipelines:
        judged |= any(stage.judge is not None for stage in pipeline.stages)
        for topic in _of(pipeline):
            found.setdefault(topic.name, topic)
    if reviews and judged:
        for topic in (Topic(reviews, "people's reviews of verdicts"), _dead_letters(reviews)):
            if topic.name in found:
                raise WorkerMisconfigured(
                    f"topic {topic.name} is {found[topic.name].purpose}, and cannot have people's reviews as well; "
                    "set WEIR_REVIEWS_TOPIC to another one, or to nothing for no reviews"
                )
            found[topic.name] = topic
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
