"""A stage takes messages, judges them, publishes, stores, and only then acknowledges."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from deploy.embedded.process import free_port
from inference.errors import EngineMisconfigured
from sinks.clickhouse import StoreSettings, connect
from sinks.lineage import ancestors
from streams import deferral, topics
from streams.budgets import next_day
from streams.errors import WorkerMisconfigured
from streams.judge import JudgeAgent
from streams.pipeline import Pipeline
from streams.settings import Settings
from tests.streams.agents import Delivery, Running, Shared, acked, named, share

GetMessage = Callable[..., Any]
Until = Callable[..., Awaitable[Any]]
Settled = Callable[[], Awaitable[None]]


class Judging(Running):
    """A stage at work."""

    agent: JudgeAgent

    def __init__(self, agent: JudgeAgent, shared: Shared, pipeline: Pipeline, get_message: GetMessage) -> None:
        super().__init__(agent, shared, get_message)
        self.pipeline = pipeline
        self.verdicts = pipeline.stages[0].writes
        self.deferred = topics.deferred(pipeline.source)
        self.usage = shared.services.usage
        self.waiting: Callable[[], int]

    async def put_deferred(self, value: Any, key: bytes | None, headers: Any) -> Delivery:
        """Deliver a message that waited."""
        delivery = Delivery(self._message(value, topic=self.deferred, partition=0, key=key, headers=headers))
        await self.agent.take_deferred(delivery)
        return delivery


@pytest.fixture(scope="module")
def nowhere() -> StoreSettings:
    """A store that does not answer."""
    return StoreSettings(f"http://127.0.0.1:{free_port()}")


@pytest.fixture
async def run(
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    message: GetMessage,
    new_topic: Callable[..., Awaitable[str]],
    nowhere: StoreSettings,
) -> AsyncIterator[Callable[..., Awaitable[Judging]]]:
    """`await run()`: a running stage with topics of its own; before: with those of another one, as after a restart."""

    async def start(
        rows_in_flight: int = 100,
        store: StoreSettings = store,
        context: int = 0,
        before: Judging | None = None,
        version: str = "7",
        dead_letter_share: float = 1,
        limits: Any = None,
        prompts_in_flight: int = 50,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Judging:
        pipeline = Pipeline.model_validate(
            {
                "name": "watch",
                "version": version,
                "source": before.pipeline.source if before else await new_topic(),
                "sla": "10s",
                "limits": limits or {},
                "stages": [
                    {
                        "name": "moderate",
                        "writes": before.verdicts if before else await new_topic(),
                        "context": {"messages": context},
                        "reuse": {"except_tenants": ["careful"]},
                        "judge": {
                            "operator": "moderate",
                            "categories": [{"name": "spam", "definition": "advertising"}],
                            "thresholds": {"review": 0.5, "block": 0.8},
                            "calibration": {"content_free": []},
                        },
                    }
                ],
            }
        )
        shared = await share(stack, settings, store, pipeline, rows_in_flight, dead_letter_share, now)
        agent, client = await shared.judge(pipeline, pipeline.stages[0], engine.url, prompts_in_flight)
        await (agent._operator if store == nowhere else agent).prepare()  # the agent waits until its prompt is stored
        running = Judging(agent, shared, pipeline, message)
        stack.push_async_callback(running.close)
        running.usage.open(client.meter, engine.url)
        running.waiting = lambda: client.waiting
        return running

    async with AsyncExitStack() as stack:
        yield start


Run = Callable[..., Awaitable[Judging]]
Read = Callable[..., Awaitable[list[Any]]]


async def test_a_message_becomes_a_verdict_and_rows(run: Run, read: Read, store: StoreSettings) -> None:
    stage = await run()
    now = datetime.now(UTC).replace(microsecond=5000)
    body = {"text": "buy spam", "id": "e-1", "time": now.isoformat(), "thread": "t-1", "author": "ann", "lang": "en"}
    headers = [("ce_source", b"/forum"), ("traceparent", b"00-1-2-01")]
    await acked(stage.put(body, key=b"t-1", headers=headers))

    (found,) = await read(stage.verdicts, 1)
    verdict = json.loads(found.value)
    assert found.key == b"t-1"
    assert (verdict["decision"], verdict["label"]) == ("block", "spam")
    assert verdict["scores"] == pytest.approx({"ok": 0.1, "spam": 0.9})
    assert (verdict["pipeline"], verdict["pipeline_version"], verdict["stage"]) == ("watch", "7", "moderate")
    assert verdict["parents"] == [verdict["source"]["row_id"]]
    assert verdict["usage"] == {"input_tokens": 30, "cached_tokens": 20, "output_tokens": 1}
    assert verdict["cost_usd"] == pytest.approx((10 * 1 + 20 * 0.1 + 1 * 2) / 1e6)
    assert named(found.headers) == {
        "ce_specversion": "1.0",
        "ce_id": verdict["row_id"],
        "ce_source": "/weir/watch/moderate",
        "ce_type": "weir.verdict.v1",
        "ce_time": verdict["judged_at"],
        "ce_subject": "e-1",
        "traceparent": "00-1-2-01",
        "content-type": "application/json",
    }
    client = connect(store)
    node = ancestors(client, UUID(verdict["row_id"]))
    assert node is not None
    assert node.facts["scores"] == pytest.approx(verdict["scores"])
    assert [(parent.role, parent.facts["text"]) for parent in node.parents] == [("input", "buy spam")]
    prompt = client.query("SELECT text, labels FROM prompts WHERE prompt_hash = '" + verdict["prompt_hash"] + "'")
    assert "{text}" in prompt.first_row[0]
    assert prompt.first_row[1] == ["ok", "spam"]
    assert client.command(f"SELECT count() FROM inference_calls WHERE row_uuid = '{verdict['row_id']}'") == 1
    client.close()


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (b"hush", b"k", "not_json"),
        (b'{"text": "hush\xff"}', None, "not_utf8"),
        (None, b"k", "no_value"),
        (None, None, "no_value"),
        ({"text": " "}, None, "empty_text"),
        ({"text": "hush", "id": 5}, None, "wrong_field"),
        ({"text": "hush", "time": "9999-12-31T23:59:59-01:00"}, None, "time_out_of_range"),
        ({"text": "hush, reject this"}, None, "prompt_rejected"),
    ],
)
async def test_a_message_that_cannot_be_judged_is_sent_on_as_it_came(
    run: Run, read: Read, value: Any, key: bytes | None, reason: str
) -> None:
    stage = await run()
    headers = [("ce_id", b"e-1"), ("own", b"\xff\xfe"), ("none", None)]
    delivery = stage.put(value, key=key, headers=headers, partition=0)
    await acked(delivery)
    (found,) = await read(stage.dead, 1)
    assert (found.key or None, found.value) == (key, delivery.message.value)
    assert list(found.headers)[:3] == headers
    told = named(list(found.headers)[3:])
    assert told.pop("weir_dlq_detail")
    assert datetime.fromisoformat(told.pop("weir_dlq_time"))
    assert told.pop("weir_dlq_timestamp") == str(round(delivery.message.timestamp * 1000))
    assert told == {
        "weir_dlq_reason": reason,
        "weir_dlq_topic": stage.pipeline.source,
        "weir_dlq_partition": "0",
        "weir_dlq_offset": "1",
        "weir_dlq_pipeline": "watch/moderate",
    }
    assert "hush" not in json.dumps(named(list(found.headers)[3:]))
    assert stage.count("weir_dead_letters_total", reason=reason) == 1
    assert stage.count("weir_sla_rows_total") == stage.agent.sla.in_flight == 0
    await acked(stage.put("the next is judged"))
    assert len(await read(stage.verdicts, 1)) == 1


async def test_a_row_that_fits_no_table_is_a_dead_letter(run: Run, read: Read) -> None:
    stage = await run()
    good = stage.put("hello")
    await acked(stage.put("hello", partition=1 << 40), good)
    (found,) = await read(stage.dead, 1)
    assert named(found.headers)["weir_dlq_reason"] == "row_rejected"


async def test_the_same_event_is_judged_once(run: Run, engine: Any, until: Until) -> None:
    stage = await run()
    body = {"text": "hold once", "id": "e-1"}
    first = stage.put(body)
    await until(lambda: engine.seen)
    second = stage.put(body)
    await until(lambda: stage.count("weir_messages_received_total") == 2)
    assert not second.acked.is_set()
    engine.go("once")
    await acked(first, second, stage.put(body))
    assert len(engine.seen) == 1
    assert stage.count("weir_verdicts_total") == 1
    assert stage.count("weir_messages_repeated_total") == 2
    assert stage.count("weir_sla_rows_total") == 1


async def test_two_messages_of_one_event_have_one_outcome(run: Run, read: Read, engine: Any, until: Until) -> None:
    stage = await run()
    body = {"text": "hold reject", "id": "e-1"}
    first = stage.put(body, key=b"k")
    second = stage.put(body, key=b"k")
    await until(lambda: stage.count("weir_messages_received_total") == 2)
    await acked(first, second)
    assert stage.count("weir_dead_letters_total") == 1
    await acked(stage.put("the key is free", key=b"k"), stage.put(body))  # later, it is tried anew
    assert stage.count("weir_dead_letters_total") == 2
    assert len(await read(stage.dead, 2)) == 2


async def test_a_message_that_is_too_large_for_its_dead_letter_leaves_its_reason(run: Run, read: Read) -> None:
    stage = await run()
    await acked(stage.put(b"{" * (4 * 1024 * 1024), key=b"k", headers=[("big", b"x" * 1000)]))
    (found,) = await read(stage.dead, 1)
    told = named(found.headers)
    assert found.value is None
    assert "big" not in told
    assert told["weir_dlq_reason"] == "not_json"
    assert told["weir_dlq_offset"] == "1"
    assert "left out" in told["weir_dlq_detail"]


async def test_verdicts_of_a_key_leave_in_order(run: Run, read: Read, engine: Any, until: Until) -> None:
    stage = await run()
    rows = [stage.put("hold first", key=b"a"), stage.put("reject", key=b"a"), stage.put("third", key=b"a")]
    await acked(stage.put("of another key", key=b"b"), stage.put("of no key"), rows[1])
    await until(lambda: "third" in engine.texts())
    assert not rows[2].acked.is_set()
    engine.go("first")
    await acked(*rows)
    found = [json.loads(message.value) for message in await read(stage.verdicts, 4) if message.key == b"a"]
    assert [verdict["source"]["offset"] for verdict in found] == [1, 3]


async def test_rows_in_flight_are_bounded(run: Run, engine: Any, until: Until, settled: Settled) -> None:
    stage = await run(rows_in_flight=2)
    rows = [stage.put(f"hold {name}") for name in ("a", "b", "c")]
    await until(lambda: len(engine.seen) == 2)
    await settled()
    assert stage.count("weir_messages_received_total") == 2
    assert stage.count("weir_rows_in_flight") == stage.agent.window.rows == 2
    for name in ("a", "b", "c"):
        engine.go(name)
    await acked(*rows)
    await stage.agent.window.empty()
    assert len(engine.seen) == 3


async def test_what_is_given_up_stays_unacknowledged(run: Run, engine: Any, until: Until) -> None:
    stage = await run()
    rows = [stage.put("hold a", key=b"k"), stage.put("b", key=b"k")]
    await until(lambda: len(engine.seen) == 2)
    stage.agent.cancel()
    await stage.agent.window.empty()
    assert not any(row.acked.is_set() for row in rows)
    assert stage.count("weir_verdicts_total") == 0


async def test_an_engine_that_no_prompt_can_please_stops_the_worker(run: Run, until: Until) -> None:
    stage = await run()
    row = stage.put("lost")
    await until(lambda: stage.stopped_by)
    await stage.agent.window.empty()
    assert isinstance(stage.stopped_by[0], EngineMisconfigured)
    assert not row.acked.is_set()
    assert stage.count("weir_dead_letters_total") == 0


async def test_no_acknowledgement_and_no_tokens_without_a_store(
    run: Run, until: Until, nowhere: StoreSettings, engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await run(store=nowhere)
    row = stage.put("hello")
    await until(lambda: "ClickHouse" in caplog.text)
    assert not row.acked.is_set()
    assert stage.agent.window.rows == 1
    assert stage.count("weir_verdicts_total") == 0
    assert engine.seen == []


async def test_after_a_restart_nothing_is_judged_again(run: Run, read: Read, engine: Any) -> None:
    """The judgement reached the store; whether its verdict reached Kafka, nobody knows."""
    first = await run(context=1)
    bodies = [{"text": f"buy spam {number}", "thread": "t", "tenant": "acme"} for number in range(2)]
    for number, body in enumerate(bodies):
        await acked(first.put(body, offset=number))
    second = await run(context=1, before=first)
    for number, body in enumerate(bodies):
        await acked(second.put(body, offset=number, timestamp=first.messages[number].timestamp))
    assert len(engine.seen) == 2
    assert second.count("weir_judgements_recalled_total") == second.count("weir_verdicts_total") == 2
    assert second.count("weir_cost_usd_total") == 0
    found = [json.loads(message.value) for message in await read(first.verdicts, 4)]
    for then, now in zip(found[:2], found[2:], strict=True):
        assert now.pop("scores") == pytest.approx(then.pop("scores"))
        assert now.pop("confidence") == pytest.approx(then.pop("confidence"))
        assert now == then


async def test_after_a_restart_an_event_published_twice_has_one_verdict(run: Run, read: Read, engine: Any) -> None:
    first = await run()
    body = {"text": "buy spam", "id": "e-1", "time": datetime.now(UTC).isoformat()}
    await acked(first.put(body, offset=1))
    second = await run(before=first)
    await acked(second.put(body, offset=2), second.put("another", offset=3))
    assert second.count("weir_messages_repeated_total") == 1
    found = [json.loads(message.value) for message in await read(first.verdicts, 2)]
    assert [verdict["source"]["offset"] for verdict in found] == [1, 3]
    assert len(engine.seen) == 2


async def test_another_version_of_a_pipeline_judges_anew(run: Run, read: Read, engine: Any) -> None:
    first = await run()
    await acked(first.put("buy spam", offset=1))
    second = await run(before=first, version="8")
    await acked(second.put("buy spam", offset=1, timestamp=first.messages[0].timestamp))
    found = [json.loads(message.value) for message in await read(first.verdicts, 2)]
    assert [verdict["pipeline_version"] for verdict in found] == ["7", "8"]
    assert found[0]["row_id"] == found[1]["row_id"]
    assert len(engine.seen) == 2


async def test_the_same_text_is_paid_for_once(run: Run, read: Read, engine: Any, store: StoreSettings) -> None:
    stage = await run()
    await acked(stage.put("buy spam"))
    await acked(stage.put("buy spam"), stage.put("something else"))
    found = [json.loads(message.value) for message in await read(stage.verdicts, 3)]
    paid, reused = (next(verdict for verdict in found if verdict["source"]["offset"] == offset) for offset in (1, 2))
    assert len(engine.seen) == 2
    assert (paid["reused_from"], reused["reused_from"]) == (None, paid["row_id"])
    assert reused["cost_usd"] == 0
    assert reused["usage"] == {"input_tokens": 0, "cached_tokens": 0, "output_tokens": 0}
    assert reused["scores"] == paid["scores"]
    assert stage.count("weir_judgements_reused_total") == 1
    client = connect(store)
    node = ancestors(client, UUID(reused["row_id"]))
    client.close()
    assert node is not None
    assert [(parent.role, parent.row_id) for parent in node.parents] == [
        ("input", reused["source"]["row_id"]),
        ("reused", paid["row_id"]),
    ]


@pytest.mark.parametrize("tenants", [("a", "b"), ("careful", "careful")])
async def test_tenants_share_nothing_and_may_refuse_to(run: Run, engine: Any, tenants: tuple[str, str]) -> None:
    stage = await run()
    for tenant in tenants:
        await acked(stage.put({"text": "buy spam", "tenant": tenant}))
    assert len(engine.seen) == 2
    assert stage.count("weir_judgements_reused_total") == 0


async def test_a_worker_that_gives_too_much_up_stops_instead(run: Run, until: Until) -> None:
    stage = await run(dead_letter_share=0.1)
    rows = [stage.put(b"no JSON") for _ in range(9)]
    await until(lambda: stage.stopped_by)
    await stage.agent.window.empty()
    assert isinstance(stage.stopped_by[0], WorkerMisconfigured)
    assert "WEIR_DEAD_LETTER_SHARE" in str(stage.stopped_by[0])
    assert sum(row.acked.is_set() for row in rows) == stage.count("weir_dead_letters_total") == 5


async def test_nothing_overtakes_a_row_that_stops_the_worker(run: Run, engine: Any, until: Until) -> None:
    stage = await run()
    rows = [stage.put("hold lost", key=b"k"), stage.put("later", key=b"k")]
    await until(lambda: len(engine.seen) == 2)
    engine.go("lost")
    await until(lambda: stage.stopped_by)
    assert stage.count("weir_verdicts_total") == 0
    assert not any(row.acked.is_set() for row in rows)


async def test_what_was_said_before_is_read_and_named(run: Run, read: Read, engine: Any, store: StoreSettings) -> None:
    stage = await run(context=1)
    for number, thread in enumerate(("t", "t", "other", "t")):
        await acked(stage.put({"text": f"words {number}", "thread": thread}))
    verdicts = [json.loads(message.value) for message in await read(stage.verdicts, 4)]
    words = {verdict["source"]["offset"]: verdict["source"]["row_id"] for verdict in verdicts}
    assert [verdict["parents"][1:] for verdict in verdicts] == [[], [words[1]], [], [words[2]]]
    assert "Earlier: words 1\nMessage: words 3" in engine.seen[-1]
    client = connect(store)
    node = ancestors(client, UUID(verdicts[-1]["row_id"]))
    client.close()
    assert node is not None
    assert [(parent.role, parent.facts["text"]) for parent in node.parents] == [
        ("input", "words 3"),
        ("context", "words 1"),
    ]


async def test_metrics_tell_of_the_work(run: Run) -> None:
    stage = await run()
    await acked(*(stage.put(f"hello {number}") for number in range(3)))
    await stage.agent.window.empty()
    for name, expected in {
        "weir_messages_received_total": 3,
        "weir_verdicts_total": 3,
        "weir_event_latency_seconds_count": 3,
        "weir_broker_latency_seconds_count": 3,
        "weir_stage_duration_seconds_count": 3,
        "weir_sla_seconds": 10,
        "weir_rows_in_flight": 0,
        "gen_ai_client_operation_duration_seconds_count": 3,
        "weir_cached_tokens_total": 60,
        "weir_parts_total": 3,
    }.items():
        assert stage.count(name, pipeline="watch", stage="moderate") == expected
    assert stage.count("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 90
    assert stage.count("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 3
    assert stage.count("weir_verdicts_total", decision="allow") == 3
    assert stage.count("weir_cost_usd_total") == pytest.approx(3 * 14 / 1e6)


async def test_rows_near_their_sla_go_first_and_those_that_waited_for_the_day_are_not_near_it(
    run: Run, engine: Any, until: Until
) -> None:
    stage = await run(prompts_in_flight=1)
    held = stage.put("hold on")
    await until(lambda: engine.seen)
    now = datetime.now(UTC)
    yesterday = (now - timedelta(days=1)).isoformat()
    origin = stage.put({"text": "calm", "tenant": "b"})
    headers = deferral.headers(origin.message, deferral.Deferral("watch/moderate", now))
    waited = await stage.put_deferred({"text": "waited", "time": yesterday, "tenant": "c"}, None, headers)
    near = stage.put({"text": "near", "time": (now - timedelta(seconds=8)).isoformat(), "tenant": "d"})
    await until(lambda: stage.count("weir_messages_received_total") == 4)
    await until(lambda: stage.waiting() == 3)
    engine.go("on")
    await acked(held, origin, waited, near)
    assert engine.texts() == ["hold on", "near", "calm", "waited"]
    assert stage.agent.sla.quantile(1) < 3600


async def test_a_tenant_that_waits_for_its_rate_holds_no_other_back(run: Run, read: Read, until: Until) -> None:
    """Of a flood, a quarter of the window waits for the rate; the rest is left to people, and nothing is lost."""
    stage = await run(rows_in_flight=8, limits={"tenants": {"flood": {"requests_per_second": 0.001}}})
    first = stage.put({"text": "flood", "tenant": "flood"})
    await acked(first)
    flood = [first] + [stage.put({"text": f"flood {number}", "tenant": "flood"}) for number in range(1, 20)]
    calm = [stage.put({"text": f"calm {number}", "tenant": "calm"}) for number in range(5)]
    await acked(*calm, *flood[3:])
    assert not flood[1].acked.is_set()
    assert not flood[2].acked.is_set()
    found = [json.loads(message.value) for message in await read(stage.verdicts, 23)]
    by_model = Counter((verdict["tenant"], verdict["model"], verdict["decision"]) for verdict in found)
    assert by_model == {
        ("flood", "scripted", "allow"): 1,
        ("flood", "prior", "review"): 17,
        ("calm", "scripted", "allow"): 5,
    }
    assert stage.count("weir_rows_judged_by_prior_total", reason="rate") == 17


async def test_a_flood_of_one_text_holds_no_other_tenant_back(run: Run) -> None:
    """Rows that wait for the answer to their like hold the window as well; what is known already is free."""
    stage = await run(rows_in_flight=8, limits={"tenants": {"flood": {"requests_per_second": 0.001}}})
    await acked(stage.put({"text": "known", "tenant": "flood"}))
    flood = [stage.put({"text": "the same", "tenant": "flood"}) for _ in range(20)]
    known = stage.put({"text": "known", "tenant": "flood"})
    await acked(*flood[2:], known, stage.put({"text": "calm", "tenant": "calm"}))
    assert not any(row.acked.is_set() for row in flood[:2])
    assert stage.count("weir_rows_judged_by_prior_total") == 18
    assert stage.count("weir_judgements_reused_total") == 1


async def test_a_tenant_that_would_rather_wait_fills_the_window(run: Run, until: Until, settled: Settled) -> None:
    """Then the stage stops reading, and the pressure goes to Kafka."""
    limits = {"tenants": {"patient": {"requests_per_second": 0.001, "past_budget": "wait"}}}
    stage = await run(rows_in_flight=4, limits=limits)
    await acked(stage.put({"text": "first", "tenant": "patient"}))
    rows = [stage.put({"text": f"row {number}", "tenant": "patient"}) for number in range(6)]
    await until(lambda: stage.agent.window.rows == 4)
    await settled()
    assert stage.count("weir_messages_received_total") == 5
    assert stage.count("weir_rows_judged_by_prior_total") == 0
    assert not any(row.acked.is_set() for row in rows)


async def test_past_its_budget_a_tenant_gets_reviews_for_nothing(run: Run, read: Read, store: StoreSettings) -> None:
    stage = await run(limits={"tenants": {"acme": {"tokens_per_day": 60}}})
    for number in range(3):
        await acked(stage.put({"text": f"row {number}", "tenant": "acme"}))
    await acked(stage.put({"text": "row 3", "tenant": "other"}))
    found = [json.loads(message.value) for message in await read(stage.verdicts, 4)]
    assert [verdict["model"] for verdict in found] == ["scripted", "scripted", "prior", "scripted"]
    cheap = found[2]
    assert (cheap["decision"], cheap["scores"], cheap["confidence"]) == ("review", {"ok": 0.5, "spam": 0.5}, 0.5)
    assert (cheap["cost_usd"], cheap["usage"]["input_tokens"]) == (0, 0)
    assert cheap["confidence_source"] == "prior"
    assert stage.count("weir_rows_judged_by_prior_total", reason="budget") == 1
    client = connect(store)
    row = client.query(f"SELECT model, scores FROM verdicts WHERE row_uuid = '{cheap['row_id']}'").first_row
    client.close()
    assert row == ("prior", {"ok": 0.5, "spam": 0.5})


async def test_texts_that_were_judged_cost_no_budget_and_reviews_are_not_taken_over(run: Run, read: Read) -> None:
    """What is reused is free; what nobody asked the model is no judgement for the next day."""
    today = [datetime.now(UTC)]
    stage = await run(limits={"tenants": {"acme": {"tokens_per_day": 31}}}, now=lambda: today[0])
    for text in ("one", "one", "two"):
        await acked(stage.put({"text": text, "tenant": "acme"}))
    today[0] += timedelta(days=1)
    await acked(stage.put({"text": "two", "tenant": "acme"}))
    found = [json.loads(message.value) for message in await read(stage.verdicts, 4)]
    assert [verdict["model"] for verdict in found] == ["scripted", "scripted", "prior", "scripted"]
    assert [bool(verdict["reused_from"]) for verdict in found] == [False, True, False, False]


WAIT = {"tenants": {"acme": {"tokens_per_day": 1, "past_budget": "wait"}}}


async def test_past_its_budget_a_tenant_may_wait_for_the_next_day(run: Run, read: Read, engine: Any) -> None:
    today = [datetime.now(UTC)]
    stage = await run(limits=WAIT, now=lambda: today[0])
    bodies = [{"text": f"row {number}", "tenant": "acme", "id": f"e-{number}"} for number in range(3)]
    given = [stage.put(body, key=b"k", headers=[("own", b"x")]) for body in bodies[:1]]
    await acked(*given)
    given += [stage.put(body, key=b"k", headers=[("own", b"x")]) for body in bodies[1:]]
    await acked(*given)
    waiting = await read(stage.deferred, 2)
    assert [(message.key, message.value) for message in waiting] == [
        (b"k", delivery.message.value) for delivery in given[1:]
    ]
    told = deferral.read(waiting[0].headers)
    assert told is not None
    assert told.stage == "watch/moderate"
    assert told.until == next_day(today[0])
    assert ("own", b"x") in waiting[0].headers
    assert stage.count("weir_rows_deferred_total") == 2
    assert stage.count("weir_verdicts_total") == stage.count("weir_sla_rows_total") == 1

    today[0] = told.until
    await acked(await stage.put_deferred(waiting[0].value, waiting[0].key, waiting[0].headers))
    found = [json.loads(message.value) for message in await read(stage.verdicts, 2)]
    assert [verdict["source"]["id"] for verdict in found] == ["e-0", "e-1"]
    place = found[1]["source"]
    assert (place["topic"], place["offset"]) == (stage.pipeline.source, 2)
    assert len(engine.seen) == 2
    await acked(await stage.put_deferred(waiting[1].value, waiting[1].key, waiting[1].headers))  # spent again
    assert deferral.read((await read(stage.deferred, 3))[2].headers) == replace(told, until=next_day(today[0]))


async def test_a_row_that_waited_and_cannot_be_judged_is_a_dead_letter_of_its_source(run: Run, read: Read) -> None:
    stage = await run(limits=WAIT)
    first = stage.put({"text": "fine", "tenant": "acme"})
    await acked(first)
    headers = deferral.headers(first.message, deferral.Deferral("watch/moderate", datetime.now(UTC)))
    await acked(await stage.put_deferred(b"hush", b"k", headers))
    (found,) = await read(stage.dead, 1)
    told = named(found.headers)
    assert (told["weir_dlq_topic"], told["weir_dlq_offset"]) == (stage.pipeline.source, "1")


async def test_only_rows_that_are_stored_are_charged(run: Run) -> None:
    stage = await run()
    await acked(stage.put({"text": "fits", "tenant": "acme"}), stage.put({"text": "does not"}, partition=1 << 40))
    await stage.agent.window.empty()
    usage = stage.usage.cut(last=True)
    (judged,) = [row for row in usage if row.use == "judged"]
    assert (judged.pipeline, judged.stage, judged.tenant, judged.calls) == ("watch", "moderate", "acme", 1)
    assert judged.cost_usd == pytest.approx(14 / 1e6)
    assert [row.seconds > 0 for row in usage if row.use == "overhead"] == [True]


async def test_costs_are_told_by_tenant(run: Run) -> None:
    stage = await run(limits={"tenants": {"acme": {}}})
    await acked(*(stage.put({"text": tenant, "tenant": tenant}) for tenant in ("acme", "one", "two")))
    assert stage.count("weir_cost_usd_total", tenant="acme") == pytest.approx(14 / 1e6)
    assert stage.count("weir_cost_usd_total", tenant="other") == pytest.approx(28 / 1e6)
