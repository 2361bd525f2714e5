"""Many prompts in one request: each gets its own answer, and what they cost is what the server counted."""

import asyncio
import math
import uuid
from collections.abc import AsyncIterator

import pytest

from inference.dialects import Vllm
from inference.engine import LabelToken, Prompt, Score
from inference.openai import OpenAiEngine
from tests.inference.conftest import Connect, Relay
from tests.vllm.conftest import Server

WORDS = ["red", "blue", "green", "cat", "dog", "fish", "bird", "milk"]
WORDS += ["bread", "gold", "king", "snow", "fire", "moon", "star", "rain"]
SHARED = "say sun sun\nsay tree tree\nsay house house\n"
CLOSE = 0.5  # how far apart two evaluations of a prompt may be: what shares a step with it changes the rounding


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    async with Relay(server.url) as relay:
        yield relay


async def labels_of(engine: OpenAiEngine) -> list[LabelToken]:
    labels = []
    for word in WORDS:
        (token,) = await engine.tokenize(f" {word}") or []
        labels.append(LabelToken(f" {word}", token))
    return labels


async def ask(engine: OpenAiEngine, labels: list[LabelToken]) -> list[Score]:
    """Scores of prompts after which a model that can copy says one label after the other."""
    return await asyncio.gather(*(engine.score(Prompt(SHARED, f"say {word}"), labels) for word in WORDS))


async def test_each_prompt_of_a_request_gets_its_own_scores(relay: Relay, connect: Connect) -> None:
    assert len(WORDS) == Vllm().prompts_per_request
    alone = await connect(relay, prompts_per_request=1)
    together = await connect(relay, linger=60)
    labels = await labels_of(alone)
    expected = await ask(alone, labels)
    relay.asked.clear()

    scores = await ask(together, labels)

    assert [len(body["prompt"]) for body in relay.asked] == [len(WORDS)], "all prompts came in one request"
    for place, (score, reference) in enumerate(zip(scores, expected, strict=True)):
        assert max(score.logprobs) == score.logprobs[place], "the model says the word that it read"
        assert math.isclose(sum(map(math.exp, score.logprobs)), 1)
        assert score.logprobs == pytest.approx(reference.logprobs, abs=CLOSE)


async def test_usage_is_what_the_server_counted(server: Server, connect: Connect) -> None:
    engine = await connect(server.url)
    labels = await labels_of(engine)
    shared = " ".join(str(uuid.uuid4()) for _ in range(16))  # longer than a few blocks of the cache
    await engine.score(Prompt(shared, ""), labels)  # from now on it comes from the cache
    names = ("prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total")
    before = [await server.metric(name) for name in names]

    scores = await asyncio.gather(*(engine.score(Prompt(shared, f"\nsay {word}"), labels) for word in WORDS * 3))

    await server.until_idle()
    counted = [await server.metric(name) - start for name, start in zip(names, before, strict=True)]
    usages = [score.usage for score in scores]
    assert sum(usage.input_tokens for usage in usages) == counted[0]
    assert sum(usage.cached_tokens for usage in usages) == counted[1] > counted[0] / 2
    assert sum(usage.output_tokens for usage in usages) == counted[2] == len(scores)
