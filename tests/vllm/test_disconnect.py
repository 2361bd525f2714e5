"""A client that goes away takes its work with it: the server has its place back at once."""

import asyncio

from inference.engine import LabelToken, Prompt
from tests.inference.conftest import Connect, Failures
from tests.vllm.conftest import OtherClient, Server


async def test_closed_engine_leaves_nothing_behind(server: Server, connect: Connect) -> None:
    engine = await connect(server.url, prompts_per_request=8)
    labels = [LabelToken("", token) for token in await engine.tokenize(" yes no") or []]
    filler = " ok" * 900  # a step of the server has room for two
    before = await server.metric("request_success_total")
    callers = [asyncio.create_task(engine.score(Prompt("", f"{number}{filler}"), labels)) for number in range(32)]
    await server.until_load(lambda running, waiting: running + waiting > 1)
    taken = engine.in_flight

    await engine.close()

    await server.until_idle()
    assert await server.metric("request_success_total") - before < taken / 2, "the server worked for nobody"
    await asyncio.gather(*callers, return_exceptions=True)


async def test_requests_that_time_out_do_not_pile_up(
    server: Server, other: OtherClient, connect: Connect, failures: Failures
) -> None:
    await other.send(server.seqs)
    engine = await connect(server.url, timeout=0.5, backoff_seconds=0.05)
    (label,) = await engine.tokenize(" ok") or []
    caller = asyncio.create_task(engine.score(Prompt("", "Is this right?"), [LabelToken(" ok", label)]))
    for _ in range(4):
        assert "cannot be reached" in await failures.next()

    await server.until_steps(2)

    _, waiting = await server.load()
    assert waiting <= 1
    caller.cancel()
