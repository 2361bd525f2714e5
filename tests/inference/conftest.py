"""Servers that answer as a test wants, a relay that can be cut, and the engines that tests talk to."""

import asyncio
import json
import logging
import math
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import hypothesis
import pytest
from aiohttp import web

from deploy.embedded.engine import LlamaEngine
from inference.engine import LabelToken, Prompt
from inference.openai import EngineSettings, OpenAiEngine
from inference.text import one_line

SECONDS = 60.0  # a test that waits for something that never comes ends after this
RECORDED = Path(__file__).with_name("recorded")

hypothesis.settings.register_profile("inference", deadline=None)
hypothesis.settings.load_profile("inference")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """An HTTP server on loopback that keeps its port when it goes down and comes up again.

    asked: the body of each request to /v1/completions. most_in_flight: how many of those were under way at once.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def prompts(self) -> list[str]:
        """Every prompt asked for, in the order of arrival."""
        return [prompt for body in self.asked for prompt in each(body["prompt"])]

    async def up(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        raise NotImplementedError

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(request.headers)
        body: Any = await request.json() if request.can_read_body else None
        if request.path != "/v1/completions":
            return await self.answer(request, body)
        self.asked.append(body)
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            return await self.answer(request, body)
        finally:
            self._in_flight -= 1


class ScriptedEngine(Server):
    """A model server with vLLM's manners whose answers a test chooses.

    script: handlers for the next requests to /v1/completions, one each; the others are answered properly.
    probabilities: message to the probability of each label word; `message` is what stands after the last "Message:",
    or the prompt itself. writes: prompt to the text that the model writes after it. load: requests that run and that
    wait, where the server is to tell them. together: requests wait for each other here. start_tokens: how many tokens
    the server puts before each prompt. rejected: prompts that were too long.

    Its tokens are words of up to eight letters with the space before them, pieces of longer words, and other signs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[str, Any] = {"data": [{"id": "scripted", "owned_by": "vllm", "max_model_len": 256}]}
        self.tokenizer: deque[Handler] = deque()
        self.script: deque[Handler] = deque()
        self.probabilities: Callable[[str], Mapping[str, float]] = lambda _: {"ok": 1.0}
        self.writes: Callable[[str], str] = lambda _: ""
        self.load: tuple[float, float] | None = None
        self.together: asyncio.Barrier | None = None
        self.start_tokens = 0
        self.rejected: list[str] = []
        self._vocabulary: dict[str, int] = {}

    def tokens(self, text: str) -> list[int]:
        return [self._vocabulary.setdefault(piece, len(self._vocabulary)) for piece in pieces_of(text)]

    def token(self, word: str) -> LabelToken:
        (number,) = self.tokens(f" {word}")
        return LabelToken(f" {word}", number)

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response(self.models)
        if request.path == "/metrics":
            names = ("running", "waiting") if self.load else ()
            lines = [f"vllm:num_requests_{name} {value}\n" for name, value in zip(names, self.load or (), strict=True)]
            return web.Response(text="".join(lines))
        if request.path == "/tokenize":
            if self.tokenizer:
                return await self.tokenizer.popleft()(request)
            return web.json_response({"tokens": self.tokens(body["prompt"])})
        if self.script:
            return await self.script.popleft()(request)
        for _ in range(20):  # others that were sent at the same time arrive meanwhile
            await asyncio.sleep(0)
        if self.together is not None:
            await self.together.wait()
        return self.complete(body)

    def complete(self, body: Mapping[str, Any]) -> web.Response:
        prompts = each(body["prompt"])
        counts = [len(self.tokens(prompt)) + self.start_tokens for prompt in prompts]
        limit = self.models["data"][0].get("max_model_len", 256)
        too_long = [prompt for prompt, count in zip(prompts, counts, strict=True) if count >= limit]
        if too_long:
            self.rejected += too_long
            return web.json_response({"error": {"message": f"maximum context length is {limit} tokens"}}, status=400)
        choices = [
            self.choice(number, prompt, body.get("logprob_token_ids"), count, body.get("max_tokens", 1))
            for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True))
        ]
        written = sum(len(choice["token_ids"]) for choice in choices)
        usage = {"prompt_tokens": sum(counts), "completion_tokens": written}
        return web.json_response({"choices": choices, "usage": usage})

    def choice(
        self, index: int, prompt: str, labels: Sequence[int] | None, tokens: int = 1, max_tokens: int = 1
    ) -> dict[str, Any]:
        """The answer to one prompt; where no tokens were asked for, the most probable words."""
        words = {number: word for word, number in self._vocabulary.items()}
        share = self.probabilities(message_of(prompt))
        names = [f" {word}" for word in share] if labels is None else [f"token_id:{i}" for i in labels]
        asked = share if labels is None else [words.get(i, "").strip() for i in labels]
        logprobs = {name: math.log(share.get(word, 0) or 1e-9) for name, word in zip(names, asked, strict=True)}
        pieces = pieces_of(self.writes(prompt))
        written = pieces[:max_tokens]
        return {
            "index": index,
            "text": "".join(written),
            "finish_reason": "length" if len(pieces) > max_tokens else "stop",
            "logprobs": {"top_logprobs": [logprobs], "tokens": written, "token_logprobs": [-0.5] * len(written)},
            "prompt_token_ids": [0] * tokens,
            "token_ids": [0] * max(1, len(written)),
        }


class Replay(Server):
    """Answers exactly the requests that were recorded, as they were answered; all others with status 418."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._recorded = [recorded(name) for name in names]

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        wanted = {"method": request.method, "path": request.path, "body": body}
        for exchange in self._recorded:
            if exchange["request"] == wanted:
                return web.json_response(exchange["answer"], status=exchange["status"])
        return web.json_response({"error": "nothing was recorded for this request"}, status=418)


class Relay(Server):
    """Passes requests on to an engine."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self._target + request.path, json=body) as response,
        ):
            return web.Response(status=response.status, body=await response.read(), content_type="application/json")


class NoLogprobs(Relay):
    """A server of the completions API that tells no probabilities and has no tokenizer, in front of llama.cpp's.

    It answers as OpenAI's API would: several answers to a prompt are several requests to llama.cpp, which gives no more
    of them than it has slots; a schema stands in `response_format`. The same request has the same answers. usage: what
    was told of each request.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.usage: list[dict[str, int]] = []

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        async with aiohttp.ClientSession(self._target) as session:
            if request.path == "/v1/models":
                async with session.get(request.path) as response:
                    models = await response.json()
                for model in models["data"]:
                    model["owned_by"] = "someone"
                return web.json_response(models)
            if request.path == "/v1/completions":
                return await self._complete(session, body)
        return web.json_response({"error": "no such path"}, status=404)

    async def _complete(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> web.StreamResponse:
        asked = {name: value for name, value in body.items() if name not in {"n", "logprobs", "response_format"}}
        if "response_format" in body:
            asked["json_schema"] = body["response_format"]["json_schema"]["schema"]

        async def one(seed: int) -> tuple[int, Any]:
            async with session.post("/v1/completions", json={**asked, "seed": seed}) as response:
                return response.status, await response.json()

        answers = await asyncio.gather(*map(one, range(body.get("n", 1))))
        for status, answer in answers:
            if status != 200:
                return web.json_response(answer, status=status)
        usages = [answer["usage"] for _, answer in answers]
        written = sum(usage["completion_tokens"] for usage in usages)
        self.usage.append({"prompt_tokens": usages[0]["prompt_tokens"], "completion_tokens": written})
        choices = [{**answer["choices"][0], "index": n, "logprobs": None} for n, (_, answer) in enumerate(answers)]
        return web.json_response({"choices": choices, "usage": self.usage[-1]})


def pieces_of(text: str) -> list[str]:
    """The text in the tokens of `ScriptedEngine`."""
    return re.findall(r" ?\w{1,8}|[^\w]", text)


def plain(text: str) -> Prompt:
    """A prompt that shares nothing with others."""
    return Prompt("", text)


def each(prompt: str | list[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else prompt


def message_of(prompt: str) -> str:
    """The text that a prompt of `LabelPrompt` asks about."""
    return prompt.rpartition("Message: ")[2].removesuffix("\nLabel:")


def covers(parts: Sequence[str], text: str) -> bool:
    """Whether the parts, one after the other and perhaps overlapping, show every visible character of the text."""
    whole = "".join(one_line(text).split())
    shown = 0
    for part in ("".join(part.split()) for part in parts):
        starts = [start for start in range(shown + 1) if whole.startswith(part, start)]
        if not starts:
            return False
        shown = max(shown, starts[-1] + len(part))
    return shown == len(whole)


def recorded(name: str) -> dict[str, Any]:
    """A request to vLLM 0.32.0 with SmolLM2-135M-Instruct and a context of 2048 tokens, and what it answered."""
    exchange: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return exchange


def reply(status: int, body: Any = None) -> Handler:
    """Answer with this status; a body of bytes is sent as it is, any other as JSON."""

    async def handler(_: web.Request) -> web.StreamResponse:
        if isinstance(body, bytes):
            return web.Response(status=status, body=body)
        return web.json_response(body, status=status)

    return handler


def busy(status: int, seconds: str) -> Handler:
    """Answer that the client should come back after so many seconds."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": seconds})

    return handler


async def half_body(request: web.Request) -> web.StreamResponse:
    """Begin an answer, and close the connection before its end."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def hang_up(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def hang(_: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


class Failures(logging.Handler):
    """Failed attempts of engines, as they log them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.put_nowait(record.getMessage())

    async def next(self) -> str:
        """The log line of the next failed attempt, once there is one."""
        async with asyncio.timeout(SECONDS):
            return await self._messages.get()


class Connect(Protocol):
    """Makes a connected engine. The test's end closes it."""

    async def __call__(self, server: Server | str, **settings: Any) -> OpenAiEngine: ...


@pytest.fixture
def failures() -> Iterator[Failures]:
    handler = Failures()
    log = logging.getLogger("inference.retrying")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedEngine]:
    async with ScriptedEngine() as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    engines: list[OpenAiEngine] = []

    async def make(server: Server | str, **settings: Any) -> OpenAiEngine:
        engine = OpenAiEngine(EngineSettings(server if isinstance(server, str) else server.url, **settings))
        engines.append(engine)
        await engine.connect()
        return engine

    yield make
    for engine in engines:
        await engine.close()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    with LlamaEngine(tmp_path_factory.mktemp("engine")) as started:
        yield started
