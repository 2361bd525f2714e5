"""A message that comes again after its author's words were erased is not stored, judged or remembered again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from sinks.calls import Calls
from sinks.clickhouse import StoreSettings, connect
from sinks.erase import Author, record, sweep
from sinks.erasures import ErasureLog
from streams.assemble import AssembleAgent
from streams.erased import Erased
from streams.pipeline import Pipeline
from streams.settings import Settings
from tests.streams.agents import Running, acked, share

GetMessage = Callable[..., Any]
Until = Callable[..., Awaitable[Any]]


class Judging(Running):
    """A stage at work, and the name of an author of its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.ann = f"ann-{uuid4().hex}"
        self.time = datetime.now(UTC) - timedelta(seconds=9)

    def say(self, text: str, **fields: Any) -> Any:
        said = {"id": text, "text": text, "author": self.ann, "time": self.time.isoformat(), "thread": "t"}
        return self.put(said | fields, key=b"t")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def judging(
    stack: AsyncExitStack,
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    message: GetMessage,
    new_topic: Callable[..., Awaitable[str]],
) -> Judging:
    stage = {
        "name": "moderate",
        "writes": await new_topic(),
        "context": {"messages": 2},
        "judge": {
            "operator": "moderate",
            "categories": [{"name": "spam", "definition": "advertising"}],
            "calibration": {"content_free": []},
        },
    }
    made = {"name": "watch", "version": "7", "source": await new_topic(), "sla": "10s", "stages": [stage]}
    pipeline = Pipeline.model_validate(made)
    shared = await share(stack, settings, store, pipeline)
    agent, _ = await shared.judge(pipeline, pipeline.stages[0], engine.url)
    await agent.prepare()
    running = Judging(agent, shared, message)
    stack.push_async_callback(running.close)
    return running


@pytest.fixture
def erase(store: StoreSettings) -> Callable[[str], None]:
    def run(author: str) -> None:
        client = connect(store)
        now = datetime.now(UTC)
        record(client, Author(author), now)
        sweep(client, Author(author), now)
        client.close()

    return run


def texts(store: StoreSettings, topic: str) -> list[str]:
    client = connect(store)
    query = "SELECT text FROM source_rows WHERE topic = {topic:String} ORDER BY text"
    found = client.query(query, parameters={"topic": topic}).result_rows
    client.close()
    return [text for (text,) in found]


async def test_an_older_message_is_not_taken_again(
    judging: Judging, store: StoreSettings, engine: Any, erase: Callable[[str], None]
) -> None:
    await acked(judging.say("first"), judging.say("hers", author="bob"))
    erase(judging.ann)
    await judging.services.erased.look()
    asked = len(engine.seen)
    await acked(judging.say("first"), judging.say("never read before"))
    assert (len(engine.seen), judging.count("weir_messages_erased_total")) == (asked, 2)
    later = datetime.now(UTC).isoformat()
    await acked(judging.say("written since", time=later))
    assert texts(store, judging.agent.reads) == ["", "hers", "written since"]
    assert judging.stopped_by == []


async def test_a_message_that_is_being_judged_is_not_stored(
    judging: Judging, store: StoreSettings, engine: Any, erase: Callable[[str], None], until: Until
) -> None:
    held = judging.say("hold a")
    await until(lambda: engine.seen)
    erase(judging.ann)
    await judging.services.erased.look()
    engine.go("a")
    await acked(held)
    assert texts(store, judging.agent.reads) == []


async def test_erased_words_are_no_context_of_later_ones(
    judging: Judging, engine: Any, erase: Callable[[str], None], store: StoreSettings, stack: AsyncExitStack
) -> None:
    log = ErasureLog(store)
    stack.callback(log.close)
    learns = Erased(log, judging.agent.forget)
    await learns.look()
    await acked(judging.say("a zebra"))
    await acked(judging.say("again", author="bob"))
    assert "zebra" in engine.seen[-1]
    erase(judging.ann)
    await learns.look()
    await acked(judging.say("and again", author="bob"))
    assert "again" in engine.seen[-1]
    assert "zebra" not in engine.seen[-1]
    asked = len(engine.seen)
    await acked(judging.say("a zebra", author="carl", id="other", thread=""))
    assert len(engine.seen) == asked + 1  # what was said of the erased words is not taken over


async def test_a_call_goes_on_without_erased_words(
    stack: AsyncExitStack,
    settings: Settings,
    store: StoreSettings,
    message: GetMessage,
    new_topic: Callable[..., Awaitable[str]],
    read: Callable[..., Awaitable[list[Any]]],
    erase: Callable[[str], None],
) -> None:
    ann = f"ann-{uuid4().hex}"
    stage = {"name": "assemble", "writes": await new_topic(), "assemble": {"silence": "60s"}}
    made = {"name": "review", "version": "1", "source": await new_topic(), "sla": "3h", "stages": [stage]}
    pipeline = Pipeline.model_validate(made)
    shared = await share(stack, settings, store, pipeline)
    calls = Calls(store)
    calls.start()
    stack.push_async_callback(calls.close)
    agent = AssembleAgent(pipeline, pipeline.stages[0], calls, shared.services)
    log = ErasureLog(store)
    stack.callback(log.close)
    learns = Erased(log, agent.forget)
    running = Running(agent, shared, message)
    stack.push_async_callback(running.close)
    agent.assigned({running.put({"text": "no turn"}).message.tp})
    time = datetime.now(UTC) - timedelta(seconds=9)

    def turn(number: int, text: str, **fields: Any) -> Any:
        body = {"text": text, "turn": number, "thread": "c", "time": time.isoformat(), "id": f"{number}"}
        return running.put(body | fields, key=b"c")

    await learns.look()
    await acked(turn(0, "zebra", author=ann), turn(1, "hello", author="bob"))
    erase(ann)
    await learns.look()
    await acked(turn(2, "bye", author="bob", final=True))
    (transcript,) = await read(stage["writes"], 1)
    assert b"hello" in transcript.value
    assert b"bye" in transcript.value
    assert b"zebra" not in transcript.value
    assert ann.encode() not in transcript.value
