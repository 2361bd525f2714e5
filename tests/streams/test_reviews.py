"""What people say of verdicts is kept once, and published once, whatever comes in whatever order."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.reviews import Reviews
from streams.decode import decode
from streams.identity import uuid_text
from streams.pipeline import Pipeline
from streams.reviews import ReviewsAgent
from streams.settings import Settings
from streams.verdicts import verdict_row_id
from tests.streams.agents import Delivery, Running, acked, named, share

SAID = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)
UNKNOWN = "019cb73d-3271-7597-86b6-da06e2c252b7"

Read = Callable[..., Awaitable[list[Any]]]
Until = Callable[..., Awaitable[Any]]


class Reviewing:
    """A stage whose verdicts people review."""

    def __init__(self, stage: Running, reviews: Running, pipeline: Pipeline, store: StoreSettings, read: Read) -> None:
        self.stage = stage
        self.reviews = reviews
        self.pipeline = pipeline
        self.verdicts = pipeline.stages[0].writes
        self.store = store
        self._read = read

    async def judge(self, text: str = "buy spam", **fields: Any) -> str:
        """Row id of the verdict about a text."""
        await acked(self.stage.put({"text": text, "id": uuid4().hex, "thread": "t-1"}, **{"key": b"t-1"} | fields))
        return self.row_of_last()

    def row_of_last(self) -> str:
        """Row id that the verdict about the last message has, or will have."""
        (stage,) = self.pipeline.stages
        return uuid_text(verdict_row_id(self.pipeline, stage, decode(self.stage.messages[-1])))

    def review(self, row: str, minutes: float = 0, headers: Any = (), offset: Any = None, **said: Any) -> Delivery:
        """Deliver a review, by ann, so many minutes after the first."""
        time = (SAID + timedelta(minutes=minutes)).isoformat()
        body = {"row_id": row, "reviewer": "ann", "time": time} | said
        place = {} if offset is None else {"offset": offset}
        return self.reviews.put(body, key=row.encode(), partition=0, headers=headers, **place)

    async def corrections(self, verdicts: int, count: int) -> list[dict[str, Any]]:
        """What follows the verdicts in their topic. A verdict at the end shows that nothing more does."""
        await acked(self.stage.put({"text": "the end", "id": "end"}))
        found = await self._read(self.verdicts, verdicts + count + 1)
        bodies = [json.loads(one.value) for one in found]
        assert bodies[-1]["source"]["id"] == "end"
        return [body for body in bodies if "corrects" in body]

    async def dead(self, count: int = 1) -> list[dict[str, str]]:
        """Headers of the first dead letters, in the order of their messages."""
        found = [named(one.headers) for one in await self._read(self.reviews.dead, count)]
        return sorted(found, key=lambda headers: int(headers["weir_dlq_offset"]))

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        client = connect(self.store)
        try:
            return list(client.query(query, parameters=parameters, tz_mode="aware").result_rows)
        finally:
            client.close()


Run = Callable[..., Awaitable[Reviewing]]


@pytest.fixture
async def run(
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    message: Any,
    new_topic: Callable[..., Awaitable[str]],
    read: Read,
) -> AsyncIterator[Run]:
    """`await run()`: a stage and the agent of its reviews; before: with those of another one, as after a restart."""

    async def start(before: Reviewing | None = None, wait: float = 10, judge: Any = None) -> Reviewing:
        source = before.stage.agent.reads if before else await new_topic()
        topic = before.reviews.agent.reads if before else await new_topic()
        writes = before.verdicts if before else await new_topic()
        moderate = {
            "operator": "moderate",
            "categories": [{"name": "spam", "definition": "advertising"}],
            "thresholds": {"review": 0.5, "block": 0.8},
            "calibration": {"content_free": []},
        }
        stages = [{"name": "moderate", "writes": writes, "judge": judge or moderate}]
        pipeline = Pipeline.model_validate(
            {"name": "watch", "version": "7", "source": source, "sla": "10s", "stages": stages}
        )
        shared = await share(stack, settings, store, pipeline, dead_letter_share=0)
        judging, client = await shared.judge(pipeline, pipeline.stages[0], engine.url)
        await judging.prepare()
        looked_up = Reviews(store)
        looked_up.start()
        stack.push_async_callback(looked_up.close)
        stage = Running(judging, shared, message)
        shared.services.usage.open(client.meter, engine.url)
        reviews = Running(ReviewsAgent([pipeline], topic, wait, looked_up, shared.services), shared, message)
        for running in (stage, reviews):
            stack.push_async_callback(running.close)
        return Reviewing(stage, reviews, pipeline, store, read)

    async with AsyncExitStack() as stack:
        yield start


async def test_a_review_is_kept_and_published_as_a_correction(run: Run, read: Read) -> None:
    people = await run()
    row = await people.judge("buy spam", headers=[("ce_source", b"/forum")])
    said = {"decision": "allow", "comment": "a joke", "id": "r-1"}
    headers = [("ce_source", b"/console"), ("traceparent", b"00-1-2-01")]
    await acked(people.review(row, headers=headers, **said))

    judged, found = await read(people.verdicts, 2)
    verdict, correction = json.loads(judged.value), json.loads(found.value)
    assert found.key == b"t-1"
    assert named(found.headers) == {
        "ce_specversion": "1.0",
        "ce_id": correction["row_id"],
        "ce_source": "/weir/watch/moderate",
        "ce_type": "weir.correction.v1",
        "ce_time": "2026-03-04T09:30:00.000Z",
        "ce_subject": verdict["source"]["id"],
        "traceparent": "00-1-2-01",
        "content-type": "application/json",
    }
    assert correction == {
        "row_id": correction["row_id"],
        "corrects": row,
        "source": verdict["source"],
        "pipeline": "watch",
        "stage": "moderate",
        "operator": "moderate",
        "decision": "allow",
        "label": "ok",
        "was": {"decision": "block", "label": "spam", "by": "model"},
        "changed": True,
        "stands": True,
        "reviewer": "ann",
        "reviewed_at": "2026-03-04T09:30:00.000Z",
        "event_time": verdict["event_time"],
        "thread": "t-1",
        "lang": "",
        "tenant": "",
    }
    assert correction["row_id"] != row
    query = "SELECT toString(review_uuid), reviewer, decision, label, comment, source, event_id, reviewed_at, stands "
    assert people.rows(query + "FROM reviews WHERE row_uuid = {row:UUID}", row=row) == [
        (correction["row_id"], "ann", "allow", "ok", "a joke", "/console", "r-1", SAID, True)
    ]


async def test_a_review_that_agrees_is_a_confirmation(run: Run) -> None:
    people = await run()
    row = await people.judge()
    await acked(people.review(row, label="spam"))
    (correction,) = await people.corrections(1, 1)
    assert (correction["decision"], correction["label"], correction["changed"]) == ("block", "spam", False)


async def test_the_last_review_by_time_holds_in_whatever_order_they_come(run: Run) -> None:
    people = await run()
    row = await people.judge()
    late, early = people.review(row, 60, decision="allow"), people.review(row, 0, decision="review", reviewer="bob")
    later = people.review(row, 90, decision="block", label="spam")
    await acked(late, early, later)
    found = await people.corrections(1, 3)
    told = [(c["reviewer"], c["was"]["decision"], c["was"]["by"], c["decision"], c["stands"]) for c in found]
    assert told == [
        ("ann", "block", "model", "allow", True),
        ("bob", "allow", "person", "allow", False),
        ("ann", "allow", "person", "block", True),
    ]
    holds = "SELECT decision, label, model_decision, reviewer, reviews FROM reviewed_verdicts "
    holds += "WHERE row_uuid = {row:UUID}"
    assert people.rows(holds, row=row) == [("block", "spam", "block", "ann", 3)]
    model = "SELECT decision FROM verdicts WHERE row_uuid = {row:UUID}"
    assert people.rows(model, row=row) == [("block",)]


TWICE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"id": "r-1"}, {"id": "r-1", "minutes": 5, "decision": "block"}),
    ({}, {}),
    ({"id": "r-1"}, {"id": "r-2"}),
    ({"headers": [("ce_id", b"r-1")]}, {"headers": [("ce_id", b"r-1")], "reviewer": "bob"}),
]


async def test_the_same_review_twice_is_one(run: Run) -> None:
    """By its name, or by reviewer and time."""
    people = await run()
    rows = [await people.judge(f"spam {number}") for number in range(len(TWICE))]
    for row, copies in zip(rows, TWICE, strict=True):
        first, second = (people.review(row, **{"decision": "allow"} | copy) for copy in copies)
        await acked(first, second)
    corrections = await people.corrections(len(rows), len(rows))
    assert [(one["corrects"], one["decision"]) for one in corrections] == [(row, "allow") for row in rows]
    query = "SELECT count(), uniqExact(row_id) FROM reviews WHERE decision = 'allow' AND row_uuid IN {rows:Array(UUID)}"
    assert people.rows(query, rows=rows) == [(len(rows), len(rows))]
    assert people.reviews.count("weir_messages_repeated_total", stage="reviews") == len(TWICE)


async def test_what_was_stored_and_not_published_is_published_after_a_restart(run: Run, until: Until) -> None:
    """A worker that is killed in between leaves the row, and no acknowledgement."""
    people = await run()
    row = await people.judge()
    for running in (people.reviews, people.stage):  # the broker does not answer any more
        await running.services.publisher.close()
    delivery = people.review(row, decision="allow", offset=3)
    await until(lambda: people.rows("SELECT 1 FROM reviews WHERE row_uuid = {row:UUID}", row=row))
    await people.reviews.close()
    assert not delivery.acked.is_set()
    again = await run(before=people)
    await acked(again.review(row, decision="allow", offset=3), again.review(row, decision="allow", offset=4))
    (correction,) = await again.corrections(1, 1)
    assert (correction["decision"], correction["was"]["decision"]) == ("allow", "block")
    assert again.reviews.count("weir_messages_repeated_total", stage="reviews") == 1


async def test_what_was_published_and_not_acknowledged_is_published_as_it_was(run: Run, read: Read) -> None:
    people = await run()
    row = await people.judge()
    await acked(people.review(row, 0, decision="allow", offset=3), people.review(row, 5, decision="review", offset=4))
    again = await run(before=people)
    await acked(again.review(row, 0, decision="allow", offset=3), again.review(row, 5, decision="review", offset=4))
    found = [json.loads(one.value) for one in (await read(people.verdicts, 5))[1:]]
    assert len({one["row_id"] for one in found}) == 2
    assert found[1] == found[3]
    assert [one["decision"] for one in found] == ["allow", "review", "review", "review"]  # what holds by then
    assert [one["stands"] for one in found] == [True, True, False, True]


async def test_a_review_waits_for_its_verdict(run: Run, read: Read, engine: Any) -> None:
    people = await run(wait=60)
    known = await people.judge("hello")
    body = {"text": "hold on spam", "id": "e-9", "time": SAID.isoformat(), "thread": "t-9"}
    held = people.stage.put(body, key=b"t-9")
    row = people.row_of_last()
    early, other = people.review(row, decision="allow"), people.review(known, decision="block", label="spam")
    await acked(other)  # other rows do not wait
    assert not early.acked.is_set()
    engine.go("on")
    await acked(held, early)
    found = [json.loads(one.value) for one in await read(people.verdicts, 4)]
    assert [one.get("corrects") for one in found] == [None, known, None, row]


async def test_a_row_that_never_comes_is_a_dead_letter(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    people = await run(wait=0)
    await acked(people.review(UNKNOWN, decision="allow", reviewer="secret-name", comment="secret-words"))
    (headers,) = await people.dead()
    assert headers["weir_dlq_reason"] == "unknown_row"
    assert UNKNOWN in headers["weir_dlq_detail"]
    assert "event" in headers["weir_dlq_detail"]
    assert "secret" not in caplog.text
    assert "secret" not in headers["weir_dlq_detail"]
    assert people.reviews.stopped_by == []  # though its share of dead letters is too large


async def test_a_verdict_of_a_stage_that_is_not_ours_is_a_dead_letter(run: Run) -> None:
    people = await run(wait=0)
    row = await people.judge()
    agent: Any = people.reviews.agent
    agent._stages = {}
    await acked(people.review(row, decision="allow"))
    (headers,) = await people.dead()
    assert headers["weir_dlq_reason"] == "unknown_stage"
    assert "watch/moderate" in headers["weir_dlq_detail"]


WRONG = [
    ({"decision": "delete"}, "watch/moderate decides allow, review, block"),
    ({"label": "porn"}, "watch/moderate has ok, spam"),
    ({}, "neither"),
    ({"decision": "allow", "label": "spam"}, "goes with allow"),
    ({"decision": "block", "label": "ok"}, "goes with allow"),
    ({"decision": "allow", "reviewer": ""}, "reviewer: "),
    ({"decision": "allow", "reviewer": "x" * 257}, "reviewer: "),
    ({"decision": "allow", "reviewer": None}, "reviewer: "),
    ({"decision": 5}, "decision: "),
    ({"decision": "allow", "comment": "x" * 4001}, "comment: "),
    ({"decision": "allow", "row": "1 OR 1=1"}, "row_id: "),
    ({"decision": "allow", "time": "yesterday"}, "time: "),
    ({"decision": "\ud83d' OR 1=1 --"}, ""),
]


async def test_what_says_nothing_that_the_stage_knows_is_a_dead_letter(run: Run) -> None:
    people = await run(wait=0)
    row = await people.judge()
    await acked(*(people.review(**{"row": row} | said) for said, _ in WRONG))
    for headers, (_, told) in zip(await people.dead(len(WRONG)), WRONG, strict=True):
        assert headers["weir_dlq_reason"] == ("wrong_field" if told else "not_json")
        assert told in headers["weir_dlq_detail"]
    assert await people.corrections(1, 0) == []
    assert people.reviews.stopped_by == []


NO_REVIEWS: list[tuple[Any, dict[str, Any], str]] = [
    (None, {"key": b"k"}, "no_value"),
    (b"\xff", {}, "not_utf8"),
    (b"[1]", {}, "wrong_field"),
    (b"no JSON", {}, "not_json"),
    ({"row_id": UNKNOWN, "reviewer": "a", "time": "9999-12-31T23:59:59Z"}, {}, "time_out_of_range"),
    ({"row_id": UNKNOWN, "reviewer": "a"}, {"headers": [("ce_time", b"soon")]}, "wrong_field"),
    ({"row_id": UNKNOWN, "reviewer": "a"}, {"headers": [("ce_id", b"x" * 257)]}, "wrong_field"),
]


async def test_what_is_no_review_is_a_dead_letter(run: Run) -> None:
    people = await run(wait=0)
    await acked(*(people.reviews.put(value, **{"partition": 0} | fields) for value, fields, _ in NO_REVIEWS))
    found = await people.dead(len(NO_REVIEWS))
    assert [headers["weir_dlq_reason"] for headers in found] == [reason for *_, reason in NO_REVIEWS]


async def test_hostile_text_is_kept_as_it_is(run: Run) -> None:
    people = await run()
    row = await people.judge()
    who, why = "ann\u0000'; DROP TABLE reviews_raw; --", "\u001b[31mred\u202e {row:UUID} \\' 🙂\n"
    await acked(people.review(row, decision="allow", reviewer=who, comment=why, id="') OR ('1'='1"))
    (correction,) = await people.corrections(1, 1)
    assert correction["reviewer"] == who
    found = people.rows("SELECT reviewer, comment, event_id FROM reviews WHERE row_uuid = {row:UUID}", row=row)
    assert found == [(who, why, "') OR ('1'='1")]


async def test_without_a_time_it_is_kafkas(run: Run) -> None:
    people = await run()
    row = await people.judge()
    await acked(people.review(row, decision="allow", time=None))
    (at,) = people.rows("SELECT reviewed_at FROM reviews WHERE row_uuid = {row:UUID}", row=row)[0]
    assert round(people.reviews.messages[-1].timestamp * 1000) == round(at.timestamp() * 1000)


async def test_metrics_tell_how_far_people_agree(run: Run) -> None:
    people = await run()
    rows = [await people.judge(text) for text in ("buy spam", "more spam", "hello")]
    reviews = [people.review(rows[0], decision="allow"), people.review(rows[1], decision="block", label="spam")]
    await acked(*reviews, people.review(rows[2], decision="review"))
    counted = people.reviews.count
    stage = {"pipeline": "watch", "stage": "moderate"}
    assert counted("weir_reviews_total", decision="block", agrees="yes", **stage) == 1
    assert counted("weir_reviews_total", decision="block", agrees="no", **stage) == 1
    assert counted("weir_reviews_total", decision="allow", agrees="no", **stage) == 1
    assert counted("weir_corrections_total", was="block", now="allow", **stage) == 1
    assert counted("weir_corrections_total", was="allow", now="review", **stage) == 1
    assert counted("weir_corrections_total") == 2
    assert counted("weir_review_delay_seconds_count", **stage) == 3
    assert "ann" not in people.reviews.services.metrics.render().decode().split('"')


CLASSIFY = {
    "operator": "classify",
    "classes": [{"name": "ok", "definition": "fine"}, {"name": "spam", "definition": "advertising"}],
    "review_below": 0.95,
    "calibration": {"content_free": []},
}


async def test_a_label_is_enough_where_the_stage_gives_one_of_several(run: Run) -> None:
    people = await run(judge=CLASSIFY)
    row = await people.judge()
    await acked(people.review(row, label="ok"))
    (correction,) = await people.corrections(1, 1)
    assert correction["was"] == {"decision": "review", "label": "spam", "by": "model"}
    assert (correction["decision"], correction["label"]) == ("accept", "ok")
