"""A server that has too much to do says 503; Weir waits, and every prompt is answered."""

import asyncio

from inference.engine import LabelToken, Prompt, Score
from inference.openai import OpenAiEngine
from tests.inference.conftest import Connect, Failures
from tests.vllm.conftest import OtherClient, Server

REFUSED = {"reason": "max_num_queued_reqs"}


async def ask(engine: OpenAiEngine, prompts: int) -> list[Score]:
    (label,) = await engine.tokenize(" ok") or []
    labels = [LabelToken(" ok", label)]
    return await asyncio.gather(*(engine.score(Prompt("Is this right? ", f"{n}"), labels) for n in range(prompts)))


async def test_prompts_that_are_refused_are_answered_later(
    server: Server, other: OtherClient, connect: Connect, failures: Failures
) -> None:
    await other.send(server.queued_reqs)
    engine = await connect(server.url, backoff_seconds=0.05, pause_seconds=0.05)
    asked = asyncio.create_task(ask(engine, 2 * server.queued_reqs))
    for _ in range(3):
        assert "answered 503" in await failures.next()
    assert await server.metric("admission_rejections_total", **REFUSED) >= 3

    await other.hang_up()

    assert len(await asked) == 2 * server.queued_reqs


async def test_request_is_refused_as_a_whole(server: Server, other: OtherClient) -> None:
    await other.send(server.queued_reqs - 4)

    assert await other.status(8) == 503

    busy = server.queued_reqs - 4
    await server.until_load(lambda running, waiting: running + waiting == busy)


async def test_the_engine_is_never_given_so_much_that_it_refuses(server: Server, connect: Connect) -> None:
    before = await server.metric("admission_rejections_total", **REFUSED)
    engine = await connect(server.url)

    scores = await ask(engine, 8 * server.queued_reqs)

    assert len(scores) == 8 * server.queued_reqs
    assert await server.metric("admission_rejections_total", **REFUSED) == before
