"""The generated AsyncAPI document is whole, and says what the service really sends."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from streams.asyncapi import document
from streams.cloudevents import headers
from streams.errors import Reason
from streams.escalation import escalation_of
from streams.pipeline import Pipeline, load_all
from streams.records import Correction, Verdict
from streams.topics import topics_of


@pytest.fixture(scope="module")
def pipelines(shipped: Path) -> list[Pipeline]:
    return load_all([shipped])


@pytest.fixture(scope="module")
def described(pipelines: list[Pipeline]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(document(pipelines)))
    return found


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "$ref" else references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(described: dict[str, Any], reference: str) -> Any:
    node: Any = described
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    return node


def test_references_resolve(described: dict[str, Any]) -> None:
    found = set(references(described))
    assert len(found) > 5
    for reference in found:
        assert reference.startswith("#/")
        assert resolve(described, reference)


def test_every_topic_is_a_channel(described: dict[str, Any], pipelines: list[Pipeline]) -> None:
    assert set(described["channels"]) == {topic.name for topic in topics_of(pipelines)}
    assert all(channel["address"] == name for name, channel in described["channels"].items())


def test_every_stage_reads_publishes_and_gives_up(described: dict[str, Any]) -> None:
    operations = {
        name: (operation["action"], operation["channel"]["$ref"].removeprefix("#/channels/"))
        for name, operation in described["operations"].items()
        if name.startswith("ticket-triage")
    }
    assert operations == {
        "ticket-triage/triage: read": ("receive", "support.tickets"),
        "ticket-triage/triage: publish": ("send", "support.triage"),
        "ticket-triage/triage: correct": ("send", "support.triage"),
        "ticket-triage/triage: give up": ("send", "support.tickets.dlq"),
    }


def test_the_topics_of_calls_say_what_they_carry(described: dict[str, Any]) -> None:
    carried = {
        name.removeprefix("calls."): list(channel["messages"])
        for name, channel in described["channels"].items()
        if name.startswith("calls.") and not name.endswith(".dlq")
    }
    assert carried == {
        "documents": ["textMessage", "withdrawal"],
        "turns": ["textMessage"],
        "transcripts": ["textMessage"],
        "exchanges": ["textMessage"],
        "claims": ["textMessage"],
        "findings": ["verdict", "correction"],
        "escalations": ["escalation"],
        "summaries": ["verdict", "correction"],
    }
    about = {name: described["channels"][f"calls.{name}"]["description"].split()[0].rstrip(".") for name in carried}
    assert about == {
        "documents": "Documents",
        "turns": "Turns",
        "transcripts": "Calls",
        "exchanges": "Questions",
        "claims": "Single",
        "findings": "Judgements",
        "escalations": "Judgements",
        "summaries": "Judgements",
    }
    operations = {
        name.removeprefix("call-review/"): (found["action"], found["channel"]["$ref"].removeprefix("#/channels/calls."))
        for name, found in described["operations"].items()
        if name.startswith(("call-review/documents", "call-review/check"))
    }
    assert operations == {
        "documents: read": ("receive", "documents"),
        "documents: give up": ("send", "documents.dlq"),
        "check: read": ("receive", "claims"),
        "check: give up": ("send", "claims.dlq"),
        "check: publish": ("send", "findings"),
        "check: correct": ("send", "findings"),
        "check: escalate": ("send", "escalations"),
    }


def test_an_escalation_fits_the_payload(
    described: dict[str, Any], verdict: Callable[..., Verdict], event: Callable[..., Any]
) -> None:
    payload = described["components"]["messages"]["escalation"]["payload"]
    schema = {**payload, "components": described["components"]}
    body = json.loads(escalation_of(verdict(), event(context=["before"])).encode())
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(body)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**body, "report": None})


def test_a_verdict_fits_the_payload(described: dict[str, Any], verdict: Callable[..., Verdict]) -> None:
    payload = described["components"]["messages"]["verdict"]["payload"]
    schema = {**payload, "components": described["components"]}
    body = json.loads(verdict().encode())
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(body)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**body, "usage": {}})


def test_a_correction_fits_the_payload_and_no_verdict_does(
    described: dict[str, Any], verdict: Callable[..., Verdict]
) -> None:
    payload = described["components"]["messages"]["correction"]["payload"]
    validator = jsonschema.Draft202012Validator({**payload, "components": described["components"]})
    judged = json.loads(verdict().encode())
    shared = ("source", "pipeline", "stage", "operator", "decision", "label", "event_time", "thread", "lang", "tenant")
    was = {"decision": "block", "label": "spam", "by": "model"}
    own = {"row_id": "r", "corrects": judged["row_id"], "was": was, "changed": True, "stands": True, "reviewer": "ann"}
    correction = {name: judged[name] for name in shared} | own | {"reviewed_at": judged["judged_at"]}
    validator.validate(json.loads(Correction.model_validate(correction).encode()))
    assert not validator.is_valid(judged)
    assert "corrects" not in Verdict.model_fields


def test_the_headers_are_those_that_are_sent(described: dict[str, Any], verdict: Callable[..., Verdict]) -> None:
    sent = headers(id="i", source="s", type="t", time=verdict().judged_at, subject="s", extra={"traceparent": "00-1"})
    named = described["components"]["messages"]["verdict"]["headers"]["properties"]
    assert set(named) == {name for name, _ in sent} - {"content-type"}


def test_the_reasons_of_dead_letters_are_listed(described: dict[str, Any]) -> None:
    message = described["components"]["messages"]["deadLetter"]
    reasons = message["headers"]["properties"]["weir_dlq_reason"]["description"]
    assert reasons == "one of: " + ", ".join(reason.value for reason in Reason)
    assert message["payload"] == {}


def test_the_version_is_that_of_the_package(described: dict[str, Any]) -> None:
    assert described["asyncapi"] == "3.0.0"
    assert described["info"]["version"] == version("weir")


def test_no_pipelines(pipelines: list[Pipeline]) -> None:
    empty = document([])
    assert empty["channels"] == empty["operations"] == {}
    assert document(iter(pipelines)) == document(pipelines)


def test_the_document_in_the_repository_is_the_generated_one(described: dict[str, Any], root: Path) -> None:
    file = root / "docs" / "asyncapi.json"
    if not file.exists():
        pytest.skip("not generated yet: make docs")
    assert json.loads(file.read_text(encoding="utf-8")) == described
