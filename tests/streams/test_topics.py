"""Which topics the pipelines need, and their creation on a real broker."""

from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from streams.errors import WorkerMisconfigured
from streams.kafka import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, client_options
from streams.pipeline import Pipeline, load_all
from streams.settings import Settings
from streams.topics import Topic, create, dead_letters, topics_of

JUDGE = {"operator": "classify", "classes": [{"name": "a", "definition": "a"}, {"name": "b", "definition": "b"}]}


def pipeline(name: str, source: str, *writes: str) -> Pipeline:
    stages = [{"name": f"s{number}", "writes": topic, "judge": JUDGE} for number, topic in enumerate(writes)]
    return Pipeline.model_validate({"name": name, "version": "1", "source": source, "sla": "1s", "stages": stages})


def test_the_topics_of_the_shipped_pipelines(shipped: Path) -> None:
    found = topics_of(load_all([shipped]))
    assert [topic.name for topic in found if topic.compacted] == ["calls.documents"]
    assert [topic.name for topic in found] == [
        "calls.documents",
        "calls.documents.dlq",
        "calls.turns",
        "calls.turns.dlq",
        "calls.transcripts",
        "calls.transcripts.dlq",
        "calls.exchanges",
        "calls.exchanges.dlq",
        "calls.claims",
        "calls.claims.dlq",
        "calls.findings",
        "calls.escalations",
        "calls.summaries",
        "community.messages",
        "community.messages.dlq",
        "community.verdicts",
        "support.tickets",
        "support.tickets.dlq",
        "support.triage",
        "reviews",
        "reviews.dlq",
    ]


def test_a_topic_that_two_use_stands_once() -> None:
    found = topics_of([pipeline("one", "in", "middle", "out"), pipeline("two", "in", "out")], reviews="")
    assert [(topic.name, topic.purpose) for topic in found] == [
        ("in", "read by one/s0"),
        ("in.dlq", "what could not be processed of in"),
        ("middle", "written by one/s0"),
        ("middle.dlq", "what could not be processed of middle"),
        ("out", "written by one/s1"),
    ]


def test_rows_that_may_wait_have_a_topic_to_wait_in() -> None:
    plain = pipeline("one", "in", "out").model_dump()
    waits = {"tenants": {"acme": {"usd_per_day": 1, "past_budget": "wait"}}}
    found = topics_of([Pipeline.model_validate(plain | {"limits": waits})], "")
    assert [topic.name for topic in found] == ["in", "in.dlq", "in.deferred", "out"]
    assert found[2].max_message_bytes == MAX_DEAD_LETTER_BYTES
    reviews = {"tenants": {"acme": {"usd_per_day": 1}}}
    assert len(topics_of([Pipeline.model_validate(plain | {"limits": reviews})], "")) == 3


def test_dead_letters_may_be_longer_than_what_they_hold() -> None:
    sizes = {topic.name: topic.max_message_bytes for topic in topics_of([pipeline("one", "in", "out")], "")}
    assert sizes == {"in": MAX_MESSAGE_BYTES, "in.dlq": MAX_DEAD_LETTER_BYTES, "out": MAX_MESSAGE_BYTES}
    assert dead_letters("in") == "in.dlq"


def test_reviews_have_a_topic_where_something_is_judged() -> None:
    judging = pipeline("one", "in", "out")
    assert [topic.name for topic in topics_of([judging], "people")][-2:] == ["people", "people.dlq"]
    cut = {"name": "cut", "writes": "out", "cut": {"into": "claims", "answers": ["agent"]}}
    cutting = Pipeline.model_validate(judging.model_dump() | {"stages": [cut]})
    assert [topic.name for topic in topics_of([cutting])] == ["in", "in.dlq", "out"]


@pytest.mark.parametrize(("source", "writes"), [("reviews", "out"), ("in", "reviews"), ("in", "reviews.dlq")])
def test_a_topic_of_a_pipeline_cannot_have_reviews_as_well(source: str, writes: str) -> None:
    with pytest.raises(WorkerMisconfigured, match=r"reviews(\.dlq)? is .*one/s0.*WEIR_REVIEWS_TOPIC"):
        topics_of([pipeline("one", source, writes)])


async def test_topics_are_created_once(settings: Settings) -> None:
    names = [f"topic-{uuid4().hex}" for _ in range(3)]
    first, second, third = (Topic(name, "test") for name in names)
    assert await create(settings, [first, second], partitions=3, replication=1) == {names[0]: True, names[1]: True}
    assert await create(settings, [second, third], partitions=1, replication=1) == {names[1]: False, names[2]: True}
    admin = AIOKafkaAdminClient(**client_options(settings))
    await admin.start()
    found = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics(names)}
    await admin.close()
    assert found == dict(zip(names, (3, 3, 1), strict=True))


@pytest.mark.usefixtures("nothing_is_left_open")
async def test_no_broker(unused_kafka: Settings) -> None:
    with pytest.raises(KafkaError):
        await create(unused_kafka, [Topic("t", "test")], partitions=1, replication=1)
