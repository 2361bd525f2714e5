"""What `inference.engine.Engine` promises, against real engines.

llama.cpp always, as it is and as a server that tells no log-probabilities. vLLM where WEIR_TEST_VLLM_URL names one.
"""

import asyncio
import itertools
import json
import math
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from deploy.embedded.engine import CONTEXT_TOKENS, NAME, LlamaEngine
from inference.engine import Completion, LabelToken, Score, Writing
from inference.errors import EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.openai import OpenAiEngine
from tests.inference.conftest import SECONDS, Connect, Failures, NoLogprobs, Relay, plain

VLLM_URL = "WEIR_TEST_VLLM_URL"
WORDS = ("red", "blue", "green", "cat")
SAME = 1e-3
CLOSE = 0.5  # how far apart two evaluations of a prompt may be: how much comes from the cache changes the rounding


WITH_LOGPROBS = ["llama.cpp", "vLLM"]
WITHOUT_LOGPROBS = ["no log-probabilities"]
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer", "maximum": 150}, "mood": {"enum": ["happy", "sad"]}},
    "required": ["age", "mood"],
    "additionalProperties": False,
}

with_logprobs = pytest.mark.parametrize("url", WITH_LOGPROBS, indirect=True)


@pytest.fixture(params=WITH_LOGPROBS + WITHOUT_LOGPROBS)
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "vLLM":
        if not os.environ.get(VLLM_URL):
            pytest.skip(f"{VLLM_URL} is not set: no vLLM to test against")
        yield os.environ[VLLM_URL]
        return
    llama = str(request.getfixturevalue("llama").url)
    if request.param == "llama.cpp":
        yield llama
        return
    async with NoLogprobs(llama) as server:
        yield server.url


@pytest.fixture
async def relay(url: str) -> AsyncIterator[Relay]:
    async with Relay(url) as relay:
        yield relay


async def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the server itself."""
    method = "GET" if body is None else "POST"
    async with aiohttp.ClientSession(url) as session, session.request(method, path, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def labels_of(engine: OpenAiEngine, words: tuple[str, ...] = WORDS) -> list[LabelToken]:
    labels = []
    for word in words:
        tokens = await engine.tokenize(f" {word}")
        assert tokens is None or len(tokens) == 1
        labels.append(LabelToken(f" {word}", tokens[0] if tokens else None))
    return labels


def copy(word: str) -> str:
    """A prompt after which a model that can copy says `word`."""
    return f"say sun sun\nsay tree tree\nsay house house\nsay {word}"


def apart(one: Score, other: Score) -> float:
    return max(abs(a - b) for a, b in zip(one.logprobs, other.logprobs, strict=True))


async def test_connect_names_model_and_context(url: str, connect: Connect) -> None:
    engine = await connect(url)

    models = await ask(url, "/v1/models")
    assert engine.model == models["data"][0]["id"]
    if engine.model == NAME:
        assert engine.context_tokens == CONTEXT_TOKENS
    else:
        assert engine.context_tokens == models["data"][0]["max_model_len"]


async def test_engine_is_ready(url: str, connect: Connect) -> None:
    assert await (await connect(url)).ready() is None


@with_logprobs
async def test_label_words_are_single_tokens(url: str, connect: Connect) -> None:
    engine = await connect(url)

    assert len(await engine.tokenize(" ok") or []) == 1
    assert len(await engine.tokenize(" ok ok") or []) == 2
    assert await engine.tokenize("") == []


async def test_scores_are_normalised_and_in_the_order_of_the_labels(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)

    scores = {word: await engine.score(plain(copy(word)), labels) for word in WORDS}
    turned = await engine.score(plain(copy("red")), labels[::-1])

    for place, (_, score) in enumerate(scores.items()):
        assert sum(map(math.exp, score.logprobs)) == pytest.approx(1)
        assert max(score.logprobs) == score.logprobs[place], "a model that can copy answers with the word it read"
    again = await engine.score(plain(copy("red")), labels)
    assert turned.logprobs[::-1] == pytest.approx(again.logprobs, abs=SAME)


@with_logprobs
async def test_scores_are_the_models_own_probabilities(url: str, connect: Connect) -> None:
    engine = await connect(url)
    await engine.score(plain(copy("red")), await labels_of(engine))  # from now on it comes from the cache
    body = {"model": engine.model, "prompt": copy("red"), "max_tokens": 1, "temperature": 0, "logprobs": 5}
    answer = await ask(url, "/v1/completions", {**body, "return_tokens_as_token_ids": True})
    logprobs = answer["choices"][0]["logprobs"]
    if engine.dialect == "llamacpp":
        top = {int(token["id"]): token["logprob"] for token in logprobs["content"][0]["top_logprobs"]}
    else:
        top = {int(name.removeprefix("token_id:")): value for name, value in logprobs["top_logprobs"][0].items()}

    score = await engine.score(plain(copy("red")), [LabelToken("", token) for token in top])

    total = math.log(sum(map(math.exp, top.values())))
    assert score.logprobs == pytest.approx([value - total for value in top.values()], abs=SAME)


@with_logprobs
async def test_prompt_tokens_are_counted(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)
    prompts = [f"{uuid.uuid4()} and so on", f"{uuid.uuid4()} the quick brown fox\njumps"]

    counted = [len(await engine.tokenize(prompt) or []) for prompt in prompts]
    usages = [(await engine.score(plain(prompt), labels)).usage for prompt in prompts]

    start = usages[0].input_tokens - counted[0]
    assert start in (0, 1), "a server may put one token of its own before each prompt"
    assert usages[1].input_tokens == counted[1] + start
    assert [usage.output_tokens for usage in usages] == [1, 1]


@with_logprobs
async def test_cached_tokens_are_counted_the_second_time(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)
    prompt = " ".join(str(uuid.uuid4()) for _ in range(6))  # longer than a block of any engine's cache

    first, second = [await engine.score(plain(prompt), labels) for _ in range(2)]

    assert first.usage.cached_tokens < first.usage.input_tokens / 2
    assert second.usage.input_tokens / 2 < second.usage.cached_tokens < second.usage.input_tokens
    assert second.usage.input_tokens == first.usage.input_tokens
    assert apart(first, second) < CLOSE


@with_logprobs
async def test_same_prompt_has_the_same_scores(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)

    first, second, third = [await engine.score(plain(copy("blue")), labels) for _ in range(3)]

    assert apart(second, third) < SAME
    assert apart(first, second) < CLOSE


@with_logprobs
async def test_concurrent_scores_reach_their_callers(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)
    alone = {word: await engine.score(plain(copy(word)), labels) for word in WORDS}
    assert all(apart(one, other) > 4 * CLOSE for one, other in itertools.combinations(alone.values(), 2))

    asked = [*WORDS, *WORDS[::-1]] * 3
    scores = await asyncio.gather(*(engine.score(plain(copy(word)), labels) for word in asked))

    assert all(apart(score, alone[word]) < CLOSE for word, score in zip(asked, scores, strict=True))


@with_logprobs
async def test_scores_of_different_labels_do_not_mix(url: str, connect: Connect) -> None:
    engine = await connect(url, prompts_in_flight=8)
    sets = [await labels_of(engine, WORDS[:2]), await labels_of(engine, WORDS), await labels_of(engine, WORDS[1:])]
    alone = [await engine.score(plain(copy("cat")), labels) for labels in sets]

    scores = await asyncio.gather(*(engine.score(plain(copy("cat")), labels) for labels in sets * 2))

    assert all(apart(score, reference) < CLOSE for score, reference in zip(scores, alone * 2, strict=True))


@with_logprobs
async def test_over_long_prompt_is_rejected_and_disturbs_no_other(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)
    alone = {word: await engine.score(plain(copy(word)), labels) for word in WORDS}
    over_long = " ok" * engine.context_tokens
    assert len(await engine.tokenize(over_long) or []) == engine.context_tokens

    prompts = [*map(copy, WORDS), over_long, *map(copy, WORDS)]
    scores = await asyncio.gather(*(engine.score(plain(prompt), labels) for prompt in prompts), return_exceptions=True)

    assert isinstance(scores.pop(len(WORDS)), PromptRejected)
    for word, score in zip([*WORDS, *WORDS], scores, strict=True):
        assert isinstance(score, Score)
        assert apart(score, alone[word]) < CLOSE


async def test_source_of_the_probabilities_is_told(url: str, connect: Connect) -> None:
    engine = await connect(url)
    score = await engine.score(plain(copy("red")), await labels_of(engine))

    assert score.source == ("votes" if engine.dialect == "votes" else "logprobs")


async def test_time_of_the_engine_is_told(url: str, connect: Connect) -> None:
    engine = await connect(url)
    labels = await labels_of(engine)

    scores = await asyncio.gather(*(engine.score(plain(copy(word)), labels) for word in WORDS))
    completion = await engine.generate(plain(copy("red")), Writing(2))

    for answer in (*scores, completion):
        assert 0 < answer.engine_seconds <= answer.seconds
    shares = sum(answer.engine_seconds for answer in (*scores, completion))
    assert shares == pytest.approx(engine.meter.busy_seconds, rel=1e-6)


class TestNoLogprobs:
    """What is different where answers are counted."""

    @pytest.fixture
    async def server(self, llama: LlamaEngine) -> AsyncIterator[NoLogprobs]:
        async with NoLogprobs(llama.url) as server:
            yield server

    async def test_is_found_out(self, server: NoLogprobs, connect: Connect) -> None:
        engine = await connect(server)

        assert (engine.dialect, engine.model) == ("votes", NAME)
        assert await engine.tokenize(" ok") is None

    async def test_all_answers_are_counted_as_usage(self, server: NoLogprobs, connect: Connect) -> None:
        engine = await connect(server)
        usage = (await engine.score(plain(copy("red")), await labels_of(engine))).usage

        told = server.usage[-1]
        assert (usage.input_tokens, usage.output_tokens) == (told["prompt_tokens"], told["completion_tokens"])
        assert usage.output_tokens >= server.asked[-1]["n"] > 1

    async def test_probabilities_are_shares_of_the_answers(self, server: NoLogprobs, connect: Connect) -> None:
        engine = await connect(server)
        score = await engine.score(plain(copy("red")), await labels_of(engine))

        shares = [math.exp(value) for value in score.logprobs]
        assert sum(shares) == pytest.approx(1)
        assert all(share > 0 for share in shares), "nothing is impossible after so few answers"

    async def test_rejection_reaches_the_caller(self, server: NoLogprobs, connect: Connect) -> None:
        engine = await connect(server)

        with pytest.raises(PromptRejected):
            await engine.score(plain(" ok" * engine.context_tokens), await labels_of(engine))


class TestGenerate:
    async def test_text_follows_the_schema(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        prompt = plain("A happy man of 41 years, as JSON with age and mood:\n")
        answer = await engine.generate(prompt, Writing(100, json.dumps(PERSON)))

        person = json.loads(answer.text)
        assert answer.finished
        assert list(person) == ["age", "mood"]
        assert isinstance(person["age"], int)
        assert person["mood"] in ("happy", "sad")

    async def test_text_is_cut_at_the_limit(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        short, long = [await engine.generate(plain("one, two, three,"), Writing(tokens)) for tokens in (3, 9)]

        assert [short.finished, long.finished] == [False, False]
        assert [short.usage.output_tokens, long.usage.output_tokens] == [3, 9]
        assert long.text.startswith(short.text)
        assert short.text.strip()

    @with_logprobs
    async def test_tokens_make_up_the_text(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        free = await engine.generate(plain("one, two, three,"), Writing(12))
        held = await engine.generate(plain("A person as JSON:\n"), Writing(100, json.dumps(PERSON)))

        assert len(free.tokens) == 12
        for answer in (free, held):
            assert "".join(token.text for token in answer.tokens) == answer.text
            assert all(token.logprob <= 0 for token in answer.tokens)
        assert any(token.logprob < -0.01 for token in free.tokens)

    @with_logprobs
    async def test_probabilities_are_the_models_own(self, url: str, connect: Connect) -> None:
        """What is told of a token is what the server itself tells of it."""
        engine = await connect(url)
        prompt = plain(copy("red"))
        first = (await engine.generate(prompt, Writing(1))).tokens[0]
        (token,) = await engine.tokenize(first.text) or []
        body = {"model": engine.model, "prompt": prompt.text, "max_tokens": 1, "temperature": 0, "logprobs": 2}
        answer = await ask(url, "/v1/completions", {**body, "return_tokens_as_token_ids": True})
        logprobs = answer["choices"][0]["logprobs"]
        if engine.dialect == "llamacpp":
            top = {int(each["id"]): each["logprob"] for each in logprobs["content"][0]["top_logprobs"]}
        else:
            top = {int(name.removeprefix("token_id:")): value for name, value in logprobs["top_logprobs"][0].items()}

        assert first.logprob == pytest.approx(top[token], abs=CLOSE / 10)

    async def test_text_ends_before_a_stop(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        prompt = plain(copy("red"))
        whole = await engine.generate(prompt, Writing(12))
        stopped = await engine.generate(prompt, Writing(12, stop=("\n",)))

        assert "\n" in whole.text, "a model that can copy goes on with the next line"
        assert stopped.text == whole.text.partition("\n")[0]
        assert stopped.finished
        assert not whole.finished

    async def test_scores_and_texts_at_once_do_not_mix(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        labels = await labels_of(engine)
        prompts = {word: plain(copy(word)) for word in WORDS}
        alone = {word: await engine.generate(prompt, Writing(2)) for word, prompt in prompts.items()}

        texts = [engine.generate(prompt, Writing(2)) for prompt in prompts.values()]
        answers = await asyncio.gather(*texts, *(engine.score(prompt, labels) for prompt in prompts.values()))

        for place, word in enumerate(WORDS):
            text, score = answers[place], answers[place + len(WORDS)]
            assert isinstance(text, Completion)
            assert isinstance(score, Score)
            assert text.text == alone[word].text
            assert max(score.logprobs) == score.logprobs[place]

    async def test_over_long_prompt_is_rejected(self, url: str, connect: Connect) -> None:
        engine = await connect(url)

        with pytest.raises(PromptRejected):
            await engine.generate(plain(" ok" * engine.context_tokens), Writing(1))

    async def test_usage_is_counted(self, url: str, connect: Connect) -> None:
        engine = await connect(url)
        prompts = ["one two", "one two three four five"]
        usages = [(await engine.generate(plain(prompt), Writing(2))).usage for prompt in prompts]

        assert usages[1].input_tokens - usages[0].input_tokens == 3
        assert [usage.output_tokens for usage in usages] == [2, 2]


async def test_unknown_model_is_a_misconfiguration_that_names_the_valid_ones(url: str, connect: Connect) -> None:
    model = (await connect(url)).model
    with pytest.raises(EngineMisconfigured) as caught:
        await connect(url, model="no-such-model")
    assert "'no-such-model'" in str(caught.value)
    assert model in str(caught.value)


@with_logprobs
async def test_call_waits_while_connections_are_refused(relay: Relay, connect: Connect, failures: Failures) -> None:
    engine = await connect(relay)
    labels = await labels_of(engine)
    await relay.down()
    score = asyncio.create_task(engine.score(plain(copy("red")), labels))
    tokens = asyncio.create_task(engine.tokenize(" ok"))
    assert "cannot be reached" in await failures.next()
    assert "cannot be reached" in await failures.next()
    assert "cannot be reached" in (await engine.ready() or "")
    with pytest.raises(EngineUnavailable):
        await connect(relay)

    await relay.up()

    async with asyncio.timeout(SECONDS):
        assert isinstance(await score, Score)
        assert len(await tokens or []) == 1
        assert await engine.ready() is None


async def test_close_fails_callers_that_wait(relay: Relay, connect: Connect, failures: Failures) -> None:
    engine = await connect(relay, prompts_in_flight=1, prompts_per_request=1)
    labels = await labels_of(engine)
    await relay.down()
    callers = [asyncio.create_task(engine.score(plain(copy(word)), labels)) for word in WORDS]
    await failures.next()

    await engine.close()

    async with asyncio.timeout(SECONDS):
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * len(WORDS)
