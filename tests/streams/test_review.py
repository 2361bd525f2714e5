"""Claims of calls are checked against the documents that held when they were made, and doubt reaches a person."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from faust.types import TP

from sinks.calls import Calls
from sinks.clickhouse import StoreSettings, connect
from sinks.lineage import ancestors
from streams import assemble
from streams import judge as judge_module
from streams.assemble import AssembleAgent
from streams.cut import CutAgent
from streams.documents import DocumentsAgent
from streams.errors import WorkerMisconfigured
from streams.pipeline import Pipeline
from streams.settings import Settings
from tests.streams.agents import Delivery, Running, acked, share

Read = Callable[..., Awaitable[list[Any]]]
Until = Callable[..., Awaitable[Any]]

NOW = datetime.now(UTC)


class Review:
    """The stages of a review of calls at work, and the topic of its documents.

    The scripted engine says of a claim that has `spam` in its prompt that the document contradicts it.
    """

    def __init__(self, pipeline: Pipeline, read: Read) -> None:
        self.pipeline = pipeline
        self.assemble: Running
        self.exchanges: Running
        self.claims: Running
        self.check: Running
        self.documents: Running
        self.page = f"page-{uuid4().hex}"
        self._read = read

    async def document(self, text: str | None, hours: float = -5, name: str = "") -> None:
        """A version that holds from then on."""
        time = NOW + timedelta(hours=hours)
        key = (name or self.page).encode()
        if text is None:
            await acked(self.documents.put(None, key=key, partition=0, timestamp=time.timestamp()))
        else:
            body = {"text": text, "time": time.isoformat()}
            await acked(self.documents.put(body, key=key, partition=0))

    def claim(self, text: str = "Up to 50 miles.", hours: float = -1, **fields: Any) -> Delivery:
        """Deliver a claim that was made then."""
        time = (NOW + timedelta(hours=hours)).isoformat()
        kafka = {name: fields.pop(name) for name in ("timestamp",) if name in fields}
        body = {"text": text, "time": time, "thread": "c-1", "author": "agent", "documents": [self.page]} | fields
        return self.check.put(body, key=b"c-1", partition=0, **kafka)

    async def findings(self, count: int) -> list[Any]:
        return [json.loads(one.value) for one in await self._read(self.check_stage.writes, count)]

    async def escalations(self, count: int) -> list[Any]:
        return [json.loads(one.value) for one in await self._read(self.check_stage.escalate.writes, count)]

    @property
    def check_stage(self) -> Any:
        return self.pipeline.stages[-1]

    async def hand_on(self, writer: int, reader: Running, count: int, start: int = 0) -> None:
        """Let a stage read what another one wrote."""
        found = await self._read(self.pipeline.stages[writer].writes, count)
        await acked(*(reader.hand_on(one) for one in found[start:]))


Start = Callable[..., Awaitable[Review]]


@pytest.fixture
async def start(
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    message: Any,
    new_topic: Callable[..., Awaitable[str]],
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Start]:
    """`await start()`: a review at work; wait: for documents that are not there."""
    monkeypatch.setattr(assemble, "_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(judge_module, "_LOOK_AGAIN_SECONDS", 0.01)

    async def count_words(text: str) -> int:
        return len(text.split())

    async def begin(wait: str = "0s", escalate: Any = None, before: Review | None = None) -> Review:
        cutting = {"answers": ["agent"], "before": 1, "small_talk": ["good morning"]}
        stages: list[Any] = [
            {"name": "assemble", "assemble": {"silence": "60s"}},
            {"name": "exchanges", "cut": cutting | {"into": "exchanges"}},
            {"name": "claims", "cut": cutting | {"into": "claims"}},
            {
                "name": "check",
                "prompt": "v1",
                "escalate": {"writes": await new_topic()} | (escalate or {}),
                "judge": {
                    "operator": "check",
                    "answers": {"supported": "ok", "contradicted": "spam"},
                    "calibration": {"content_free": []},
                },
            },
        ]
        for stage in stages:
            stage["writes"] = await new_topic()
        made = {"name": "review", "version": "1", "source": await new_topic(), "sla": "3h", "stages": stages}
        documents = {"topic": await new_topic(), "wait": wait}
        pipeline = before.pipeline if before else Pipeline.model_validate(made | {"documents": documents})
        first, second, third, last = pipeline.stages
        shared = await share(stack, settings, store, pipeline)
        services = shared.services
        calls = Calls(store)
        calls.start()
        stack.push_async_callback(calls.close)
        review = Review(pipeline, read)

        async def run(agent: Any) -> Running:
            await agent.prepare()
            running = Running(agent, shared, message)
            stack.push_async_callback(running.close)
            return running

        assembling = AssembleAgent(pipeline, first, calls, services)
        assembling.assigned({TP(pipeline.source, 0)})
        review.assemble = await run(assembling)
        review.exchanges = await run(CutAgent(pipeline, second, count_words, services))
        review.claims = await run(CutAgent(pipeline, third, count_words, services))
        judging, _ = await shared.judge(pipeline, last, engine.url)
        review.check = await run(judging)
        assert pipeline.documents is not None
        review.documents = await run(DocumentsAgent(pipeline.name, pipeline.documents, services))
        return review

    async with AsyncExitStack() as stack:
        yield begin


def without_a_document(finding: Any) -> bool:
    return (finding["decision"], finding["label"], finding["confidence"]) == ("review", "not_covered", 0)


async def test_a_claim_without_a_document_goes_to_a_person(start: Start, engine: Any) -> None:
    review = await start(wait="1h")
    await acked(review.claim(documents=[]))
    (finding,) = await review.findings(1)
    (escalation,) = await review.escalations(1)
    assert without_a_document(finding)
    assert engine.seen == []
    assert "Document   none was named" in escalation["report"]
    assert (escalation["text"], escalation["row_id"]) == ("Up to 50 miles.", finding["row_id"])
    assert review.check.count("weir_escalations_total", decision="review") == 1


async def test_a_document_that_never_comes(start: Start, engine: Any) -> None:
    """The message has waited for as long as it may."""
    review = await start(wait="1h")
    await acked(review.claim(timestamp=(NOW - timedelta(hours=1, seconds=1)).timestamp()))
    (finding,) = await review.findings(1)
    (escalation,) = await review.escalations(1)
    assert without_a_document(finding)
    assert finding["parents"] == [finding["source"]["row_id"]]
    assert f"Document   {review.page}\nIt says    nothing that was found" in escalation["report"]
    assert engine.seen == []


async def test_a_document_that_comes_a_moment_later_is_waited_for(
    start: Start, engine: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = await start(wait="1h")
    documents = review.check.services.documents
    looked = []
    find = documents.find

    async def count_and_find(*key: Any) -> Any:
        looked.append(key)
        return await find(*key)

    monkeypatch.setattr(documents, "find", count_and_find)
    claim = review.claim()
    await until(lambda: len(looked) == 2)
    assert not claim.acked.is_set()
    await review.document("Towing: spam")
    await acked(claim)
    (finding,) = await review.findings(1)
    assert (finding["decision"], finding["label"]) == ("escalate", "contradicted")
    assert len(engine.seen) == 1


async def test_the_version_that_held_when_it_was_said_is_read(start: Start, engine: Any, store: StoreSettings) -> None:
    review = await start()
    await review.document("Towing: 50 miles", hours=-5)
    await review.document("Towing: spam miles", hours=-2)
    await acked(review.claim(hours=-3), review.claim("Up to 50 miles!", hours=-1))
    findings = {one["event_time"]: one for one in await review.findings(2)}
    before, after = (findings[time] for time in sorted(findings))
    assert [one["label"] for one in (before, after)] == ["supported", "contradicted"]
    assert [one["output"]["evidence"] for one in (before, after)] == ["Towing: 50 miles", "Towing: spam miles"]
    client = connect(store)
    query = "SELECT toString(row_uuid), text FROM documents WHERE document = {page:String} ORDER BY event_time"
    versions = client.query(query, parameters={"page": review.page}).result_rows
    for finding, (row, text) in zip((before, after), versions, strict=True):
        assert finding["parents"] == [finding["source"]["row_id"], row]
        node = ancestors(client, UUID(finding["row_id"]))
        assert node is not None
        assert [parent.role for parent in node.parents] == ["input", "document"]
        assert node.parents[1].row_id == row
        assert text in engine.seen[0] + engine.seen[1]
    client.close()
    (escalation,) = await review.escalations(1)
    assert escalation["row_id"] == after["row_id"]


async def test_two_documents_are_read_together(start: Start, engine: Any) -> None:
    review = await start()
    other = f"{review.page}-more"
    await review.document("Towing: 50 miles")
    await review.document("Glass: 100 dollars", name=other)
    await acked(review.claim(documents=[review.page, other]))
    (finding,) = await review.findings(1)
    assert len(finding["parents"]) == 3
    assert "> Towing: 50 miles" in engine.seen[0]
    assert "> Glass: 100 dollars" in engine.seen[0]


async def test_of_two_documents_one_that_is_not_there_is_left_out(start: Start, engine: Any) -> None:
    review = await start()
    await review.document("Towing: 50 miles")
    await acked(review.claim(documents=[f"{review.page}-none", review.page]))
    (finding,) = await review.findings(1)
    assert (finding["label"], len(finding["parents"])) == ("supported", 2)


async def test_a_withdrawn_document_is_none(start: Start, engine: Any) -> None:
    review = await start(wait="1h")  # nobody waits for what was withdrawn
    await review.document("Towing: 50 miles", hours=-5)
    await review.document(None, hours=-2)
    await acked(review.claim(hours=-3), review.claim(hours=-1))
    findings = sorted(await review.findings(2), key=lambda one: str(one["event_time"]))
    assert findings[0]["label"] == "supported"
    assert without_a_document(findings[1])
    assert [len(one["parents"]) for one in findings] == [2, 1]
    assert len(engine.seen) == 1


async def test_documents_of_another_tenant_are_not_read(start: Start) -> None:
    review = await start()
    await review.document("Towing: 50 miles")
    await acked(review.claim(tenant="other"))
    assert without_a_document((await review.findings(1))[0])


async def test_only_the_named_decisions_are_escalated(start: Start) -> None:
    review = await start(escalate={"decisions": ["escalate"]})
    await review.document("Towing: 50 miles")
    await acked(review.claim(documents=[]), review.claim(), review.claim("A spam claim."))
    assert {one["decision"] for one in await review.findings(3)} == {"review", "accept", "escalate"}
    assert [one["text"] for one in await review.escalations(1)] == ["A spam claim."]
    assert review.check.count("weir_escalations_total") == 1


async def test_a_decision_that_nobody_takes_cannot_be_escalated(start: Start) -> None:
    with pytest.raises(WorkerMisconfigured, match="escalate names the decisions block; check decides accept, review"):
        await start(escalate={"decisions": ["block"]})


async def test_what_a_prompt_is_called_stands_in_the_finding(start: Start, store: StoreSettings) -> None:
    review = await start()
    await acked(review.claim())
    (finding,) = await review.findings(1)
    assert finding["prompt_version"] == "v1"
    client = connect(store)
    query = f"SELECT prompt_version FROM verdicts WHERE row_uuid = '{finding['row_id']}'"
    assert client.command(query) == "v1"
    client.close()


async def test_a_message_too_long_to_be_escalated_with_its_words(start: Start) -> None:
    review = await start()
    await acked(review.claim("so " * 1_000_000, documents=[]))
    (escalation,) = await review.escalations(1)
    assert escalation["text"] == ""
    assert review.check.stopped_by == []


CALL = [
    ("agent", "Good morning."),
    ("customer", "How far do you tow?"),
    ("agent", "Up to 50 miles."),
    ("customer", "And glass?"),
    ("agent", "Glass is covered."),
    ("customer", "And tyres?"),
    ("agent", "Tyres are spam."),
]


def turn(review: Review, number: int, text: str = "") -> Delivery:
    speaker, words = CALL[number]
    body = {
        "id": f"c-1/{number}/{text}",
        "text": text or words,
        "author": speaker,
        "thread": "c-1",
        "turn": number,
        "final": number == len(CALL) - 1,
        "documents": [review.page],
        "time": (NOW - timedelta(seconds=60 - number)).isoformat(),
    }
    return review.assemble.put(body, key=b"c-1", partition=0)


async def test_a_finding_leads_to_the_words_and_a_correction_pays_for_what_it_changes(
    start: Start, engine: Any, store: StoreSettings
) -> None:
    review = await start()
    await review.document("Towing: 50 miles. Glass: all.")
    await acked(*(turn(review, number) for number in (4, 2, 0, 6, 1, 3, 5)))
    await review.hand_on(0, review.exchanges, 1)
    await review.hand_on(1, review.claims, 3)
    await review.hand_on(2, review.check, 3)
    findings = {one["output"]["claim"]: one for one in await review.findings(3)}
    assert {claim: one["label"] for claim, one in findings.items()} == {
        "Up to 50 miles.": "supported",
        "Glass is covered.": "supported",
        "Tyres are spam.": "contradicted",
    }
    assert any(
        prompt.endswith("Claim: agent: Good morning. customer: How far do you tow? Up to 50 miles.\nLabel:")
        for prompt in engine.seen
    )
    client = connect(store)
    node = ancestors(client, UUID(findings["Tyres are spam."]["row_id"]))
    client.close()
    assert node is not None
    path = []
    while node.parents:
        node = next(parent for parent in node.parents if parent.role == "input")
        path.append(node.facts["text"])
    assert path == ["Tyres are spam.", "customer: And tyres?\nagent: Tyres are spam.", "And tyres?"]

    await acked(turn(review, 2, "Up to 15 miles."))  # said again, in other words
    await review.hand_on(0, review.exchanges, 2, start=1)
    await review.hand_on(1, review.claims, 6, start=3)
    await review.hand_on(2, review.check, 6, start=3)
    again = (await review.findings(5))[3:]
    # The second exchange has the turn before it; the third says what it said.
    assert {one["output"]["claim"] for one in again} == {"Up to 15 miles.", "Glass is covered."}
    assert findings["Up to 50 miles."]["row_id"] not in {one["row_id"] for one in again}
    assert len(engine.seen) == 5
    assert review.check.count("weir_messages_repeated_total") == 1

    restarted = await start(before=review)
    await restarted.hand_on(2, restarted.check, 6, start=3)
    assert len(engine.seen) == 5
    assert restarted.check.count("weir_cost_usd_total") == 0


async def test_a_whole_call_may_come_as_one_message(start: Start, read: Read) -> None:
    review = await start()
    await review.document("Towing: 50 miles")
    said = [{"speaker": speaker, "text": text} for speaker, text in CALL[:3]]
    body = {"id": "c-1", "thread": "c-1", "turns": said, "documents": [review.page]}
    await acked(review.exchanges.put(body, key=b"c-1", partition=0))
    await review.hand_on(1, review.claims, 1)
    await review.hand_on(2, review.check, 1)
    (finding,) = await review.findings(1)
    assert (finding["output"]["claim"], finding["label"], finding["thread"]) == ("Up to 50 miles.", "supported", "c-1")
