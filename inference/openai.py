"""An engine behind the OpenAI completions API: vLLM in production, llama.cpp's server in the demo."""

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import aiohttp
import orjson
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from inference.batcher import Batcher
from inference.dialects import DIALECTS, UNKNOWN_SHAPE, Dialect, detect
from inference.engine import LabelToken, Score
from inference.errors import EngineMisconfigured, EngineUnavailable, PromptRejected

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_DEFAULT_CONTEXT_TOKENS = 2048
_MAX_BACKOFF_SECONDS = 15.0
_ERROR_TEXT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where the engine is and how hard to use it.

    url: root of the server, with or without /v1. model: which of its models; empty for the first that it names.
    dialect: a name of `inference.dialects`, or empty to find out. requests_in_flight: requests at once.
    prompts_per_request: 0 for what the dialect can account for. timeout: seconds a request may take.
    context_tokens: 0 for what the server says.
    """

    url: str
    api_key: str = ""
    model: str = ""
    dialect: str = ""
    requests_in_flight: int = 4
    prompts_per_request: int = 0
    timeout: float = 120.0
    context_tokens: int = 0


class OpenAiEngine:
    """Implements `inference.engine.Engine` over HTTP."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._root = settings.url.rstrip("/").removesuffix("/v1")
        self._session: aiohttp.ClientSession | None = None
        self._dialect: Dialect = DIALECTS["openai"]
        self._model = settings.model
        self._context_tokens = settings.context_tokens
        self._batcher = self._new_batcher()

    def _new_batcher(self) -> Batcher:
        size = self._settings.prompts_per_request or self._dialect.prompts_per_request
        return Batcher(self._request_until_answered, size, self._settings.requests_in_flight)

    @property
    def model(self) -> str:
        return self._model

    @property
    def context_tokens(self) -> int:
        return self._context_tokens

    @property
    def dialect(self) -> str:
        """Which dialect the server speaks, once connected."""
        return self._dialect.name

    async def connect(self) -> None:
        if self._session is None:
            headers = {"Authorization": f"Bearer {self._settings.api_key}"} if self._settings.api_key else {}
            self._session = aiohttp.ClientSession(
                headers=headers,
                json_serialize=lambda value: orjson.dumps(value).decode(),
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout, connect=10),
                connector=aiohttp.TCPConnector(limit=0),
            )
        try:
            models = await self._call("GET", "/v1/models")
        except PromptRejected as error:
            raise EngineMisconfigured(f"{error} (WEIR_ENGINE_URL)") from error
        with self._reading("/v1/models"):
            self._choose_model(models)
        self._dialect = DIALECTS[self._settings.dialect] if self._settings.dialect else detect(models)
        self._batcher = self._new_batcher()
        log.info(
            "engine %s: %s, model %s, context of %d tokens",
            self._root,
            self._dialect.name,
            self._model,
            self._context_tokens,
        )

    def _choose_model(self, models: dict[str, Any]) -> None:
        offered = {str(model["id"]): model for model in models.get("data") or []}
        if not offered:
            raise EngineUnavailable(f"engine {self._root} has no model yet")
        name = self._settings.model or next(iter(offered))
        if name not in offered:
            raise EngineMisconfigured(
                f"engine {self._root} has no model {name!r}; it has: {', '.join(sorted(offered))} (WEIR_ENGINE_MODEL)"
            )
        self._model = name
        if not self._settings.context_tokens:
            model = offered[name]
            context = model.get("max_model_len") or (model.get("meta") or {}).get("n_ctx")
            self._context_tokens = int(context or _DEFAULT_CONTEXT_TOKENS)

    async def tokenize(self, text: str) -> list[int] | None:
        bodies: dict[str, dict[str, Any]] = {
            "vllm": {"model": self._model, "prompt": text, "add_special_tokens": False},
            "llamacpp": {"content": text, "add_special": False},
        }
        body = bodies.get(self._dialect.name)
        if body is None:
            return None
        return await self._retrying(self._tokenize, body)

    async def _tokenize(self, body: dict[str, Any]) -> list[int]:
        answer = await self._call("POST", "/tokenize", body)
        with self._reading("/tokenize"):
            return [int(token) for token in answer["tokens"]]

    async def score(self, prompt: str, labels: Sequence[LabelToken]) -> Score:
        return await self._batcher.submit(prompt, labels)

    async def ready(self) -> str | None:
        try:
            await self._call("GET", "/v1/models")
        except (EngineUnavailable, EngineMisconfigured, PromptRejected) as error:
            return str(error)
        return None

    async def close(self) -> None:
        await self._batcher.close()
        if self._session is not None:
            await self._session.close()

    async def _request_until_answered(
        self, prompts: Sequence[str], labels: Sequence[LabelToken]
    ) -> Sequence[Score | PromptRejected]:
        """Ask for all prompts at once; if the engine rejects one of many, ask for one half after the other."""
        try:
            return await self._retrying(self._request, prompts, labels)
        except PromptRejected as error:
            if len(prompts) == 1:
                return [error]
        half = len(prompts) // 2
        first = await self._request_until_answered(prompts[:half], labels)
        return [*first, *await self._request_until_answered(prompts[half:], labels)]

    async def _request(self, prompts: Sequence[str], labels: Sequence[LabelToken]) -> list[Score]:
        body = {
            "model": self._model,
            "prompt": prompts[0] if len(prompts) == 1 else list(prompts),
            "max_tokens": 1,
            "temperature": 0,
            **self._dialect.parameters(labels),
        }
        started = time.perf_counter()
        answer = await self._call("POST", "/v1/completions", body)
        seconds = time.perf_counter() - started
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            logprobs = [self._dialect.logprobs(choice, labels) for choice in choices]
            usage = self._dialect.usage(answer)
        except UNKNOWN_SHAPE as error:
            raise EngineUnavailable(
                f"engine {self._root} gave an answer without log-probabilities as {self._dialect.name} gives them "
                f"({type(error).__name__}: {error}); if this goes on, set WEIR_ENGINE_DIALECT"
            ) from error
        if len(logprobs) != len(prompts) or len(usage) != len(prompts):
            raise EngineUnavailable(
                f"engine {self._root} answered {len(logprobs)} of {len(prompts)} prompts; "
                "if this goes on, set WEIR_ENGINE_PROMPTS_PER_REQUEST=1"
            )
        return [Score(_normalised(row), tokens, seconds) for row, tokens in zip(logprobs, usage, strict=True)]

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One HTTP exchange. Raises by what the status means."""
        if self._session is None:
            raise RuntimeError("connect() first")
        try:
            async with self._session.request(method, self._root + path, json=body) as response:
                content = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise EngineUnavailable(f"engine {self._root} cannot be reached: {reason}") from error
        if status == 200:
            try:
                answer = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise EngineUnavailable(f"engine {self._root}{path} answered something that is not JSON") from error
            if not isinstance(answer, dict):
                raise EngineUnavailable(f"engine {self._root}{path} answered JSON of an unknown shape")
            return answer
        message = f"engine {self._root}{path} answered {status}: {_error_text(content)}"
        if status >= 500 or status in _TRANSIENT_STATUS:
            raise EngineUnavailable(message)
        if status in (401, 403):
            raise EngineMisconfigured(f"{message} (WEIR_ENGINE_API_KEY)")
        if status == 404:
            raise EngineMisconfigured(f"{message} (WEIR_ENGINE_URL, WEIR_ENGINE_MODEL)")
        raise PromptRejected(message)

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Raises EngineUnavailable where an answer has another shape than the one that is read."""
        try:
            yield
        except UNKNOWN_SHAPE as error:
            raise EngineUnavailable(f"engine {self._root}{path} answered JSON of an unknown shape") from error

    async def _retrying(self, call: Callable[P, Awaitable[R]], *arguments: P.args, **named: P.kwargs) -> R:
        """Call until the engine answers; each failed attempt is one log line."""
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EngineUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=_MAX_BACKOFF_SECONDS),
            before_sleep=before_sleep_log(log, logging.WARNING),
            reraise=True,
        )
        return await retrying(call, *arguments, **named)


def _normalised(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities that sum to one as probabilities."""
    top = max(logprobs)
    total = top + math.log(sum(math.exp(value - top) for value in logprobs))
    return tuple(value - total for value in logprobs)


def _error_text(content: bytes) -> str:
    """What a server says of an error, in whichever of the known shapes it says it. May quote no prompt: cut short."""
    try:
        body = orjson.loads(content)
        error = body.get("error", body.get("detail", body))
        text = error.get("message", error) if isinstance(error, dict) else error
    except (orjson.JSONDecodeError, AttributeError):
        text = content.decode("utf-8", "replace")
    return str(text)[:_ERROR_TEXT_CHARACTERS]
