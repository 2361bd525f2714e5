"""A real vLLM to test against, as `make test-vllm` starts one. Without it these tests are skipped."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from deploy.vllm.server import QUEUED_REQS_VARIABLE, SEQS_VARIABLE, URL_VARIABLE
from tests.inference.conftest import connect, failures

__all__ = ["connect", "failures"]

SECONDS = 300.0  # a test that waits for something that never comes ends after this; a busy CPU is slow


class Server:
    """The server that is tested, and what it says of itself.

    seqs, queued_reqs: its --max-num-seqs and --max-num-queued-reqs.
    """

    def __init__(self, url: str, seqs: int, queued_reqs: int) -> None:
        self.url = url
        self.seqs = seqs
        self.queued_reqs = queued_reqs

    async def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that have these labels; `name` without "vllm:". KeyError if there is none."""
        return _total(await self._samples(), name, labels)

    async def load(self) -> tuple[float, float]:
        """Requests that run, and that wait."""
        samples = await self._samples()
        return _total(samples, "num_requests_running", {}), _total(samples, "num_requests_waiting", {})

    async def _samples(self) -> list[Sample]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            page = await response.text()
        return [sample for family in text_string_to_metric_families(page) for sample in family.samples]

    async def until_load(self, holds: Callable[[float, float], bool]) -> None:
        """Return once requests that run and that wait are as they should be."""
        async with asyncio.timeout(SECONDS):
            while not holds(*await self.load()):  # noqa: ASYNC110 - another process, which can only be asked
                await asyncio.sleep(0.05)

    async def until_steps(self, steps: int) -> None:
        """Return after so many more steps of a server that is busy: its metrics are as old as its last step."""
        now = await self.metric("iteration_tokens_total_count")
        async with asyncio.timeout(SECONDS):
            while await self.metric("iteration_tokens_total_count") < now + steps:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.05)

    async def until_idle(self) -> None:
        await self.until_load(lambda running, waiting: running == waiting == 0)


def _total(samples: list[Sample], name: str, labels: Mapping[str, str]) -> float:
    values = [s.value for s in samples if s.name == f"vllm:{name}" and labels.items() <= s.labels.items()]
    if not values:
        raise KeyError(name)
    return sum(values)


class OtherClient:
    """Somebody else's work on the same server: texts that are longer than any test, until it hangs up."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session = aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0))
        self._requests: set[asyncio.Task[int]] = set()

    async def send(self, prompts: int, together: bool = False) -> None:
        """Have the server work on so many prompts, one a request or all in one; returns once it has them."""
        before = sum(await self._server.load())
        texts = [f"Once upon a time {number}" for number in range(prompts)]
        for prompt in [texts] if together else texts:
            self._requests.add(asyncio.create_task(self._ask(prompt)))
        await self._server.until_load(lambda running, waiting: running + waiting == before + prompts)

    async def status(self, prompts: int) -> int:
        """The status of one request of so many prompts."""
        return await self._ask([f"Long long ago {number}" for number in range(prompts)])

    async def _ask(self, prompt: str | list[str]) -> int:
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": 1900, "ignore_eos": True}
        async with self._session.post("/v1/completions", json=body) as response:
            return response.status

    async def hang_up(self) -> None:
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        self._requests.clear()

    async def close(self) -> None:
        await self.hang_up()
        await self._session.close()


def _setting(name: str) -> str:
    if not os.environ.get(name):
        pytest.skip(f"{name} is not set: no vLLM to test against; `make test-vllm` starts one")
    return os.environ[name]


@pytest.fixture
async def server() -> Server:
    """The server, with nothing to do."""
    server = Server(_setting(URL_VARIABLE), int(_setting(SEQS_VARIABLE)), int(_setting(QUEUED_REQS_VARIABLE)))
    await server.until_idle()
    return server


@pytest.fixture
async def other(server: Server) -> AsyncIterator[OtherClient]:
    client = OtherClient(server)
    yield client
    await client.close()
