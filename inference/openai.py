"""An engine behind the OpenAI completions API: vLLM in production, llama.cpp's server in the demo."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msgspec import structs

from inference.batcher import Batcher
from inference.breaker import Breaker, State
from inference.concurrency import Concurrency
from inference.dialects import DIALECTS, UNKNOWN_SHAPE, Dialect, detect, load_of, usage_of_request
from inference.engine import ANYONE, Caller, Completion, LabelToken, Prompt, Score, Usage, Writing
from inference.errors import AttemptsExhausted, EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.http import Http
from inference.metering import Meter
from inference.retrying import Budget, Retries
from inference.tracing import Request, RequestTracing

log = logging.getLogger(__name__)

Labels = tuple[LabelToken, ...]
Outcome = Score | Completion | PromptRejected | AttemptsExhausted

_DEFAULT_CONTEXT_TOKENS = 2048
_ATTEMPTS_TOGETHER = 2  # then a request of several prompts is split, to find the one that is to blame
_START_PROMPTS = 64  # in flight: four requests, before the engine has said or shown what it can take
_START_PROMPTS_ALONE = 4  # where a request carries one
_LOAD_SECONDS = 0.5
_LOAD_TIMEOUT_SECONDS = 2.0
_FIXED_WEIGHT = 64  # characters that a prompt's question and the model's answer come to, beside its own text


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where the engine is and how hard to use it.

    url: root of the server, with or without /v1. model: which of its models; empty for the first that it names.
    dialect: a name of `inference.dialects`, or empty to find out. prompts_in_flight: bound of the prompts at once,
    which are as many as the engine takes without a queue. prompts_per_request: 0 for what the dialect can account for.
    linger: seconds that a prompt may wait for others to share a request. timeout: seconds a request may take.
    context_tokens: 0 for what the server says. attempts: how often a prompt may fail while others are answered, from 1.
    backoff_seconds: before a prompt's second attempt, at most; doubles with each one. pause_seconds: before the first
    probe of an engine that failed; doubles with each one. ca_file: certificate authority for https; empty: the
    system's.
    """

    url: str
    api_key: str = field(default="", repr=False)
    model: str = ""
    dialect: str = ""
    prompts_in_flight: int = 1024
    prompts_per_request: int = 0
    linger: float = 0.002
    timeout: float = 120.0
    context_tokens: int = 0
    attempts: int = 5
    backoff_seconds: float = 0.2
    pause_seconds: float = 0.5
    ca_file: str = ""


class OpenAiEngine:
    """Implements `inference.engine.Engine` over HTTP."""

    def __init__(
        self,
        settings: EngineSettings,
        on_retry: Callable[[str], None] = lambda reason: None,
        on_limit: Callable[[int], None] = lambda limit: None,
        tracing: RequestTracing | None = None,
    ) -> None:
        """on_retry: told of each failed attempt, by a `inference.errors.Reason`. on_limit: told how many prompts may be
        in flight, whenever that changes. tracing: follows the requests that ask for somebody.
        """
        self._settings = settings
        self._http = Http(settings.url, settings.api_key, settings.timeout, settings.ca_file)
        self._on_limit = on_limit
        self._tracing = tracing
        self._dialect: Dialect = DIALECTS["openai"]
        self._model = settings.model
        self._context_tokens = settings.context_tokens
        self._breaker = Breaker(self._probe, settings.prompts_in_flight, settings.pause_seconds)
        self._retries = Retries(self._breaker, settings.backoff_seconds, on_retry)
        self._answered = 0
        self._resting: set[object] = set()  # requests that the engine was too busy for, until they are sent again
        self._known_good: tuple[Labels | Writing, Prompt] | None = None
        self._concurrency = Concurrency(1, 1)
        self._batcher = self._new_batcher()
        self._watching: asyncio.Task[None] | None = None
        self.meter = Meter()

    def _new_batcher(self) -> Batcher[Labels | Writing, Score | Completion]:
        size = self._settings.prompts_per_request or self._dialect.prompts_per_request
        start = _START_PROMPTS if size > 1 else _START_PROMPTS_ALONE
        self._concurrency = Concurrency(start, self._settings.prompts_in_flight, self._on_limit)
        return Batcher(
            self._request_until_answered,
            # What is written takes as long as it is: together, all would wait for the longest.
            lambda question: 1 if isinstance(question, Writing) else size,
            self._concurrency,
            self._settings.linger if size > 1 else 0.0,
            lambda: len(self._resting),
        )

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

    @property
    def waiting(self) -> int:
        """Prompts that are not sent yet because the engine has as many as it takes."""
        return self._batcher.waiting

    @property
    def in_flight(self) -> int:
        """Prompts that the engine has, or that wait for another attempt."""
        return self._batcher.in_flight

    async def connect(self) -> None:
        self._http.open()
        try:
            models = await self._http.call("GET", "/v1/models")
        except PromptRejected as error:
            raise EngineMisconfigured(f"{error} (WEIR_ENGINE_URL)") from error
        with self._reading("/v1/models"):
            self._choose_model(models)
        self._dialect = DIALECTS[self._settings.dialect] if self._settings.dialect else await self._detect(models)
        self._batcher = self._new_batcher()
        if self._watching is None and self._dialect.load_metrics is not None:
            self._watching = asyncio.create_task(self._watch(self._dialect.load_metrics))
        log.info(
            "engine %s: %s, model %s, context of %d tokens",
            self._http.root,
            self._dialect.name,
            self._model,
            self._context_tokens,
        )

    async def _detect(self, models: dict[str, Any]) -> Dialect:
        dialect = detect(models)
        if dialect.name != "openai":
            return dialect
        body = {"model": self._model, "prompt": "A", "max_tokens": 1, "temperature": 0, "logprobs": 1}
        try:
            answer = await self._http.call("POST", "/v1/completions", body)
        except PromptRejected as error:
            log.warning("the engine refuses to tell probabilities, so answers are counted instead: %s", error)
            return DIALECTS["votes"]
        with self._reading("/v1/completions"):
            if answer["choices"][0].get("logprobs"):
                return dialect
        log.warning("the engine tells no probabilities, so answers are counted instead")
        return DIALECTS["votes"]

    def _choose_model(self, models: dict[str, Any]) -> None:
        offered = {str(model["id"]): model for model in models.get("data") or []}
        if not offered:
            raise EngineUnavailable(f"engine {self._http.root} has no model yet", "bad_answer")
        name = self._settings.model or next(iter(offered))
        if name not in offered:
            raise EngineMisconfigured(
                f"engine {self._http.root} has no model {name!r}; "
                f"it has: {', '.join(sorted(offered))} (WEIR_ENGINE_MODEL)"
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
        answer = await self._http.call("POST", "/tokenize", body)
        with self._reading("/tokenize"):
            return [int(token) for token in answer["tokens"]]

    async def score(self, prompt: Prompt, labels: Sequence[LabelToken], caller: Caller = ANYONE) -> Score:
        answer = await self._batcher.submit(tuple(labels), self._asked(prompt), caller)
        assert isinstance(answer, Score)
        return answer

    async def generate(self, prompt: Prompt, writing: Writing, caller: Caller = ANYONE) -> Completion:
        answer = await self._batcher.submit(writing, self._asked(prompt), caller)
        assert isinstance(answer, Completion)
        return answer

    def _asked(self, prompt: Prompt) -> Prompt:
        """The prompt with who asks it, if that is to be told."""
        if self._tracing is None or (asker := self._tracing.asker()) is None:
            return prompt
        return structs.replace(prompt, asker=asker)

    async def ready(self) -> str | None:
        try:
            await self._http.call("GET", "/v1/models")
        except (EngineUnavailable, EngineMisconfigured, PromptRejected) as error:
            return str(error)
        return None

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._batcher.close()
        await self._retries.close()
        await self._http.close()

    async def _request_until_answered(
        self, question: Labels | Writing, prompts: Sequence[Prompt], since: int | None = None
    ) -> Sequence[Outcome]:
        """Ask for all prompts at once; if one of many spoils the request, ask for one half after the other.

        since: see Budget. A prompt answers only for its failures alone: in company another one may be to blame.
        """
        alone = len(prompts) == 1
        attempts = self._settings.attempts
        # Only answers to prompts count here: a server can list its models and tokenize while its GPU hangs.
        budget = Budget(attempts if alone else min(attempts, _ATTEMPTS_TOGETHER), lambda: self._answered, since)
        try:
            return await self._retries.call(partial(self._attempt, budget, question, prompts), budget)
        except (PromptRejected, AttemptsExhausted) as error:
            if alone:
                return [error]
        finally:
            self._resting.discard(budget)
        half = len(prompts) // 2
        first = await self._request_until_answered(question, prompts[:half], budget.since)
        return [*first, *await self._request_until_answered(question, prompts[half:], budget.since)]

    async def _attempt(
        self, request: object, question: Labels | Writing, prompts: Sequence[Prompt]
    ) -> Sequence[Score | Completion]:
        self._resting.discard(request)
        try:
            return await self._request(question, prompts)
        except EngineBusy:
            self._resting.add(request)
            self._batcher.look_again()
            raise

    async def _probe(self) -> bool:
        """Whether the engine answers what it answered last or, before it ever did, which models it has."""
        try:
            if self._known_good is None:
                await self._http.call("GET", "/v1/models")
            else:
                question, prompt = self._known_good
                await self._request(question, [prompt])
        except EngineUnavailable as error:
            log.warning("probe failed: %s", error)
            return False
        except (PromptRejected, EngineMisconfigured):
            return True
        return True

    async def _watch(self, names: tuple[str, str]) -> None:
        """Follow what the engine tells of its load, while it has prompts of ours."""
        while True:
            await asyncio.sleep(_LOAD_SECONDS)
            if not self._batcher.in_flight:
                continue
            with contextlib.suppress(EngineUnavailable, EngineMisconfigured, PromptRejected, TimeoutError, ValueError):
                async with asyncio.timeout(_LOAD_TIMEOUT_SECONDS):
                    load = load_of(await self._http.text("/metrics"), names)
                if load is not None:
                    self._concurrency.observed(load)

    async def _request(self, question: Labels | Writing, prompts: Sequence[Prompt]) -> Sequence[Score | Completion]:
        """One attempt. The engine's time is shared among the prompts that it has by their own length."""
        started = time.perf_counter()
        spans = [self.meter.enter(_FIXED_WEIGHT + len(prompt.own)) for prompt in prompts]
        try:
            answers = await self._ask(question, prompts)
        except EngineUnavailable as error:
            if isinstance(error, EngineBusy) or error.reason == "timeout":
                self._concurrency.refused()
            raise
        finally:
            shares = [self.meter.leave(span) for span in spans]
        seconds = time.perf_counter() - started
        self._concurrency.answered(len(prompts))
        self._answered += 1
        self._known_good = question, prompts[-1] if self._tracing is None else structs.replace(prompts[-1], asker=None)
        pairs = zip(answers, shares, strict=True)
        return [structs.replace(answer, seconds=seconds, engine_seconds=share) for answer, share in pairs]

    async def _ask(self, question: Labels | Writing, prompts: Sequence[Prompt]) -> Sequence[Score | Completion]:
        if isinstance(question, Writing):
            return await self._write(question, prompts)
        return await self._score(question, prompts)

    async def _complete(self, prompts: Sequence[Prompt], parameters: dict[str, Any]) -> dict[str, Any]:
        prompt = prompts[0].text if len(prompts) == 1 else [prompt.text for prompt in prompts]
        body = {"model": self._model, "prompt": prompt, **parameters}
        ask = partial(self._http.call, "POST", "/v1/completions", body, self._dialect.read)
        if self._tracing is None or not (askers := [prompt.asker for prompt in prompts if prompt.asker is not None]):
            return await ask()
        request = Request(
            provider=self._dialect.name,
            model=self._model,
            url=self._http.root,
            prompts=len(prompts),
            max_tokens=int(parameters["max_tokens"]),
            temperature=float(parameters["temperature"]),
            askers=askers,
        )
        with self._tracing.request(request) as answered:
            answer = await ask()
            answered(str(answer.get("model") or self._model), _used(answer))
            return answer

    async def _score(self, labels: Labels, prompts: Sequence[Prompt]) -> list[Score]:
        answer = await self._complete(prompts, self._dialect.scoring(labels))
        each = self._dialect.choices_per_prompt
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            groups = [choices[i : i + each] for i in range(0, len(choices), each)]
            logprobs = [self._dialect.logprobs(group, labels) for group in groups]
            usage = self._dialect.usage(answer)
        except UNKNOWN_SHAPE as error:
            raise self._unreadable(error) from error
        if len(logprobs) != len(prompts) or len(usage) != len(prompts) or len(choices) != each * len(prompts):
            raise EngineUnavailable(
                f"engine {self._http.root} answered {len(logprobs)} of {len(prompts)} prompts; "
                "if this goes on, set WEIR_ENGINE_PROMPTS_PER_REQUEST=1",
                "bad_answer",
            )
        pairs = zip(logprobs, usage, strict=True)
        return [Score(_normalised(row), tokens, 0.0, source=self._dialect.source) for row, tokens in pairs]

    async def _write(self, writing: Writing, prompts: Sequence[Prompt]) -> list[Completion]:
        answer = await self._complete(prompts, self._dialect.writing(writing))
        try:
            (choice,) = answer["choices"]
            (usage,) = self._dialect.usage(answer)
            tokens = self._dialect.tokens(choice)
            return [Completion(str(choice["text"]), tokens, choice.get("finish_reason") != "length", usage, 0.0)]
        except UNKNOWN_SHAPE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> EngineUnavailable:
        return EngineUnavailable(
            f"engine {self._http.root} gave an answer that {self._dialect.name} does not give "
            f"({type(error).__name__}: {error}); if this goes on, set WEIR_ENGINE_DIALECT",
            "bad_answer",
        )

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Raises EngineUnavailable where an answer has another shape than the one that is read."""
        try:
            yield
        except UNKNOWN_SHAPE as error:
            raise EngineUnavailable(
                f"engine {self._http.root}{path} answered JSON of an unknown shape", "bad_answer"
            ) from error


def _used(answer: dict[str, Any]) -> Usage:
    """What a request used; nothing where its answer does not say, which is found out where answers are read."""
    try:
        return usage_of_request(answer)
    except UNKNOWN_SHAPE:
        return Usage()


def _normalised(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Log-probabilities that sum to one as probabilities."""
    top = max(logprobs)
    total = top + math.log(sum(math.exp(value - top) for value in logprobs))
    return tuple(value - total for value in logprobs)
