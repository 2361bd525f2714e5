"""An engine behind the OpenAI completions API: vLLM in production, llama.cpp's server in the demo."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import aiohttp
import orjson

from inference import retry_after
from inference.batcher import Batcher
from inference.breaker import Breaker, State
from inference.dialects import DIALECTS, UNKNOWN_SHAPE, Dialect, detect
from inference.engine import LabelToken, Score
from inference.errors import AttemptsExhausted, EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.retrying import Budget, Retries
from inference.text import one_line

log = logging.getLogger(__name__)

_BUSY_STATUS = frozenset({429, 503})
_TRANSIENT_STATUS = frozenset({408, 409, 425})
_DEFAULT_CONTEXT_TOKENS = 2048
_ATTEMPTS_TOGETHER = 2  # then a request of several prompts is split, to find the one that is to blame
_ERROR_TEXT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where the engine is and how hard to use it.

    url: root of the server, with or without /v1. model: which of its models; empty for the first that it names.
    dialect: a name of `inference.dialects`, or empty to find out. requests_in_flight: requests at once.
    prompts_per_request: 0 for what the dialect can account for. timeout: seconds a request may take.
    context_tokens: 0 for what the server says. attempts: how often a prompt may fail while others are answered, from 1.
    backoff_seconds: before a prompt's second attempt, at most; doubles with each one. pause_seconds: before the first
    probe of an engine that failed; doubles with each one.
    """

    url: str
    api_key: str = ""
    model: str = ""
    dialect: str = ""
    requests_in_flight: int = 4
    prompts_per_request: int = 0
    timeout: float = 120.0
    context_tokens: int = 0
    attempts: int = 5
    backoff_seconds: float = 0.2
    pause_seconds: float = 0.5


class OpenAiEngine:
    """Implements `inference.engine.Engine` over HTTP."""

    def __init__(self, settings: EngineSettings, on_retry: Callable[[str], None] = lambda reason: None) -> None:
        """on_retry: told of each failed attempt, by a `inference.errors.Reason`."""
        self._settings = settings
        self._root = settings.url.rstrip("/").removesuffix("/v1")
        self._session: aiohttp.ClientSession | None = None
        self._dialect: Dialect = DIALECTS["openai"]
        self._model = settings.model
        self._context_tokens = settings.context_tokens
        self._breaker = Breaker(self._probe, settings.requests_in_flight, settings.pause_seconds)
        self._retries = Retries(self._breaker, settings.backoff_seconds, on_retry)
        self._scored = 0
        self._known_good: tuple[str, Sequence[LabelToken]] | None = None
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

    @property
    def breaker_state(self) -> State:
        """Whether requests pass ("closed"), wait ("open"), or wait for a probe that is under way ("half_open")."""
        return self._breaker.state

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
            raise EngineUnavailable(f"engine {self._root} has no model yet", "bad_answer")
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
        budget = Budget(self._settings.attempts, lambda: self._breaker.successes)
        return await self._retries.call(partial(self._tokenize, body), budget)

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
        await self._retries.close()
        if self._session is not None:
            await self._session.close()

    async def _request_until_answered(
        self, prompts: Sequence[str], labels: Sequence[LabelToken], since: int | None = None
    ) -> Sequence[Score | PromptRejected | AttemptsExhausted]:
        """Ask for all prompts at once; if one of many spoils the request, ask for one half after the other.

        since: see Budget. A prompt answers only for its failures alone: in company another one may be to blame.
        """
        alone = len(prompts) == 1
        attempts = self._settings.attempts
        # Only scores are answers here: a server can list its models and tokenize while its GPU hangs.
        budget = Budget(attempts if alone else min(attempts, _ATTEMPTS_TOGETHER), lambda: self._scored, since)
        try:
            return await self._retries.call(partial(self._request, prompts, labels), budget)
        except (PromptRejected, AttemptsExhausted) as error:
            if alone:
                return [error]
        half = len(prompts) // 2
        first = await self._request_until_answered(prompts[:half], labels, budget.since)
        return [*first, *await self._request_until_answered(prompts[half:], labels, budget.since)]

    async def _probe(self) -> bool:
        """Whether the engine answers what it answered last or, before it ever did, which models it has."""
        try:
            if self._known_good is None:
                await self._call("GET", "/v1/models")
            else:
                prompt, labels = self._known_good
                await self._request([prompt], labels)
        except EngineUnavailable as error:
            log.warning("probe failed: %s", error)
            return False
        except (PromptRejected, EngineMisconfigured):
            return True
        return True

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
                f"({type(error).__name__}: {error}); if this goes on, set WEIR_ENGINE_DIALECT",
                "bad_answer",
            ) from error
        if len(logprobs) != len(prompts) or len(usage) != len(prompts):
            raise EngineUnavailable(
                f"engine {self._root} answered {len(logprobs)} of {len(prompts)} prompts; "
                "if this goes on, set WEIR_ENGINE_PROMPTS_PER_REQUEST=1",
                "bad_answer",
            )
        scores = [Score(_normalised(row), tokens, seconds) for row, tokens in zip(logprobs, usage, strict=True)]
        self._scored += 1
        self._known_good = prompts[-1], labels
        return scores

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One HTTP exchange. Raises by what the status means."""
        if self._session is None:
            raise RuntimeError("connect() first")
        try:
            async with self._session.request(method, self._root + path, json=body) as response:
                content = await response.read()
                status = response.status
                wait = retry_after.seconds(response.headers.get("Retry-After"), datetime.now(UTC))
        except (aiohttp.ClientError, OSError) as error:
            told = str(error) or type(error).__name__
            raise EngineUnavailable(
                f"engine {self._root} cannot be reached: {told}",
                "timeout" if isinstance(error, TimeoutError) else "connection",
            ) from error
        if status == 200:
            try:
                answer = orjson.loads(content)
            except orjson.JSONDecodeError as error:
                raise EngineUnavailable(
                    f"engine {self._root}{path} answered something that is not JSON", "bad_answer"
                ) from error
            if not isinstance(answer, dict):
                raise EngineUnavailable(f"engine {self._root}{path} answered JSON of an unknown shape", "bad_answer")
            return answer
        message = f"engine {self._root}{path} answered {status}: {_error_text(content)}"
        if status in _BUSY_STATUS:
            raise EngineBusy(message, wait)
        if status >= 500 or status in _TRANSIENT_STATUS:
            raise EngineUnavailable(message, "status")
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
            raise EngineUnavailable(
                f"engine {self._root}{path} answered JSON of an unknown shape", "bad_answer"
            ) from error


def _normalised(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities that sum to one as probabilities."""
    top = max(logprobs)
    total = top + math.log(sum(math.exp(value - top) for value in logprobs))
    return tuple(value - total for value in logprobs)


def _error_text(content: bytes) -> str:
    """What a server says of an error, in whichever of the known shapes it says it, without quoting the prompt.

    A list, as FastAPI gives it, has the input beside each reason; an answer of no known shape may be anything.
    """
    try:
        body = orjson.loads(content)
        error = body.get("error", body.get("detail", body))
        if isinstance(error, list):
            error = "; ".join(str(item.get("msg", "")) for item in error)
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, AttributeError):
        text = ""
    return one_line(str(text))[:_ERROR_TEXT_CHARACTERS] or "without a reason that can be shown"
