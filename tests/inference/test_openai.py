"""The engine over HTTP: whatever a server answers, each prompt gets its score, or an error that says what to do."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from inference.engine import LabelToken, Score, Usage, Writing
from inference.errors import EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.openai import EngineSettings, OpenAiEngine
from tests.inference.conftest import (
    SECONDS,
    Connect,
    Failures,
    Handler,
    Replay,
    ScriptedEngine,
    half_body,
    hang,
    hang_up,
    plain,
    recorded,
    reply,
)

LABELS = [LabelToken(" ok", 10907), LabelToken(" spam", 26804), LabelToken(" hate", 13735)]  # as recorded
MESSAGE = "Message: win a free prize now, click here!\nLabel:"
SHARES = [{"ok": 0.5, "spam": 0.25}, {"ok": 0.2, "spam": 0.3}, {"ok": 0.1, "spam": 0.1}, {"ok": 0.01, "spam": 0.04}]


def normalised(*logprobs: float) -> list[float]:
    weights = [math.exp(value) for value in logprobs]
    return [math.log(weight / sum(weights)) for weight in weights]


def tokens(server: ScriptedEngine) -> list[LabelToken]:
    return [server.token("ok"), server.token("spam")]


async def score_all(engine: OpenAiEngine, server: ScriptedEngine, prompts: list[str]) -> list[Score | BaseException]:
    async with asyncio.timeout(SECONDS):
        return await asyncio.gather(
            *(engine.score(plain(prompt), tokens(server)) for prompt in prompts), return_exceptions=True
        )


class TestConnect:
    async def test_takes_the_first_model_and_its_context(self, scripted: ScriptedEngine, connect: Connect) -> None:
        scripted.models["data"].append({"id": "second", "max_model_len": 9})
        engine = await connect(scripted)

        assert (engine.model, engine.context_tokens, engine.dialect) == ("scripted", 256, "vllm")

    @pytest.mark.parametrize(
        ("model", "context"),
        [
            ({"max_model_len": 4000}, 4000),
            ({"meta": {"n_ctx": 3000}}, 3000),
            ({"meta": None}, 2048),
            ({}, 2048),
        ],
    )
    async def test_finds_the_context_where_each_server_has_it(
        self, model: dict[str, Any], context: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models = {"data": [{"id": "a"}, {"id": "b", **model}]}
        engine = await connect(scripted, model="b")

        assert (engine.model, engine.context_tokens) == ("b", context)

    async def test_settings_win(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted, context_tokens=99, dialect="openai")

        assert (engine.context_tokens, engine.dialect) == (99, "openai")

    async def test_unknown_model_is_a_misconfiguration_that_names_the_valid_ones(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models["data"].append({"id": "alpha"})
        with pytest.raises(EngineMisconfigured, match=r"no model 'x'; it has: alpha, scripted \(WEIR_ENGINE_MODEL\)"):
            await connect(scripted, model="x")

    @pytest.mark.parametrize(
        "models", [{}, {"data": None}, {"data": []}, {"data": ["x"]}, {"data": [{"name": "x"}]}, {"data": {"a": 1}}, []]
    )
    async def test_server_without_models_is_not_ready_yet(
        self, models: Any, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        scripted.models = models
        with pytest.raises(EngineUnavailable, match=r"no model yet|unknown shape"):
            await connect(scripted)

    async def test_nobody_listening_is_unavailable(self, scripted: ScriptedEngine, connect: Connect) -> None:
        await scripted.down()
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await connect(scripted)


@pytest.mark.parametrize(
    ("handler", "error", "told"),
    [
        (reply(400, {"error": {"message": "unknown thing"}}), EngineMisconfigured, "unknown thing (WEIR_ENGINE_URL)"),
        (reply(405), EngineMisconfigured, "WEIR_ENGINE_URL"),
        (reply(401), EngineMisconfigured, "WEIR_ENGINE_API_KEY"),
        (reply(404), EngineMisconfigured, "WEIR_ENGINE_URL"),
        (reply(503), EngineUnavailable, "503"),
        (reply(200, b"<html>"), EngineUnavailable, "not JSON"),
    ],
)
async def test_connecting_to_what_is_no_engine_says_what_to_do(
    handler: Handler,
    error: type[Exception],
    told: str,
    scripted: ScriptedEngine,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scripted, "answer", lambda request, _: handler(request))

    with pytest.raises(error) as caught:
        await connect(scripted)
    assert told in str(caught.value)


class TestReady:
    async def test_tells_whether_the_server_answers(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted)

        assert await engine.ready() is None
        await scripted.down()
        assert "cannot be reached" in (await engine.ready() or "")
        await scripted.up()
        assert await engine.ready() is None


class TestTokenize:
    async def test_is_asked_of_the_server(self, scripted: ScriptedEngine, connect: Connect) -> None:
        assert await (await connect(scripted)).tokenize("Label: ok") == scripted.tokens("Label: ok")

    async def test_is_unknown_for_other_servers(self, scripted: ScriptedEngine, connect: Connect) -> None:
        assert await (await connect(scripted, dialect="openai")).tokenize("ok") is None

    @pytest.mark.parametrize("handler", [reply(503), reply(200, {}), reply(200, {"tokens": None}), reply(200, b"x")])
    async def test_waits_for_an_answer_that_can_be_read(
        self, handler: Handler, scripted: ScriptedEngine, connect: Connect, failures: Failures
    ) -> None:
        engine = await connect(scripted)
        scripted.tokenizer.append(handler)

        assert await engine.tokenize("ok") == scripted.tokens("ok")
        assert "/tokenize" in await failures.next()


class TestScore:
    @pytest.mark.parametrize(
        ("handler", "told"),
        [
            (reply(503), "503"),
            (reply(500, {"error": {"message": "out of memory"}}), "out of memory"),
            (reply(429, {"error": "slow down"}), "slow down"),
            (reply(408), "408"),
            (reply(409), "409"),
            (reply(425), "425"),
            (reply(200, b"<html>"), "not JSON"),
            (reply(200, b""), "not JSON"),
            (reply(200, [1]), "unknown shape"),
            (reply(200, {}), "WEIR_ENGINE_DIALECT"),
            (reply(200, {"choices": None}), "WEIR_ENGINE_DIALECT"),
            (reply(200, {"choices": [{"index": 0, "text": "x", "logprobs": None}]}), "WEIR_ENGINE_DIALECT"),
            (reply(200, {"choices": [], "usage": []}), "answered 0 of 1 prompts"),
            (half_body, "cannot be reached"),
            (hang_up, "cannot be reached"),
        ],
    )
    async def test_waits_until_the_engine_answers(
        self, handler: Handler, told: str, scripted: ScriptedEngine, connect: Connect, failures: Failures
    ) -> None:
        engine = await connect(scripted)
        scripted.probabilities = lambda _: SHARES[0]
        scripted.script.extend([handler, handler])

        score = await engine.score(plain("hello"), tokens(scripted))

        assert list(score.logprobs) == pytest.approx(normalised(math.log(0.5), math.log(0.25)))
        assert told in await failures.next()
        assert told in await failures.next()
        assert len(scripted.asked) == 3

    async def test_labels_far_out_of_the_models_mind_are_normalised_too(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        top = {f"token_id:{token.id}": -9999.0 for token in tokens(scripted)}
        choice = {**scripted.choice(0, "hello", []), "logprobs": {"top_logprobs": [top]}}
        scripted.script.append(reply(200, {"choices": [choice]}))

        score = await engine.score(plain("hello"), tokens(scripted))

        assert list(score.logprobs) == pytest.approx([math.log(0.5), math.log(0.5)])

    async def test_gives_up_on_a_request_that_hangs_and_asks_again(
        self, scripted: ScriptedEngine, connect: Connect, failures: Failures
    ) -> None:
        engine = await connect(scripted, timeout=0.2)
        scripted.script.append(hang)

        async with asyncio.timeout(SECONDS):
            assert isinstance(await engine.score(plain("hello"), tokens(scripted)), Score)
        assert "cannot be reached" in await failures.next()

    @pytest.mark.parametrize("status", [400, 413, 422])
    async def test_rejected_prompt_is_not_asked_again(
        self, status: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        scripted.script.append(reply(status, {"error": {"message": "too long", "code": status}}))

        with pytest.raises(PromptRejected, match=f"/v1/completions answered {status}: too long$"):
            await engine.score(plain("hello"), tokens(scripted))
        assert len(scripted.asked) == 1

    @pytest.mark.parametrize(
        ("status", "setting"), [(401, "WEIR_ENGINE_API_KEY"), (403, "WEIR_ENGINE_API_KEY"), (404, "WEIR_ENGINE_MODEL")]
    )
    async def test_misconfiguration_names_the_setting(
        self, status: int, setting: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        scripted.script.append(reply(status, {"detail": "no"}))

        with pytest.raises(EngineMisconfigured, match=rf"answered {status}: no \(.*{setting}\)"):
            await engine.score(plain("hello"), tokens(scripted))
        assert len(scripted.asked) == 1

    async def test_asks_for_one_token_without_chance(self, scripted: ScriptedEngine, connect: Connect) -> None:
        await (await connect(scripted)).score(plain("hello"), tokens(scripted))

        asked = {"model": "scripted", "prompt": "hello", "max_tokens": 1, "temperature": 0}
        assert asked.items() <= scripted.asked[0].items()

    async def test_needs_a_connection(self, scripted: ScriptedEngine) -> None:
        engine = OpenAiEngine(EngineSettings(scripted.url))

        with pytest.raises(RuntimeError, match=r"open\(\) first"):
            await engine.score(plain("hello"), tokens(scripted))


class TestBatches:
    @pytest.fixture
    def told_apart(self, scripted: ScriptedEngine) -> ScriptedEngine:
        """Prompt "3" is answered with the third of SHARES, and so on."""
        scripted.probabilities = lambda message: SHARES[int(message) % len(SHARES)]
        return scripted

    def check(self, scores: Mapping[str, Score | BaseException]) -> None:
        for prompt, score in scores.items():
            assert isinstance(score, Score)
            share = SHARES[int(prompt) % len(SHARES)]
            assert list(score.logprobs) == pytest.approx(normalised(math.log(share["ok"]), math.log(share["spam"])))

    async def test_each_caller_gets_its_own_score(self, told_apart: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(told_apart, prompts_in_flight=6, prompts_per_request=3)
        told_apart.together = asyncio.Barrier(2)
        prompts = [str(number) for number in range(30)]

        self.check(dict(zip(prompts, await score_all(engine, told_apart, prompts), strict=True)))
        assert sorted(told_apart.prompts, key=int) == prompts
        assert told_apart.most_in_flight == 2
        assert max(len(body["prompt"]) for body in told_apart.asked) == 3

    async def test_answers_out_of_order_are_put_right(self, told_apart: ScriptedEngine, connect: Connect) -> None:
        complete = told_apart.complete

        def reversed_(body: Mapping[str, Any]) -> Any:
            answer = json.loads(complete(body).text or "")
            return {**answer, "choices": answer["choices"][::-1]}

        async def handler(request: Any) -> Any:
            return await reply(200, reversed_(await request.json()))(request)

        engine = await connect(told_apart, prompts_per_request=4, linger=SECONDS)
        told_apart.script.append(handler)
        prompts = [str(number) for number in range(4)]

        self.check(dict(zip(prompts, await score_all(engine, told_apart, prompts), strict=True)))

    @pytest.mark.parametrize(("dialect", "size"), [("vllm", 16), ("llamacpp", 1), ("openai", 1), ("votes", 1)])
    async def test_carry_as_many_prompts_as_the_dialect_accounts_for(
        self, dialect: str, size: int, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted, dialect=dialect)
        scripted.script.extend([reply(400)] * 40)

        await score_all(engine, scripted, ["0"] * 40)

        assert max(1 if isinstance(body["prompt"], str) else len(body["prompt"]) for body in scripted.asked) == size

    async def test_rejected_prompts_do_not_take_others_with_them(
        self, told_apart: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(told_apart, prompts_in_flight=8, prompts_per_request=8)
        prompts = [str(number) for number in range(12)]
        prompts[3] = prompts[7] = "1 " * 300

        scores = await score_all(engine, told_apart, prompts)

        assert [number for number, score in enumerate(scores) if isinstance(score, PromptRejected)] == [3, 7]
        self.check({prompt: score for prompt, score in zip(prompts, scores, strict=True) if len(prompt) < 9})
        assert told_apart.most_in_flight == 1

    async def test_misconfiguration_reaches_every_prompt_of_the_request(
        self, told_apart: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(told_apart, prompts_in_flight=2, prompts_per_request=2, linger=SECONDS)
        told_apart.script.extend([reply(200, {"choices": None}), reply(401)])

        scores = await score_all(engine, told_apart, ["0", "1", "2", "3"])

        assert [type(score) for score in scores[:2]] == [EngineMisconfigured] * 2
        self.check({"2": scores[2], "3": scores[3]})

    async def test_answer_for_fewer_prompts_is_asked_for_again(
        self, told_apart: ScriptedEngine, connect: Connect, failures: Failures
    ) -> None:
        engine = await connect(told_apart, prompts_per_request=2, linger=SECONDS)
        choice = told_apart.choice(0, "0", [token.id or 0 for token in tokens(told_apart)])
        told_apart.script.append(reply(200, {"choices": [choice]}))
        prompts = ["0", "1"]

        self.check(dict(zip(prompts, await score_all(engine, told_apart, prompts), strict=True)))
        assert (
            "answered 1 of 2 prompts; if this goes on, set WEIR_ENGINE_PROMPTS_PER_REQUEST=1" in await failures.next()
        )


class TestGenerate:
    async def test_text_and_tokens_come_back(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted)
        scripted.writes = lambda prompt: f"{prompt} and more words"

        whole = await engine.generate(plain("some"), Writing(9))
        cut = await engine.generate(plain("some"), Writing(2))

        assert (whole.text, whole.finished, whole.usage) == ("some and more words", True, Usage(1, 4))
        assert [token.text for token in whole.tokens] == ["some", " and", " more", " words"]
        assert (cut.text, cut.finished, cut.usage) == ("some and", False, Usage(1, 2))

    async def test_each_text_has_a_request_of_its_own(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted, linger=SECONDS)
        prompts = [plain(str(number)) for number in range(20)]

        async with asyncio.timeout(SECONDS / 2):
            await asyncio.gather(*(engine.generate(prompt, Writing(2)) for prompt in prompts))

        assert sorted(body["prompt"] for body in scripted.asked) == sorted(prompt.own for prompt in prompts)

    @pytest.mark.parametrize("handler", [reply(503), reply(200, {}), reply(200, {"choices": []}), half_body])
    async def test_waits_until_the_engine_answers(
        self, handler: Handler, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        scripted.writes = lambda _: "words"
        scripted.script.append(handler)

        assert (await engine.generate(plain("hello"), Writing(9))).text == "words"
        assert len(scripted.asked) == 2

    async def test_rejected_prompt_is_not_asked_again(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted)
        scripted.script.append(reply(400, {"error": "too long"}))

        with pytest.raises(PromptRejected, match="too long"):
            await engine.generate(plain("hello"), Writing(9))
        assert len(scripted.asked) == 1


class TestDetection:
    """Of servers that do not say by their models what they are."""

    @pytest.fixture
    def unknown(self, scripted: ScriptedEngine) -> ScriptedEngine:
        scripted.models["data"][0]["owned_by"] = "someone"
        return scripted

    async def test_server_that_tells_probabilities_is_asked_for_them(
        self, unknown: ScriptedEngine, connect: Connect
    ) -> None:
        assert (await connect(unknown)).dialect == "openai"

    @pytest.mark.parametrize("handler", [reply(200, {"choices": [{"text": "x", "logprobs": None}]}), reply(400)])
    async def test_answers_are_counted_where_it_does_not(
        self, handler: Handler, unknown: ScriptedEngine, connect: Connect
    ) -> None:
        unknown.script.append(handler)

        assert (await connect(unknown)).dialect == "votes"

    @pytest.mark.parametrize("handler", [reply(503), reply(200, {"choices": []}), reply(200, {})])
    async def test_server_that_fails_is_not_ready_yet(
        self, handler: Handler, unknown: ScriptedEngine, connect: Connect
    ) -> None:
        unknown.script.append(handler)

        with pytest.raises(EngineUnavailable):
            await connect(unknown)

    async def test_settings_save_the_question(self, unknown: ScriptedEngine, connect: Connect) -> None:
        await connect(unknown, dialect="votes")

        assert unknown.asked == []


class TestLimit:
    async def test_shrinks_when_the_engine_refuses(self, scripted: ScriptedEngine) -> None:
        limits: list[int] = []
        settings = EngineSettings(scripted.url, backoff_seconds=0.001)
        engine = OpenAiEngine(settings, on_limit=limits.append)
        await engine.connect()
        start = limits[-1]
        scripted.script.append(reply(429))
        await engine.score(plain("hello"), tokens(scripted))
        await engine.close()

        assert limits[-1] < start

    async def test_grows_while_the_engine_says_that_nothing_waits_there(self, scripted: ScriptedEngine) -> None:
        start = 16  # what a new engine begins with where a request carries several
        scripted.load = (16.0, 0.0)
        grown = asyncio.Event()

        async def after_growth(request: Any) -> Any:
            await grown.wait()
            return scripted.complete(await request.json())

        scripted.script.append(after_growth)
        engine = OpenAiEngine(
            EngineSettings(scripted.url), on_limit=lambda limit: grown.set() if limit > start else None
        )
        await engine.connect()
        scores = await score_all(engine, scripted, [str(number) for number in range(40)])
        await engine.close()

        assert all(isinstance(score, Score) for score in scores)


async def test_prompts_that_share_a_request_share_its_time_by_length(
    scripted: ScriptedEngine, connect: Connect
) -> None:
    engine = await connect(scripted, prompts_per_request=2, linger=SECONDS)
    short, long = await asyncio.gather(*(engine.score(plain(text), tokens(scripted)) for text in ("a", "word " * 100)))

    assert short.seconds == long.seconds
    assert 0 < short.engine_seconds < long.engine_seconds / 3
    assert short.engine_seconds + long.engine_seconds == pytest.approx(engine.meter.busy_seconds, rel=1e-6)


async def test_time_of_failed_attempts_is_the_engines_too(scripted: ScriptedEngine, connect: Connect) -> None:
    engine = await connect(scripted)
    scripted.script.append(reply(500))
    score = await engine.score(plain("hello"), tokens(scripted))

    assert engine.meter.busy_seconds > score.engine_seconds > 0
    assert engine.meter.open_seconds == 0


class TestClose:
    async def test_fails_those_that_wait(self, scripted: ScriptedEngine, connect: Connect, failures: Failures) -> None:
        engine = await connect(scripted, prompts_in_flight=2, prompts_per_request=1)
        await scripted.down()
        callers = [asyncio.create_task(engine.score(plain("hello"), tokens(scripted))) for _ in range(5)]
        await failures.next()

        await engine.close()

        async with asyncio.timeout(SECONDS):
            outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 5

    async def test_fails_those_that_are_being_answered(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted)
        arrived = asyncio.Event()

        async def arrive(request: Any) -> Any:
            arrived.set()
            return await hang(request)

        scripted.script.append(arrive)
        caller = asyncio.create_task(engine.score(plain("hello"), tokens(scripted)))
        async with asyncio.timeout(SECONDS):
            await arrived.wait()
            await engine.close()
            with pytest.raises(asyncio.CancelledError):
                await caller

    async def test_twice_is_fine(self, scripted: ScriptedEngine, connect: Connect) -> None:
        engine = await connect(scripted)
        await engine.close()
        await engine.close()

    async def test_before_connect_is_fine(self, scripted: ScriptedEngine) -> None:
        await OpenAiEngine(EngineSettings(scripted.url)).close()


class TestRecordedVllm:
    """The whole engine against what a real vLLM 0.32.0 answered to the very same requests."""

    @pytest.fixture
    async def replay(self) -> AsyncIterator[Replay]:
        names = ["one_prompt", "two_prompts", "one_prompt_cached", "over_long", "one_of_two_over_long"]
        async with Replay("models", "tokenize", *names) as server:
            yield server

    async def test_connects(self, replay: Replay, connect: Connect) -> None:
        engine = await connect(replay)

        assert (engine.model, engine.context_tokens, engine.dialect) == ("smollm2", 2048, "vllm")

    async def test_tokenizes(self, replay: Replay, connect: Connect) -> None:
        assert await (await connect(replay)).tokenize(" ok") == [10907]

    async def test_scores_one_prompt(self, replay: Replay, connect: Connect) -> None:
        score = await (await connect(replay)).score(plain(MESSAGE), LABELS)

        assert list(score.logprobs) == pytest.approx(
            normalised(-8.99481201171875, -8.27606201171875, -9.74481201171875)
        )
        assert score.usage == Usage(14, 1, 0)
        assert score.seconds > 0

    async def test_counts_cached_tokens(self, replay: Replay, connect: Connect) -> None:
        prompt = recorded("one_prompt_cached")["request"]["body"]["prompt"]

        assert (await (await connect(replay)).score(plain(prompt), LABELS)).usage == Usage(143, 1, 128)

    async def test_scores_two_prompts_of_one_request(self, replay: Replay, connect: Connect) -> None:
        engine = await connect(replay, prompts_per_request=2, linger=SECONDS)
        first, second = recorded("two_prompts")["request"]["body"]["prompt"]

        scores = await asyncio.gather(*(engine.score(plain(prompt), LABELS) for prompt in (first, second)))

        assert [body["prompt"] for body in replay.asked] == [[first, second]]
        assert list(scores[0].logprobs) == pytest.approx(
            normalised(-8.99481201171875, -8.27606201171875, -9.74481201171875)
        )
        assert list(scores[1].logprobs) == pytest.approx(
            normalised(-8.52566146850586, -10.33816146850586, -10.52566146850586)
        )
        assert [score.usage for score in scores] == [Usage(14, 1), Usage(10, 1)]

    async def test_over_long_prompt_is_rejected_alone(self, replay: Replay, connect: Connect) -> None:
        engine = await connect(replay, prompts_per_request=2, linger=SECONDS)
        good, over_long = recorded("one_of_two_over_long")["request"]["body"]["prompt"]

        scores = await asyncio.gather(
            *(engine.score(plain(prompt), LABELS) for prompt in (good, over_long)), return_exceptions=True
        )

        assert [body["prompt"] for body in replay.asked] == [[good, over_long], good, over_long]
        assert isinstance(scores[0], Score)
        assert isinstance(scores[1], PromptRejected)
        assert "maximum context length is 2048 tokens" in str(scores[1])

    async def test_model_that_went_away_is_a_misconfiguration_that_names_the_valid_ones(
        self, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        engine = await connect(scripted)
        gone = recorded("unknown_model")
        scripted.script.append(reply(gone["status"], gone["answer"]))

        with pytest.raises(EngineMisconfigured, match="Valid aliases: smollm2"):
            await engine.score(plain("hello"), tokens(scripted))

    async def test_wrong_key_is_a_misconfiguration(self, connect: Connect) -> None:
        async with Replay("unauthorized") as server:
            with pytest.raises(EngineMisconfigured, match=r"401: Unauthorized \(WEIR_ENGINE_API_KEY\)"):
                await connect(server, api_key="wrong")
