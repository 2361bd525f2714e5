"""From a judgement to what leaves the worker."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from inference.engine import Usage
from inference.judgement import Call, Judgement
from sinks.documents import Document
from sinks.judged import StoredVerdict
from sinks.rows import InferenceCallRow, LineageEdgeRow, SourceRow, VerdictRow
from streams import verdicts
from streams.decode import Event
from streams.history import Earlier
from streams.identity import row_of, stage_row_id
from streams.pipeline import Pipeline, Stage
from streams.records import Verdict
from streams.verdicts import rows_of, verdict_from_store, verdict_row_id

NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)

GetEvent = Callable[..., Event]

CONTEXT = [Earlier(row_id=5, offset=39, text="hi"), Earlier(row_id=6, offset=40, text="there")]
DOCUMENT = Document(row_id=9, text="the rules", withdrawn=False, held_from=NOW)
JUDGEMENT = Judgement(
    decision="block",
    label="spam",
    scores={"ok": 0.1, "spam": 0.9},
    confidence=0.9,
    model="m-1",
    prompt_hash="a1",
    calls=[Call(Usage(30, 1, 20), 0.5, 0.001, 0.125), Call(Usage(40, 1, 0), 0.25, 0.002, 0.25)],
    parts=3,
    context_read=(0, 1),
    confidence_source="votes",
    output={"evidence": "“é”", "found": [None, 1]},
)


def verdict_of(pipeline: Pipeline, stage: Stage, event: Event, *rest: Any, **named: Any) -> Verdict:
    """With the row id that belongs to it."""
    return verdicts.verdict_of(pipeline, stage, event, verdict_row_id(pipeline, stage, event), *rest, **named)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    judge = {"operator": "moderate", "categories": [{"name": "spam", "definition": "advertising"}]}
    stage = {"name": "moderate", "writes": "verdicts", "prompt": "v4", "judge": judge}
    return Pipeline.model_validate(
        {"name": "watch", "version": "7", "source": "messages", "sla": "1s", "stages": [stage]}
    )


@pytest.fixture
def judged(event: GetEvent) -> Event:
    return event("words", id="e-1", thread="t", author="ann", lang="en", tenant="acme", time=NOW.isoformat(), offset=41)


@pytest.fixture
def verdict(pipeline: Pipeline, judged: Event) -> Verdict:
    return verdict_of(pipeline, pipeline.stages[0], judged, CONTEXT, [DOCUMENT], JUDGEMENT, NOW + timedelta(seconds=2))


def test_a_verdict_tells_all_that_is_known(verdict: Verdict, judged: Event) -> None:
    checked = Verdict.model_validate_json(verdict.encode())  # what was made unchecked is right
    assert checked == verdict
    body = json.loads(verdict.encode())
    assert body.pop("row_id") == str(
        UUID(int=stage_row_id(judged.row_id >> 80, "watch", "moderate", 0, [judged.row_id]))
    )
    assert body.pop("parents") == [str(UUID(int=row)) for row in (judged.row_id, 9, 5, 6)]
    assert body.pop("screening") is None
    assert body == {
        "source": {
            "row_id": str(UUID(int=judged.row_id)),
            "source": "messages",
            "id": "e-1",
            "topic": "messages",
            "partition": 3,
            "offset": 41,
        },
        "pipeline": "watch",
        "pipeline_version": "7",
        "stage": "moderate",
        "operator": "moderate",
        "decision": "block",
        "label": "spam",
        "scores": {"ok": 0.1, "spam": 0.9},
        "confidence": 0.9,
        "confidence_source": "votes",
        "output": {"evidence": "“é”", "found": [None, 1]},
        "model": "m-1",
        "prompt_hash": "a1",
        "prompt_version": "v4",
        "parts": 3,
        "reused_from": None,
        "usage": {"input_tokens": 70, "cached_tokens": 20, "output_tokens": 2},
        "cost_usd": 0.003,
        "engine_seconds": 0.375,
        "latency_ms": 2000,
        "event_time": "2026-03-04T05:06:07.089Z",
        "judged_at": "2026-03-04T05:06:09.089Z",
        "thread": "t",
        "author": "ann",
        "lang": "en",
        "tenant": "acme",
    }


def test_the_same_event_has_the_same_verdict_id(pipeline: Pipeline, judged: Event, verdict: Verdict) -> None:
    again = verdict_of(
        pipeline, pipeline.stages[0], replace(judged, offset=99), [], [], JUDGEMENT, NOW + timedelta(hours=1)
    )
    assert again.row_id == verdict.row_id
    other = pipeline.model_copy(update={"name": "other"})
    assert verdict_of(other, pipeline.stages[0], judged, [], [], JUDGEMENT, NOW).row_id != verdict.row_id


def test_an_event_of_the_future_has_no_negative_latency(pipeline: Pipeline, judged: Event) -> None:
    found = verdict_of(pipeline, pipeline.stages[0], judged, [], [], JUDGEMENT, NOW - timedelta(hours=1))
    assert found.latency_ms == 0


def test_rows_are_the_words_the_edges_the_calls_and_the_verdict(judged: Event, verdict: Verdict) -> None:
    rows: list[Any] = rows_of(judged, CONTEXT, [DOCUMENT], JUDGEMENT, verdict, row_of(verdict.row_id))
    row_id, at = UUID(verdict.row_id).int, NOW + timedelta(seconds=2)
    words, judgement = rows[0], rows[-1]
    assert isinstance(words, SourceRow)
    assert (words.row_id, words.text, words.event_time, words.written_at) == (judged.row_id, "words", NOW, at)
    assert words[3:12] == ("messages", "e-1", "messages", 3, 41, "acme", "t", "ann", "en")
    assert rows[1:5] == [
        LineageEdgeRow(row_id, judged.row_id, "input", at),
        LineageEdgeRow(row_id, 9, "document", at),
        LineageEdgeRow(row_id, 5, "context", at),
        LineageEdgeRow(row_id, 6, "context", at),
    ]
    assert rows[5:7] == [
        InferenceCallRow(row_id, 0, at, "m-1", "a1", 30, 20, 1, 0.5, 0.001, 0.125),
        InferenceCallRow(row_id, 1, at, "m-1", "a1", 40, 0, 1, 0.25, 0.002, 0.25),
    ]
    assert isinstance(judgement, VerdictRow)
    assert (judgement.row_id, judgement.source_row_id, judgement.scores) == (row_id, judged.row_id, [0.1, 0.9])
    assert (judgement.reused_from, verdict.reused_from) == (0, None)
    same = set(VerdictRow._fields) & set(Verdict.model_fields) - {"row_id", "scores", "source", "reused_from", "output"}
    assert all(getattr(judgement, name) == getattr(verdict, name) for name in same)
    assert len(same) == 19
    assert judgement.output == '{"evidence":"“é”","found":[null,1]}'
    assert (judgement.topic, judgement.partition, judgement.offset) == ("messages", 3, 41)
    assert (judgement.input_tokens, judgement.cached_tokens, judgement.output_tokens) == (70, 20, 2)
    assert len(rows) == 8


def test_a_judgement_that_was_reused_leads_to_the_one_that_was_paid(pipeline: Pipeline, judged: Event) -> None:
    reused = replace(JUDGEMENT, calls=())
    verdict = verdict_of(pipeline, pipeline.stages[0], judged, CONTEXT, [], reused, NOW, reused_from=77)
    assert verdict.reused_from == str(UUID(int=77))
    assert (verdict.cost_usd, verdict.usage.input_tokens) == (0, 0)
    rows = rows_of(judged, CONTEXT, [], reused, verdict, row_of(verdict.row_id))
    assert LineageEdgeRow(UUID(verdict.row_id).int, 77, "reused", NOW) in rows
    assert isinstance(rows[-1], VerdictRow)
    assert rows[-1].reused_from == 77
    assert not any(isinstance(row, InferenceCallRow) for row in rows)


def test_an_operator_that_only_labels_has_no_output(pipeline: Pipeline, judged: Event) -> None:
    only = replace(JUDGEMENT, output={}, confidence_source="logprobs")
    verdict = verdict_of(pipeline, pipeline.stages[0], judged, [], [], only, NOW)
    assert json.loads(verdict.encode())["output"] == {}
    *_, row = rows_of(judged, [], [], only, verdict, row_of(verdict.row_id))
    assert isinstance(row, VerdictRow)
    assert (row.output, row.confidence_source) == ("", "logprobs")


@pytest.mark.parametrize("output", [JUDGEMENT.output, {}])
@pytest.mark.parametrize("reused_from", [None, 77])
def test_a_verdict_comes_back_from_the_store_as_it_was(
    pipeline: Pipeline, judged: Event, reused_from: int | None, output: dict[str, Any]
) -> None:
    judgement = replace(JUDGEMENT, output=output)
    verdict = verdict_of(
        pipeline, pipeline.stages[0], judged, CONTEXT, [DOCUMENT], judgement, NOW, reused_from=reused_from
    )
    rows = rows_of(judged, CONTEXT, [DOCUMENT], judgement, verdict, row_of(verdict.row_id))
    assert isinstance(rows[-1], VerdictRow)
    parents = [(row.parent, row.kind) for row in rows if isinstance(row, LineageEdgeRow)]
    assert verdict_from_store(StoredVerdict(rows[-1], ["ok", "spam"], parents), judged) == verdict
