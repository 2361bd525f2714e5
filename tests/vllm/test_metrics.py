"""The metrics of the server that Weir reads, and that docs/engines.md names, say what we take them for."""

import uuid
from itertools import pairwise

import aiohttp

from inference.concurrency import Load
from inference.dialects import Vllm, load_of
from inference.engine import LabelToken, Prompt
from tests.inference.conftest import Connect
from tests.vllm.conftest import OtherClient, Server


async def test_each_prompt_of_a_request_runs_or_waits(server: Server, other: OtherClient) -> None:
    waiting = 5

    await other.send(server.seqs + waiting, together=True)

    await server.until_load(lambda running, waits: (running, waits) == (server.seqs, waiting))
    assert await server.metric("num_requests_waiting_by_reason", reason="capacity") == waiting


async def test_load_is_read_from_the_servers_own_page(server: Server, other: OtherClient) -> None:
    await other.send(server.seqs + 2)
    await server.until_load(lambda running, waiting: (running, waiting) == (server.seqs, 2))
    names = Vllm().load_metrics
    assert names is not None
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as response:
        page = await response.text()

    assert load_of(page, names) == Load(server.seqs, 2)


async def test_hits_of_the_prefix_cache_are_counted(server: Server, connect: Connect) -> None:
    engine = await connect(server.url)
    (label,) = await engine.tokenize(" ok") or []
    prompt = Prompt(" ".join(str(uuid.uuid4()) for _ in range(16)), "\nLabel:")
    hits, usages = [await server.metric("prefix_cache_hits_total")], []

    for _ in range(2):
        usages.append((await engine.score(prompt, [LabelToken(" ok", label)])).usage)
        await server.until_idle()
        hits.append(await server.metric("prefix_cache_hits_total"))

    assert [after - before for before, after in pairwise(hits)] == [usage.cached_tokens for usage in usages]
    assert usages[1].cached_tokens > usages[1].input_tokens / 2
    assert await server.metric("kv_cache_usage_perc") < 1
