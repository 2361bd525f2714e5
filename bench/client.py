"""A bare client of vLLM: prompts as fast as the engine takes them, with a fixed number in flight."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

from inference.dialects import Vllm
from inference.engine import LabelToken
from inference.operators.moderate import ModerateSettings
from streams.pipeline import Stage

_JSON_TOKENS = 64
_REASON_CHARACTERS = 80
_ASK = 'Answer with a JSON object: "label", "confidence" from 0 to 1, and "reason", a few words.'


@dataclass(frozen=True, slots=True)
class Shape:
    """How prompts travel."""

    requests_in_flight: int
    prompts_per_request: int


@dataclass(frozen=True, slots=True)
class Done:
    """One answered request. at: seconds of `time.perf_counter`. output_tokens: of all its prompts. cut: answers that
    reached the limit of tokens before their end.
    """

    at: float
    prompts: int
    output_tokens: int
    cut: int = 0


class Client:
    """Asks one vLLM about texts, in the service's way or in the usual one. model, version: of the server."""

    def __init__(self, url: str, stage: Stage) -> None:
        """url: root of the server. stage: its operator has to be `moderate`."""
        assert isinstance(stage.judge, ModerateSettings)
        self._judge = stage.judge
        self._prompt = stage.judge.prompt(stage.judge.words())
        self._session = aiohttp.ClientSession(
            url, timeout=aiohttp.ClientTimeout(total=600), connector=aiohttp.TCPConnector(limit=0)
        )
        self.model = self.version = ""
        self._labels: list[LabelToken] = []

    async def __aenter__(self) -> Self:
        models = await self._call("GET", "/v1/models")
        self.model = models["data"][0]["id"]
        self.version = (await self._call("GET", "/version"))["version"]
        for word in self._judge.words().values():
            body = {"model": self.model, "prompt": f" {word}", "add_special_tokens": False}
            (token,) = (await self._call("POST", "/tokenize", body))["tokens"]
            self._labels.append(LabelToken(f" {word}", token))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def labels(self, texts: Sequence[str]) -> Done:
        """One request: a label token for each text, as the service asks."""
        prompts = [self._prompt.render(text).text for text in texts]
        body = {"model": self.model, "prompt": prompts, **Vllm().scoring(self._labels)}
        answer = await self._call("POST", "/v1/completions", body)
        return Done(time.perf_counter(), len(texts), int(answer["usage"]["completion_tokens"]))

    async def json(self, texts: Sequence[str]) -> Done:
        """One request: a JSON answer for the one text, as semantic-operator libraries ask."""
        (text,) = texts
        labels = list(self._judge.words().values())
        properties = {
            "label": {"enum": labels},
            "confidence": {"type": "number"},
            "reason": {"type": "string", "maxLength": _REASON_CHARACTERS},
        }
        schema = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": f"{self._prompt.shared}{_ASK}"},
                {"role": "user", "content": text},
            ],
            "max_tokens": _JSON_TOKENS,
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}},
        }
        answer = await self._call("POST", "/v1/chat/completions", body)
        cut = answer["choices"][0]["finish_reason"] == "length"
        return Done(time.perf_counter(), 1, int(answer["usage"]["completion_tokens"]), int(cut))

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"}
        async with self._session.request(method, path, data=data, headers=headers) as response:
            content = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}: {content[:300]!r}")
            found: dict[str, Any] = orjson.loads(content)
            return found


async def drive(ask: Callable[[Sequence[str]], Awaitable[Done]], texts: Iterable[str], shape: Shape) -> list[Done]:
    """Ask about all texts, with as many requests in flight as the shape says; the answers in the order of arrival."""
    rest = iter(texts)
    done: list[Done] = []

    async def worker() -> None:
        while some := list(itertools.islice(rest, shape.prompts_per_request)):
            done.append(await ask(some))

    async with asyncio.TaskGroup() as group:
        for _ in range(shape.requests_in_flight):
            group.create_task(worker())
    return done


def steady(moments: Iterable[tuple[float, int]], edge: float = 0.15) -> float:
    """Prompts a second without the first and the last part, in which the engine is not full.

    moments: when how many prompts were answered, seconds. edge: the share left out at each end.
    """
    together: Counter[float] = Counter()
    for at, prompts in moments:
        together[at] += prompts
    total, counted = together.total(), 0
    inside = []
    for at, prompts in sorted(together.items()):
        counted += prompts
        if edge * total <= counted <= (1 - edge) * total:
            inside.append((at, prompts))
    return sum(prompts for _, prompts in inside[1:]) / (inside[-1][0] - inside[0][0])
