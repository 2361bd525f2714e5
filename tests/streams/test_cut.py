"""Calls are cut into exchanges and claims: nothing but small talk is dropped, and what is the same stays the same."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from inference.dialogue import SmallTalk
from sinks.clickhouse import StoreSettings, connect
from streams.cut import CutAgent, cut
from streams.decode import Event, decode
from streams.errors import DeadLetter
from streams.identity import uuid_text
from streams.pipeline import Cut, Pipeline
from streams.records import TextMessage
from streams.settings import Settings
from tests.streams.agents import Running, acked, named, share

BEGAN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
TALK = ["good morning", "thank you"]
CALL = [
    ("agent", "Good morning!"),
    ("customer", "Good morning. How far do you tow?"),
    ("agent", "Let me look. Up to 50 miles. Is that all?"),
    ("customer", "Is glass covered?"),
    ("customer", "And tyres?"),
    ("agent", "Glass is covered. Thank you!"),
    ("agent", "Tyres are not."),
    ("customer", "Thank you."),
    ("agent", "Thank you, Mrs Silva."),
]

GetEvent = Callable[..., Event]
Read = Callable[..., Awaitable[list[Any]]]


def turns(*said: tuple[str, str]) -> list[dict[str, Any]]:
    """With rows and times, as an assembled call has them."""
    return [
        {
            "speaker": speaker,
            "text": text,
            "turn": number,
            "row_id": uuid_text(1000 + number),
            "time": (BEGAN + timedelta(seconds=number)).isoformat(),
        }
        for number, (speaker, text) in enumerate(said)
    ]


def settings_of(into: str, before: int = 2, small_talk: list[str] = TALK) -> Cut:
    return Cut.model_validate({"into": into, "answers": ["agent"], "before": before, "small_talk": small_talk})


def pieces(event: Event, into: str, **changes: Any) -> tuple[list[TextMessage], list[str]]:
    chosen = settings_of(into, **changes)
    found = cut(chosen, SmallTalk(chosen.small_talk), event)
    return [piece.message for piece in found.kept], list(found.dropped)


@pytest.fixture
def call(event: GetEvent) -> Event:
    return event("", id="call-1", thread="c-1", tenant="acme", lang="en", documents=["page-1"], turns=turns(*CALL))


def test_a_call_becomes_its_exchanges(call: Event) -> None:
    found, dropped = pieces(call, "exchanges")
    assert [[turn.turn for turn in one.turns] for one in found] == [[1, 2], [3, 4, 5, 6]]
    assert [one.context for one in found] == [
        ("agent: Good morning!",),
        ("customer: Good morning. How far do you tow?", "agent: Let me look. Up to 50 miles. Is that all?"),
    ]
    assert dropped == ["Good morning!", "Thank you.", "Thank you, Mrs Silva."]
    for one in found:
        assert (one.thread, one.tenant, one.lang, one.documents) == ("c-1", "acme", "en", ("page-1",))
        assert one.time == one.turns[-1].time


def test_an_exchange_becomes_its_claims(call: Event, event: GetEvent) -> None:
    exchange = pieces(call, "exchanges")[0][0]
    found, dropped = pieces(event(**json.loads(exchange.encode())), "claims")
    assert [one.text for one in found] == ["Let me look.", "Up to 50 miles."]
    assert dropped == ["Is that all?"]
    assert {one.context for one in found} == {
        ("agent: Good morning!", "customer: Good morning. How far do you tow?"),
    }
    assert {(one.turn, one.author, one.documents, one.thread) for one in found} == {(2, "agent", ("page-1",), "c-1")}
    assert [one.id for one in found] == [f"{exchange.id}/2.0", f"{exchange.id}/2.1"]


def test_a_language_that_nobody_declared_loses_nothing_but_questions(event: GetEvent) -> None:
    said = [("customer", "こんにちは。"), ("agent", "こんにちは。五十キロまでです。よろしいですか？")]
    call = event("", turns=turns(*said))
    (exchange,), dropped = pieces(call, "exchanges")
    assert (len(exchange.turns), dropped) == (2, [])
    found, dropped = pieces(event(**json.loads(exchange.encode())), "claims")
    assert [one.text for one in found] == ["こんにちは。", "五十キロまでです。"]
    assert dropped == ["よろしいですか？"]


def test_lineage_leads_to_the_turns_and_to_what_was_said_before(call: Event) -> None:
    chosen = settings_of("exchanges")
    found = cut(chosen, SmallTalk(TALK), call)
    assert found.kept[0].parents == [(1001, "input"), (1002, "input"), (1000, "context")]
    (claim, *_) = cut(settings_of("claims"), SmallTalk(TALK), call).kept
    assert claim.parents == [(call.row_id, "input")]


def test_a_whole_call_that_was_published_as_one(event: GetEvent) -> None:
    """Its turns have neither numbers nor rows nor times: they are counted, and lineage leads to the call."""
    said = [{"speaker": speaker, "text": text} for speaker, text in CALL[1:6]]
    call = event("", turns=said, time=BEGAN.isoformat())
    found = cut(settings_of("exchanges"), SmallTalk(TALK), call).kept
    assert [[turn.turn for turn in piece.message.turns] for piece in found] == [[0, 1], [2, 3, 4]]
    for piece in found:
        assert piece.parents == [(call.row_id, "input")]
        assert piece.message.time == BEGAN
    numbered = event("", turns=[{**said[0], "turn": 7}, said[1]])
    assert [turn.turn for turn in pieces(numbered, "exchanges")[0][0].turns] == [7, 8]


def test_exchanges_need_turns(event: GetEvent) -> None:
    with pytest.raises(DeadLetter, match="turns: exchanges are cut from turns"):
        pieces(event("agent: Up to 50 miles."), "exchanges")


def test_a_text_without_turns_is_cut_into_its_claims(event: GetEvent) -> None:
    found, dropped = pieces(event("Thank you. Up to 50 miles.", author="ann", id="e-1"), "claims")
    assert [(one.text, one.author, one.id) for one in found] == [("Up to 50 miles.", "ann", "e-1/0.0")]
    assert dropped == ["Thank you."]


def test_a_correction_changes_only_what_it_touches(call: Event) -> None:
    """Whoever judges the pieces knows the others by their ids."""
    late = replace(call, turns=(*call.turns[:2], call.turns[2].model_copy(update={"text": "Up to 15 miles."}),
                                *call.turns[3:]))  # fmt: skip
    before, after = (pieces(one, "exchanges", before=0)[0] for one in (call, late))
    assert [one.id == other.id for one, other in zip(before, after, strict=True)] == [False, True]
    assert before[1] == after[1]
    shifted = replace(call, event_id="another", row_id=5, turns=call.turns[3:])
    assert pieces(shifted, "exchanges", before=0)[0][0] == before[1]


@pytest.mark.parametrize("change", [{"tenant": "other"}, {"thread": "c-2"}, {"documents": ("page-2",)}])
def test_another_call_has_other_exchanges(call: Event, change: dict[str, Any]) -> None:
    before, after = (pieces(one, "exchanges")[0] for one in (call, replace(call, **change)))
    assert all(one.id != other.id for one, other in zip(before, after, strict=True))


def test_claims_of_a_monologue_carry_a_bounded_context(event: GetEvent) -> None:
    said = [("agent", f"Sentence number {number} is a claim.") for number in range(2_000)]
    found, _ = pieces(event("", turns=turns(*said)), "claims")
    assert len(found) == 2_000
    assert max(sum(map(len, one.context)) for one in found) <= 10_000
    assert found[-1].context[-1] == "agent: Sentence number 1998 is a claim."


@pytest.fixture
async def cutting(
    settings: Settings, store: StoreSettings, message: Any, new_topic: Callable[..., Awaitable[str]]
) -> AsyncIterator[Running]:
    async def count(text: str) -> int:
        return len(text.split())

    stage = {"name": "exchanges", "writes": await new_topic(), "cut": settings_of("exchanges").model_dump()}
    made = {"name": "review", "version": "1", "source": await new_topic(), "sla": "3h", "stages": [stage]}
    pipeline = Pipeline.model_validate(made)
    async with AsyncExitStack() as stack:
        shared = await share(stack, settings, store, pipeline)
        agent = CutAgent(pipeline, pipeline.stages[0], count, shared.services)
        await agent.prepare()
        running = Running(agent, shared, message)
        stack.push_async_callback(running.close)
        yield running


async def test_pieces_are_published_and_stored(cutting: Running, read: Read, store: StoreSettings) -> None:
    body = {"id": "call-1", "thread": "c-1", "turns": turns(*CALL), "time": BEGAN.isoformat(), "documents": ["page-1"]}
    await acked(cutting.put(body, key=b"c-1", headers=[("traceparent", b"00-1-2-01")], partition=0))
    found = await read(cutting.agent._writes, 2)  # type: ignore[attr-defined]
    assert [one.key for one in found] == [b"c-1", b"c-1"]
    told = named(found[0].headers)
    assert (told["ce_id"], told["ce_source"]) == (json.loads(found[0].value)["id"], "/weir/review/exchanges")
    assert (told["ce_type"], told["traceparent"]) == ("weir.message.v1", "00-1-2-01")
    for one in found:
        one.timestamp /= 1000  # as Faust has it
    first = decode(found[0])
    client = connect(store)
    edges = client.query(
        "SELECT parent, kind FROM lineage_edges WHERE child = {row:UInt128}", parameters={"row": first.row_id}
    ).result_rows
    words = client.query(
        "SELECT text, attributes FROM source_rows WHERE row_id = {row:UInt128}",
        parameters={"row": decode(cutting.messages[0]).row_id},
    ).first_row
    client.close()
    assert set(edges) == {(1001, "input"), (1002, "input"), (1000, "context")}
    assert words[0].startswith("agent: Good morning!\ncustomer: Good morning. How far do you tow?\n")
    assert json.loads(words[1]) == {"documents": ["page-1"]}
    assert cutting.count("weir_pieces_total") == 2
    assert cutting.count("weir_pieces_dropped_total") == 3
    small_talk = sum(len(text.encode()) for text in ("Good morning!", "Thank you.", "Thank you, Mrs Silva."))
    sample = " ".join(TALK)
    expected = small_talk * len(sample.split()) / len(sample)
    assert cutting.count("weir_tokens_saved_total") == pytest.approx(expected)


async def test_a_call_of_which_nothing_is_left_is_done(cutting: Running, read: Read) -> None:
    await acked(cutting.put({"id": "call-1", "turns": turns(("agent", "Good morning!"))}, partition=0))
    assert cutting.count("weir_pieces_total") == 0
    await acked(cutting.put({"text": "no turns"}, partition=0))
    assert named((await read(cutting.dead, 1))[0].headers)["weir_dlq_reason"] == "wrong_field"


async def test_pieces_of_one_key_keep_their_order(cutting: Running, read: Read) -> None:
    calls = [
        {"id": f"call-{number}", "turns": turns(("agent", f"Claim {number}."), ("customer", "So?"), ("agent", "Yes."))}
        for number in range(5)
    ]
    await acked(*(cutting.put(body, key=b"c-1", partition=0) for body in calls))
    found = await read(cutting.agent._writes, 10)  # type: ignore[attr-defined]
    assert [json.loads(one.value)["turns"][0]["text"] for one in found[::2]] == [f"Claim {n}." for n in range(5)]
