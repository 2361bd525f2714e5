"""An engine that fails, over HTTP: which prompts are tried again, which are given up, and what the engine is asked."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from inference.engine import LabelToken, Score
from inference.errors import AttemptsExhausted, EngineUnavailable, PromptRejected
from inference.openai import EngineSettings, OpenAiEngine
from tests.inference.conftest import (
    SECONDS,
    Handler,
    ScriptedEngine,
    busy,
    each,
    half_body,
    hang,
    hang_up,
    plain,
    reply,
)

FAST = {"backoff_seconds": 0.01, "pause_seconds": 0.01, "prompts_per_request": 1}
TO_OPEN = 5  # failures in a row


class Moody(ScriptedEngine):
    """Handles requests with the word "poison" in a prompt, or all while it is sick, as a test wants.

    arrived: one permit for each request with poison. let_go: with `holds`, such a request is handled once it has a
    permit from here. under_way: requests that wait for `gate`; gate: None, or permits for answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[str, Any]] = []
        self.sick: Handler | None = None
        self.poison: Handler = reply(500)
        self.holds = False
        self.arrived = asyncio.Semaphore(0)
        self.let_go = asyncio.Semaphore(0)
        self.gate: asyncio.Semaphore | None = None
        self.under_way = 0
        self._news = asyncio.Condition()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when it holds. Looked at whenever a request comes or goes."""
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(holds)

    async def arrival(self) -> None:
        """Return when one more request with poison has arrived."""
        async with asyncio.timeout(SECONDS):
            await self.arrived.acquire()

    def heal(self) -> None:
        """Poison is answered from now on."""
        self.poison = lambda request: ScriptedEngine.answer(self, request, self.asked[-1])

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.path == "/metrics":
            return await super().answer(request, body)
        prompt = (body or {}).get("prompt")
        self.requests.append((request.path, prompt))
        self.under_way += 1
        await self._tell()
        try:
            if self.sick is not None:
                return await self.sick(request)
            if prompt is not None and any("poison" in one for one in each(prompt)):
                self.arrived.release()
                if self.holds:
                    await self.let_go.acquire()
                return await self.poison(request)
            if self.gate is not None and request.path == "/v1/completions":
                await self.gate.acquire()
            return await super().answer(request, body)
        finally:
            self.under_way -= 1
            await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()


class Client:
    """An engine's client, and the reasons of its failed attempts."""

    def __init__(self, server: Moody, **settings: Any) -> None:
        self.reasons: list[str] = []
        self.engine = OpenAiEngine(EngineSettings(server.url, **{**FAST, **settings}), self.reasons.append)
        self._server = server

    def labels(self) -> list[LabelToken]:
        return [self._server.token("ok"), self._server.token("spam")]

    def ask(self, prompt: str) -> "asyncio.Task[Score]":
        return asyncio.create_task(self.engine.score(plain(prompt), self.labels()))

    async def score(self, prompt: str) -> Score:
        async with asyncio.timeout(SECONDS):
            return await self.ask(prompt)

    async def all(self, *prompts: str) -> list[Score | BaseException]:
        async with asyncio.timeout(SECONDS):
            return await asyncio.gather(*map(self.ask, prompts), return_exceptions=True)


@pytest.fixture
async def server() -> AsyncIterator[Moody]:
    async with Moody() as moody:
        yield moody


@pytest.fixture
async def connect(server: Moody) -> AsyncIterator[Callable[..., Any]]:
    clients: list[Client] = []

    async def make(**settings: Any) -> Client:
        clients.append(Client(server, **settings))
        await clients[-1].engine.connect()
        return clients[-1]

    yield make
    for client in clients:
        await client.engine.close()


Make = Callable[..., Any]


class TestOutage:
    @pytest.mark.parametrize(
        "sick", [hang_up, half_body, reply(500), reply(503), reply(429), reply(200, b"<html>"), reply(200, {})]
    )
    async def test_only_probes_are_sent_and_no_row_is_given_up(
        self, sick: Handler, server: Moody, connect: Make
    ) -> None:
        client = await connect(attempts=1, prompts_in_flight=4, pause_seconds=0.001)
        await client.score("known")
        server.requests.clear()
        server.sick = sick

        scores = [client.ask(f"row {number}") for number in range(20)]
        tokens = [asyncio.create_task(client.engine.tokenize(f"text {number}")) for number in range(3)]
        probe = ("/v1/completions", "known")
        await server.until(lambda: server.requests.count(probe) >= 10)

        assert TO_OPEN <= len(server.requests) - server.requests.count(probe) < TO_OPEN + 4 + 3
        assert server.under_way <= 1
        assert client.engine.breaker_state != "closed"

        server.sick = None
        async with asyncio.timeout(SECONDS):
            assert all(isinstance(score, Score) for score in await asyncio.gather(*scores))
            assert await asyncio.gather(*tokens) == [server.tokens(f"text {number}") for number in range(3)]
        assert client.engine.breaker_state == "closed"

    async def test_probe_before_any_success_asks_for_the_models(self, server: Moody, connect: Make) -> None:
        client = await connect(attempts=1)
        server.requests.clear()
        server.sick = reply(500)
        score = client.ask("row")
        await server.until(lambda: len(server.requests) == TO_OPEN + 3)
        server.sick = None

        async with asyncio.timeout(SECONDS):
            assert isinstance(await score, Score)
        assert server.requests[:TO_OPEN] == [("/v1/completions", "row")] * TO_OPEN
        assert set(server.requests[TO_OPEN:-1]) == {("/v1/models", None)}

    async def test_listing_models_is_no_proof_that_the_engine_can_score(self, server: Moody, connect: Make) -> None:
        client = await connect(attempts=1)
        score = client.ask("poison")
        for _ in range(TO_OPEN + 3):
            await server.arrival()
        server.heal()

        async with asyncio.timeout(SECONDS):
            assert isinstance(await score, Score)

    async def test_tokenizing_is_no_proof_that_the_engine_can_score(self, server: Moody, connect: Make) -> None:
        client = await connect(attempts=1)
        await client.score("known")
        server.holds = True
        score = client.ask("poison")
        for _ in range(TO_OPEN + 3):
            await server.arrival()
            await client.engine.tokenize("text")
            server.let_go.release()
        await server.arrival()
        server.heal()
        server.let_go.release()

        async with asyncio.timeout(SECONDS):
            assert isinstance(await score, Score)

    async def test_recovered_engine_is_not_run_over(self, server: Moody, connect: Make) -> None:
        client = await connect(prompts_in_flight=8)
        await client.all(*["known"] * 60)  # so that as many are in flight as may be
        server.sick = hang_up
        scores = [client.ask("row") for _ in range(30)]
        await server.until(lambda: client.engine.breaker_state == "half_open")
        server.gate = asyncio.Semaphore(0)
        server.sick = None
        server.requests.clear()
        await server.until(lambda: ("/v1/completions", "known") in server.requests)
        server.gate.release()

        for at_once in (1, 2, 4, 8):
            await server.until(lambda at_once=at_once: server.under_way == at_once)  # type: ignore[misc]
            for _ in range(5):  # what was sent at the same time would arrive meanwhile
                await client.engine.ready()
            assert server.under_way == at_once
            server.gate.release()

        for _ in scores:
            server.gate.release()
        async with asyncio.timeout(SECONDS):
            assert all(isinstance(score, Score) for score in await asyncio.gather(*scores))

    @pytest.mark.parametrize("sick", [hang_up, busy(503, "60")], ids=["open", "backing off"])
    async def test_close_does_not_wait_for_the_engine(self, sick: Handler, server: Moody, connect: Make) -> None:
        client = await connect()
        server.sick = sick
        callers = [client.ask("row") for _ in range(6)]
        callers += [asyncio.create_task(client.engine.tokenize("text")) for _ in range(3)]
        await server.until(lambda: len(client.reasons) >= TO_OPEN)

        async with asyncio.timeout(SECONDS / 2):
            await client.engine.close()
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 9


class TestBudget:
    @pytest.mark.parametrize(
        ("handler", "reason"),
        [
            (reply(500), "status"),
            (reply(502), "status"),
            (reply(409), "status"),
            (reply(200, b"<html>"), "bad_answer"),
            (reply(200, [1]), "bad_answer"),
            (reply(200, {"choices": None}), "bad_answer"),
            (reply(200, {"choices": [], "usage": {}}), "bad_answer"),
            (half_body, "connection"),
            (hang_up, "connection"),
            (hang, "timeout"),
        ],
    )
    async def test_prompt_that_fails_while_others_succeed_is_given_up(
        self, handler: Handler, reason: str, server: Moody, connect: Make
    ) -> None:
        client = await connect(attempts=3, timeout=1.0 if handler is hang else 60.0)
        server.poison = handler
        server.holds = True
        score = client.ask("poison")
        for _ in range(3):
            await server.arrival()
            assert isinstance(await client.score("good"), Score)
            server.let_go.release()

        async with asyncio.timeout(SECONDS):
            with pytest.raises(AttemptsExhausted, match="failed 3 times while the engine answered others") as caught:
                await score
        assert caught.value.attempts == 3
        assert client.reasons == [reason] * 3
        assert server.prompts.count("poison") == 3
        assert client.engine.breaker_state == "closed"

    async def test_prompt_that_fails_alone_is_given_up_once_probes_show_that_the_engine_is_well(
        self, server: Moody, connect: Make
    ) -> None:
        client = await connect(attempts=3)
        await client.score("good")

        with pytest.raises(AttemptsExhausted) as caught:
            await client.score("poison")

        probed = ["good", "poison"]
        assert caught.value.attempts == 3
        assert server.prompts[: 1 + TO_OPEN + 6] == ["good", *["poison"] * TO_OPEN, *probed * 3]
        assert len(client.reasons) == TO_OPEN + 3
        assert isinstance(await client.score("good"), Score)

    async def test_failures_before_the_engine_answered_anyone_cost_nothing(self, server: Moody, connect: Make) -> None:
        client = await connect(attempts=2)
        await client.score("good")
        server.holds = True
        score = client.ask("poison")
        for others in (True, False, False):
            await server.arrival()
            if others:
                await client.score("good")
            server.let_go.release()
        await server.arrival()
        server.heal()
        server.let_go.release()

        async with asyncio.timeout(SECONDS):
            assert isinstance(await score, Score)

    @pytest.mark.parametrize("bad", [[0], [7], [3, 4], [1, 6]])
    @pytest.mark.parametrize("attempts", [1, 3])
    async def test_only_the_guilty_of_one_request_are_given_up(
        self, bad: list[int], attempts: int, server: Moody, connect: Make
    ) -> None:
        client = await connect(attempts=attempts, prompts_in_flight=8, prompts_per_request=8, linger=SECONDS)
        prompts = [f"poison {number}" if number in bad else f"good {number}" for number in range(8)]

        await client.all(*["good"] * 8)
        scores = await client.all(*prompts)

        assert server.asked[1]["prompt"] == prompts
        given_up = [number for number, score in enumerate(scores) if isinstance(score, AttemptsExhausted)]
        assert given_up == bad
        assert {scores[number].attempts for number in bad} == {attempts}
        assert all(isinstance(score, Score) for number, score in enumerate(scores) if number not in bad)

    async def test_text_that_cannot_be_tokenized_is_given_up(self, server: Moody, connect: Make) -> None:
        client = await connect(attempts=3)
        server.holds = True
        tokens = asyncio.create_task(client.engine.tokenize("poison"))
        for _ in range(3):
            await server.arrival()
            assert await client.engine.tokenize("good") == server.tokens("good")
            server.let_go.release()

        async with asyncio.timeout(SECONDS):
            with pytest.raises(AttemptsExhausted):
                await tokens
        assert server.requests.count(("/tokenize", "poison")) == 3

    async def test_rejection_is_an_answer(self, server: Moody, connect: Make) -> None:
        client = await connect(prompts_in_flight=1)
        server.script = deque([*[reply(500)] * (TO_OPEN - 1), reply(400), *[reply(500)] * (TO_OPEN - 1)])

        first, second = await client.all("one", "two")

        assert isinstance(first, PromptRejected)
        assert isinstance(second, Score)
        assert {path for path, _ in server.requests[1:]} == {"/v1/completions"}, "no probe was made"


class TestBusy:
    @pytest.mark.parametrize("status", [429, 503])
    async def test_costs_no_attempt(self, status: int, server: Moody, connect: Make) -> None:
        client = await connect(attempts=1, prompts_per_request=2)  # in flight are enough for several refusals
        server.poison = reply(status)
        server.holds = True
        score = client.ask("poison")
        for _ in range(TO_OPEN + 2):
            await server.arrival()
            await client.score("good")
            server.let_go.release()
        await server.arrival()
        server.heal()
        server.let_go.release()

        async with asyncio.timeout(SECONDS):
            assert isinstance(await score, Score)
        assert client.reasons == ["busy"] * (TO_OPEN + 2)
        assert client.engine.breaker_state == "closed"

    async def test_that_wants_to_be_asked_at_once_is_not_asked_without_end(self, server: Moody, connect: Make) -> None:
        client = await connect(backoff_seconds=1000.0, prompts_in_flight=2)
        server.poison = busy(429, "0")
        score = client.ask("poison")
        await server.arrival()
        for _ in range(100):
            await client.score("good")
        assert server.prompts.count("poison") < 10
        score.cancel()

    @pytest.mark.parametrize("status", [429, 503])
    async def test_is_asked_again_when_it_wants_to(self, status: int, server: Moody, connect: Make) -> None:
        client = await connect(backoff_seconds=0.0)
        asked_at: list[float] = []

        async def now(request: web.Request) -> web.StreamResponse:
            asked_at.append(time.monotonic())
            if len(asked_at) == 1:
                return await busy(status, "0.5")(request)
            return await ScriptedEngine.answer(server, request, server.asked[-1])

        server.poison = now
        await client.score("poison")

        assert asked_at[1] - asked_at[0] >= 0.49


async def test_each_failed_attempt_is_one_line_without_the_text(
    server: Moody, connect: Make, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(attempts=3)
    await client.score("good words")
    with caplog.at_level(logging.DEBUG), pytest.raises(AttemptsExhausted) as caught:
        await client.score("poison words")

    lines = [record for record in caplog.records if record.name == "inference.retrying"]
    assert [record.levelname for record in lines] == ["WARNING"] * len(client.reasons)
    assert "words" not in caplog.text
    assert "words" not in str(caught.value)


async def test_unavailable_engine_says_why(server: Moody) -> None:
    await server.down()
    engine = OpenAiEngine(EngineSettings(server.url))
    with pytest.raises(EngineUnavailable) as caught:
        await engine.connect()
    await engine.close()
    assert caught.value.reason == "connection"
