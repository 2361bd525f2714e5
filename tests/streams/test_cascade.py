"""A screen before the model: which rows it decides, how its thresholds are found, and when they are given up."""

import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.screen.model import Card, Features, Screen
from sinks.clickhouse import StoreSettings, connect
from sinks.session import Session
from streams.cascade import Cascade
from streams.errors import WorkerMisconfigured
from streams.judge import JudgeAgent
from streams.pipeline import Pipeline
from streams.settings import Settings
from tests.streams.agents import Running, Shared, acked, share

GetMessage = Callable[..., Any]
_names = (f"guarded-{number}" for number in count())


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A screen to which `vile` is bad, `nice` good, and everything else neither."""
    card = Card(name="words", version="1", features=Features(low=4, high=4, bits=12), categories=("spam",))
    vectorizer = card.features.vectorizer()
    weights = 40 * (vectorizer.transform(["vile"]) - vectorizer.transform(["nice"])).toarray()
    file = tmp_path_factory.mktemp("screens") / "words.safetensors"
    file.write_bytes(Screen(card, np.vstack([weights, weights]), np.zeros(2, np.float32)).dump())
    return {"screen": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


class Guarded(Running):
    """A stage with a screen at work, and what follows it in a worker."""

    agent: JudgeAgent

    def __init__(self, agent: JudgeAgent, shared: Shared, message: GetMessage, session: Session) -> None:
        super().__init__(agent, shared, message)
        self._session = session

    @property
    def cascade(self) -> Cascade:
        assert self.agent.cascade is not None
        return self.agent.cascade

    async def look(self) -> None:
        """What a worker does every some seconds."""
        await self.cascade._look(self._session, self.services.writer)


@pytest.fixture
async def run(
    settings: Settings,
    store: StoreSettings,
    engine: Any,
    message: GetMessage,
    new_topic: Callable[..., Awaitable[str]],
    screen: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[..., Awaitable[Guarded]]]:
    monkeypatch.setattr("streams.cascade._SETTLED", timedelta(0))  # the tests wait until a row is in the store
    async with AsyncExitStack() as stack:

        async def start(name: str = "", **cascade: Any) -> Guarded:
            pipeline = Pipeline.model_validate(
                {
                    "name": name or next(_names),
                    "version": "1",
                    "source": await new_topic(),
                    "sla": "10s",
                    "stages": [
                        {
                            "name": "judge",
                            "writes": await new_topic(),
                            "judge": {
                                "operator": "moderate",
                                "categories": [{"name": "spam", "definition": "advertising"}],
                                "calibration": {"content_free": []},
                            },
                            "cascade": screen | cascade,
                        }
                    ],
                }
            )
            shared = await share(stack, settings, store, pipeline)
            agent, _ = await shared.judge(pipeline, pipeline.stages[0], engine.url)
            await agent.prepare()
            session = Session(store, "test-cascade")
            stack.callback(session.close)
            running = Guarded(agent, shared, message, session)
            stack.push_async_callback(running.close)
            return running

        yield start


@pytest.fixture
def ask(store: StoreSettings) -> Iterator[Callable[..., list[Any]]]:
    with closing(connect(store)) as client:
        yield lambda sql, **parameters: list(client.query(sql, parameters=parameters).result_rows)


PEOPLE = {"reference": "people", "pass_below": 0.1, "flag_from": 0.9, "audit": 1e-9}


async def test_easy_rows_are_decided_by_the_screen_and_the_others_by_the_model(
    run: Callable[..., Awaitable[Guarded]], engine: Any, ask: Callable[..., list[Any]]
) -> None:
    stage = await run(**PEOPLE)
    await acked(stage.put("how nice"), stage.put("how vile"), stage.put("some spam"))
    assert engine.texts() == ["some spam"]
    found = ask(
        "SELECT decision, label, tier, screen, risk < 0.1, risk > 0.9, audited, confidence_source, input_tokens > 0 "
        "FROM verdicts WHERE pipeline = {p:String} ORDER BY risk",
        p=stage.agent.name.partition("/")[0],
    )
    assert found == [
        ("allow", "ok", "screen", "words-1", True, False, False, "screen", False),
        ("block", "spam", "model", "words-1", False, False, False, "logprobs", True),
        ("review", "spam", "screen", "words-1", False, True, False, "screen", False),
    ]
    assert stage.count("weir_screened_total", route="pass") == 1


async def test_an_audited_row_is_judged_by_the_model_whatever_the_screen_says(
    run: Callable[..., Awaitable[Guarded]], engine: Any, ask: Callable[..., list[Any]]
) -> None:
    stage = await run(**PEOPLE | {"audit": 1 - 1e-9})
    await acked(stage.put("how nice"), stage.put("how vile"))
    assert sorted(engine.texts()) == ["how nice", "how vile"]
    rows = ask(
        "SELECT DISTINCT tier, audited FROM verdicts WHERE pipeline = {p:String}", p=stage.agent.name.partition("/")[0]
    )
    assert rows == [("model", True)]


async def test_what_the_model_said_of_the_same_text_stands_before_the_screen(
    run: Callable[..., Awaitable[Guarded]],
    engine: Any,
    ask: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = iter([True, False])
    monkeypatch.setattr("streams.cascade.audited", lambda *_: next(chance))
    stage = await run(**PEOPLE)
    await acked(stage.put("how nice"))
    await acked(stage.put("how nice"))
    assert engine.texts() == ["how nice"]
    rows = ask(
        "SELECT confidence_source, tier, audited, reused_from > 0 FROM verdicts WHERE pipeline = {p:String} "
        "ORDER BY row_id",
        p=stage.agent.name.partition("/")[0],
    )
    assert rows == [("logprobs", "model", True, False), ("logprobs", "model", False, True)]


async def test_thresholds_are_fitted_to_the_model_and_given_up_when_it_disagrees(
    run: Callable[..., Awaitable[Guarded]], engine: Any, ask: Callable[..., list[Any]]
) -> None:
    stage = await run(audit=0.5, rows=140)
    name = stage.agent.name.partition("/")[0]
    await stage.look()
    assert stage.cascade.open
    await acked(*(stage.put(f"nice day {number}") for number in range(70)))
    await stage.look()
    assert stage.cascade.open, "no row was flagged, so nothing can be promised"
    await acked(*(stage.put(f"vile spam {number}") for number in range(69)))
    await stage.look()
    assert stage.cascade.open, "one row is missing"
    await acked(stage.put("vile spam again"))
    await stage.look()
    assert not stage.cascade.open
    assert ask("SELECT open, rows, flagged FROM cascade_fits WHERE pipeline = {p:String}", p=name) == [(False, 140, 70)]

    asked = len(engine.seen)
    await acked(*(stage.put(f"nice walk {number}") for number in range(60)))
    saved = 60 - (len(engine.seen) - asked)
    assert 15 < saved < 45, "half of them are audited"
    await acked(*(stage.put(f"vile spam offer {number}") for number in range(10)))
    await stage.look()
    assert (stage.count("weir_cascade_recall_ratio", bound="high"), stage.count("weir_cascade_target_ratio")) == (
        1,
        0.95,
    )

    other = await run(name=name, audit=0.5, rows=140)
    await other.look()
    assert not other.cascade.open, "another worker finds the thresholds"

    await acked(*(stage.put(f"nice spam {number}") for number in range(60)))  # what the screen lets pass is spam now
    await stage.look()
    assert stage.cascade.open
    (reason,) = ask(
        "SELECT reason FROM cascade_fits WHERE pipeline = {p:String} AND open ORDER BY fitted_at DESC LIMIT 1", p=name
    )[0]
    assert "recall of 95.0% is in doubt" in reason
    assert stage.count("weir_cascade_open") == 1
    assert stage.count("weir_cascade_doubt") == 0, "there is no promise that could be in doubt"
    assert math.isnan(stage.count("weir_cascade_recall_ratio", bound="high"))
    asked = len(engine.seen)
    await acked(*(stage.put(f"nice tea {number}") for number in range(10)))
    assert len(engine.seen) == asked + 10


async def test_another_file_than_the_pinned_one_stops_the_worker(run: Callable[..., Awaitable[Guarded]]) -> None:
    with pytest.raises(WorkerMisconfigured, match="is not the screen that was pinned"):
        await run(sha256="0" * 64)
    with pytest.raises(WorkerMisconfigured, match="cannot be read"):
        await run(screen=str(Path("/nowhere/words.safetensors")))


@pytest.mark.parametrize(
    ("cascade", "says"),
    [
        ({"reference": "people"}, "reference people needs pass_below"),
        ({"pass_below": 0.2}, "fitted while it runs; leave them out"),
        ({"reference": "people", "pass_below": 0.5, "flag_from": 0.4}, "must not be above flag_from"),
        ({"target": 1}, "less than 1"),
    ],
)
async def test_mistakes_in_the_pipeline_file(
    run: Callable[..., Awaitable[Guarded]], cascade: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await run(**cascade)
