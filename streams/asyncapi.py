"""The AsyncAPI 3.0 document of all topics, generated from the record types."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from streams.dlq import Action
from streams.errors import Reason
from streams.pipeline import Pipeline, Stage
from streams.records import (
    CORRECTION_TYPE,
    ESCALATION_TYPE,
    MESSAGE_TYPE,
    REVIEW_TYPE,
    VERDICT_TYPE,
    Correction,
    Escalation,
    Review,
    TextMessage,
    Verdict,
)
from streams.reviews import PIPELINE, STAGE
from streams.topics import REVIEWS, dead_letters

_SCHEMA_REF = "#/components/schemas/{model}"

_CLOUDEVENTS = {
    "ce_specversion": "always 1.0",
    "ce_id": "name of the event, unique within its source",
    "ce_source": "who published it",
    "ce_type": "what it is",
    "ce_time": "when it happened, RFC 3339",
    "ce_subject": "what it is about",
    "traceparent": "W3C trace context; a verdict carries that of its message, or of the span that sent it",
}

_ORIGIN = {
    "weir_origin_topic": "topic where the message stood first; only in a replayed dead letter, as are these four",
    "weir_origin_partition": "its partition there",
    "weir_origin_offset": "its offset there",
    "weir_origin_timestamp": "its Kafka timestamp there, Unix milliseconds; missing if it had none",
    "weir_dlq_replays": "how often it was replayed",
}

_DEAD_LETTER = {
    "weir_dlq_reason": "one of: " + ", ".join(Reason),
    "weir_dlq_detail": "what was wrong, in words",
    "weir_dlq_topic": "topic where the message stood first",
    "weir_dlq_partition": "its partition there",
    "weir_dlq_offset": "its offset there",
    "weir_dlq_timestamp": "its Kafka timestamp there, Unix milliseconds; missing if it had none",
    "weir_dlq_pipeline": "pipeline and stage that gave it up",
    "weir_dlq_time": "when, RFC 3339",
    "weir_dlq_attempts": "how often it was tried; missing if that was not counted",
    "weir_dlq_replays": "how often it was replayed before; missing if never",
}

_WITHDRAWAL = {"ce_tenant": "whose document it is; missing if it has no tenant"}

_RESOLUTION = {
    "weir_dlq_action": "one of: " + ", ".join(Action),
    "weir_dlq_entry": "the dead letter that is settled, as <partition>:<offset> of this topic",
    "weir_dlq_time": "when, RFC 3339",
}


_DOCUMENTS = (
    "Documents that claims are checked against; compacted. Key: the document's id. Each version holds from its `time` "
    "on; a message without a value withdraws the document."
)


_REVIEWS = (
    "People's reviews of verdicts, from any tool; WEIR_REVIEWS_TOPIC names another topic. Key: the row id of the "
    "verdict. The same review twice is one."
)


def document(pipelines: Iterable[Pipeline]) -> dict[str, Any]:
    """Channels, operations and messages of these pipelines, from the service's side."""
    topics = _Topics()
    judged = False
    for pipeline in pipelines:
        if pipeline.documents is not None:
            topics.read(f"{pipeline.name}/documents", pipeline.documents.topic, _DOCUMENTS, "textMessage", "withdrawal")
        for stage in pipeline.stages:
            name = f"{pipeline.name}/{stage.name}"
            topics.read(name, pipeline.reads(stage), _read_by(stage), "textMessage")
            if stage.judge is not None:
                topics.write(
                    f"{name}: publish", stage.writes, "Judgements. Key: that of the message judged.", "verdict"
                )
                topics.write(f"{name}: correct", stage.writes, "", "correction")
                judged = True
            else:
                topics.write(f"{name}: publish", stage.writes, _made_by(stage), "textMessage")
            if stage.escalate is not None:
                purpose = "Judgements that a person should see. Key: that of the message judged."
                topics.write(f"{name}: escalate", stage.escalate.writes, purpose, "escalation")
    if judged:
        topics.read(f"{PIPELINE}/{STAGE}", REVIEWS, _REVIEWS, "review")
    _, schemas = models_json_schema(
        [
            (TextMessage, "validation"),
            (Verdict, "serialization"),
            (Escalation, "serialization"),
            (Review, "validation"),
            (Correction, "serialization"),
        ],
        ref_template=_SCHEMA_REF,
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Weir",
            "version": version("weir"),
            "description": "Topics of the shipped pipelines. Generated: make docs.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": topics.channels,
        "operations": topics.operations,
        "components": {
            "messages": {
                "textMessage": _message(
                    "A text: a message, a turn of a call, a call, a piece of one, a document",
                    MESSAGE_TYPE,
                    "TextMessage",
                    _CLOUDEVENTS | _ORIGIN,
                ),
                "verdict": _message("A judgement", VERDICT_TYPE, "Verdict", _CLOUDEVENTS),
                "escalation": _message(
                    "A judgement that a person should see", ESCALATION_TYPE, "Escalation", _CLOUDEVENTS
                ),
                "review": _message("What a person says of a verdict", REVIEW_TYPE, "Review", _CLOUDEVENTS | _ORIGIN),
                "correction": _message(
                    "What a person said of a verdict, as its readers are told",
                    CORRECTION_TYPE,
                    "Correction",
                    _CLOUDEVENTS,
                ),
                "withdrawal": {
                    "title": "The end of a document",
                    "summary": "From its Kafka timestamp on it says nothing. Key: the document's id; no value.",
                    "headers": _headers(_WITHDRAWAL),
                    "payload": {"type": "null"},
                },
                "deadLetter": {
                    "title": "A message that could not be processed",
                    "summary": "Value, key and headers as they came; the reason in further headers.",
                    "headers": _headers(_DEAD_LETTER),
                    "payload": {},
                },
                "resolution": {
                    "title": "What became of a dead letter",
                    "summary": "Settles a dead letter of the same partition. Key: that of the dead letter; no value.",
                    "headers": _headers(_RESOLUTION),
                    "payload": {"type": "null"},
                },
            },
            "schemas": schemas["$defs"],
        },
    }


class _Topics:
    """Channels and operations; a topic is described by what is first said of it."""

    def __init__(self) -> None:
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}

    def read(self, reader: str, topic: str, purpose: str, *messages: str) -> None:
        """A topic that is read, and that for what cannot be processed of it."""
        dlq = dead_letters(topic)
        self._channel(topic, purpose, messages)
        lost = f"What could not be processed of {topic}, as it came, and what became of it."
        self._channel(dlq, lost, ("deadLetter", "resolution"))
        self.operations[f"{reader}: read"] = _operation("receive", topic, f"{reader} reads these.")
        self.operations[f"{reader}: give up"] = _operation("send", dlq, f"{reader} gave these up.")

    def write(self, operation: str, topic: str, purpose: str, message: str) -> None:
        """A topic that is written."""
        self._channel(topic, purpose, (message,))
        self.operations[operation] = _operation("send", topic, f"{operation.partition(':')[0]} publishes these.")

    def _channel(self, topic: str, purpose: str, messages: Iterable[str]) -> None:
        found = self.channels.setdefault(topic, {"address": topic, "description": purpose, "messages": {}})
        for message in messages:
            found["messages"][message] = {"$ref": f"#/components/messages/{message}"}


def _read_by(stage: Stage) -> str:
    if stage.assemble is not None:
        return (
            f"Turns of calls: each has its `thread`, which is the key as well, its number `turn` from "
            f"{stage.assemble.first} on, and in `author` who spoke; the last one is `final`."
        )
    what = "judged" if stage.judge is not None else "cut"
    return f"Texts to be {what}. Key: the thread, so that it stays in order."


def _made_by(stage: Stage) -> str:
    if stage.assemble is not None:
        return (
            "Calls with all their `turns`; one that was corrected comes again with another id. A whole call may be "
            "published here as well. Key: the thread."
        )
    assert stage.cut is not None
    if stage.cut.into == "exchanges":
        return "Questions with their answers in `turns`, and in `context` what was said before. Key: that of the call."
    return "Single claims, and in `context` what was said before. Key: that of what they were cut from."


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    pointer = channel.replace("~", "~0").replace("/", "~1")
    return {"action": action, "channel": {"$ref": f"#/channels/{pointer}"}, "summary": summary}


def _message(title: str, type_: str, schema: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "title": title,
        "summary": f"CloudEvents binary mode, type {type_}.",
        "contentType": "application/json",
        "headers": _headers(headers),
        "payload": {"$ref": _SCHEMA_REF.format(model=schema)},
    }


def _headers(described: dict[str, str]) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    return {"type": "object", "properties": properties}
