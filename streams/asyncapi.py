"""The AsyncAPI 3.0 document of all topics, generated from the record types."""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from streams.dlq import Action
from streams.errors import Reason
from streams.pipeline import Pipeline
from streams.records import MESSAGE_TYPE, VERDICT_TYPE, TextMessage, Verdict
from streams.topics import dead_letters

_SCHEMA_REF = "#/components/schemas/{model}"

_CLOUDEVENTS = {
    "ce_specversion": "always 1.0",
    "ce_id": "name of the event, unique within its source",
    "ce_source": "who published it",
    "ce_type": "what it is",
    "ce_time": "when it happened, RFC 3339",
    "ce_subject": "what it is about",
    "traceparent": "W3C trace context; a verdict carries that of its message",
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

_RESOLUTION = {
    "weir_dlq_action": "one of: " + ", ".join(Action),
    "weir_dlq_entry": "the dead letter that is settled, as <partition>:<offset> of this topic",
    "weir_dlq_time": "when, RFC 3339",
}


def document(pipelines: Iterable[Pipeline]) -> dict[str, Any]:
    """Channels, operations and messages of these pipelines, from the service's side."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for pipeline in pipelines:
        for stage in pipeline.stages:
            reads, name = pipeline.reads(stage), f"{pipeline.name}/{stage.name}"
            dlq = dead_letters(reads)
            for topic, message, purpose in (
                (reads, "textMessage", "Texts to be judged. Key: the thread, so that it stays in order."),
                (stage.writes, "verdict", "Judgements. Key: that of the message judged."),
                (dlq, "deadLetter", f"What could not be processed of {reads}, as it came, and what became of it."),
            ):
                channels.setdefault(topic, _channel(topic, message, purpose))
            channels[dlq]["messages"]["resolution"] = {"$ref": "#/components/messages/resolution"}
            operations[f"{name}: read"] = _operation("receive", reads, f"{name} judges these.")
            operations[f"{name}: publish"] = _operation("send", stage.writes, f"{name} publishes these.")
            operations[f"{name}: give up"] = _operation("send", dlq, f"{name} gave these up.")
    _, schemas = models_json_schema([(TextMessage, "validation"), (Verdict, "serialization")], ref_template=_SCHEMA_REF)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Weir",
            "version": version("weir"),
            "description": "Topics of the shipped pipelines. Generated: make docs.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                "textMessage": _message("A text to be judged", MESSAGE_TYPE, "TextMessage", _CLOUDEVENTS | _ORIGIN),
                "verdict": _message("A judgement", VERDICT_TYPE, "Verdict", _CLOUDEVENTS),
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


def _channel(address: str, message: str, description: str) -> dict[str, Any]:
    return {
        "address": address,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
    }


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
