"""The records of the topics, and what their schemas promise."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from streams.records import Source, TextMessage, TokenUsage, Verdict

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
SCHEMA = Verdict.model_json_schema(mode="serialization")


def problems(instance: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    return [error.message for error in validator.iter_errors(instance)]


def test_a_verdict_fits_its_schema(verdict: Callable[..., Verdict]) -> None:
    assert problems(json.loads(verdict().encode())) == []


@pytest.mark.parametrize(
    "columns",
    [
        {"thread": "a\0b", "author": "“é”😀", "tenant": "\u2028", "scores": {"ok": 0.0, "spam": 1.0}},
        {"latency_ms": 2**62, "parts": 10_000, "cost_usd": 1e-12},
        {"event_time": datetime(2000, 1, 1, tzinfo=UTC)},
        {"operator": "extract", "label": "", "output": {"miles": 15, "who": None, "words": "“é”\n"}},
        {"operator": "check", "decision": "escalate", "confidence_source": "votes", "engine_seconds": 0.25},
    ],
)
def test_a_verdict_comes_back_as_it_went_out(verdict: Callable[..., Verdict], columns: dict[str, Any]) -> None:
    sent = verdict(**columns)
    encoded = sent.encode()
    assert problems(json.loads(encoded)) == []
    assert Verdict.model_validate_json(encoded) == sent


def test_times_are_utc_to_the_millisecond(verdict: Callable[..., Verdict]) -> None:
    tokyo = timezone(timedelta(hours=9))
    body = json.loads(verdict(event_time=NOW.astimezone(tokyo), judged_at=NOW + timedelta(microseconds=7)).encode())
    assert (body["event_time"], body["judged_at"]) == ("2026-03-04T05:06:07.089Z", "2026-03-04T05:06:07.089Z")


@pytest.mark.parametrize(
    "change",
    [
        {"mood": "good"},
        {"decision": None},
        {"scores": {"ok": 1.5}},
        {"confidence": -0.1},
        {"parts": 0},
        {"operator": "guess"},
        {"usage": {"input_tokens": 1}},
        {"source": {}},
        {"latency_ms": -1},
        {"engine_seconds": -0.1},
        {"output": None},
        {"confidence_source": "guess"},
    ],
)
def test_the_schema_refuses_what_is_no_verdict(verdict: Callable[..., Verdict], change: dict[str, Any]) -> None:
    assert problems(json.loads(verdict().encode()) | change)


def test_every_field_of_a_verdict_is_always_there(verdict: Callable[..., Verdict]) -> None:
    for model in (Verdict, Source, TokenUsage):
        assert set(model.model_json_schema(mode="serialization")["required"]) == set(model.model_fields)
    assert list(json.loads(verdict().encode())) == list(Verdict.model_fields)


def test_the_schema_of_text_messages_says_what_the_code_accepts() -> None:
    schema = TextMessage.model_json_schema()
    assert "required" not in schema  # the words may stand in `text` or in `turns`
    body = {"text": "hello", "id": "e-1", "time": "2026-03-04T05:06:07Z", "mood": "good"}
    jsonschema.validate(body, schema)
    TextMessage.model_validate_json(json.dumps(body))
    for wrong in (
        {"turns": [{"speaker": "agent"}]},
        {"turn": -1},
        {"documents": "page"},
        {"text": 5},
        {"text": "a", "id": 17},
        {"text": "a", "thread": "t" * 257},
        [],
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
        with pytest.raises(ValidationError):
            TextMessage.model_validate_json(json.dumps(wrong))
