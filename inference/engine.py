"""The small interface between operators and whatever runs the model."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

ConfidenceSource = Literal["logprobs", "votes", "prior", "screen"]


class Usage(Struct, frozen=True):
    """Tokens of one or more calls. `cached_tokens` are input tokens that the engine did not have to evaluate again."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
        )


class Prompt(Struct, frozen=True):
    """What the model reads.

    shared: its beginning, as far as many prompts have it in common; the engine's prefix cache pays for it once. own:
    the rest. asker: what `inference.tracing` calls one; no part of what is read.
    """

    shared: str
    own: str
    asker: object | None = None

    @property
    def text(self) -> str:
        """All of it, as sent."""
        return self.shared + self.own


class Caller(Struct, frozen=True):
    """For whom the engine is asked.

    tenant: prompts of different tenants get equal shares of the engine while there is more work than it can do.
    urgent_at: seconds of `time.monotonic` from which on the prompt goes before those that are not urgent yet.
    """

    tenant: str = ""
    urgent_at: float = math.inf


class LabelToken(Struct, frozen=True):
    """One answer that a prompt may have: its text, and its id where the engine has a tokenizer to ask."""

    text: str
    id: int | None = None


class Score(Struct, frozen=True):
    """What the engine thinks of one prompt.

    logprobs: natural logarithms of the labels' probabilities, in the order asked, normalised over the labels. seconds:
    from the request that carried the prompt to its answer. engine_seconds: the prompt's share of the time in which the
    engine was at work for us (`inference.metering`). source: where the probabilities are from: the model's own, or
    counted answers of a server that does not tell them.
    """

    logprobs: tuple[float, ...]
    usage: Usage
    seconds: float
    engine_seconds: float = 0.0
    source: ConfidenceSource = "logprobs"


class Token(Struct, frozen=True):
    """A token that the model wrote. logprob: natural logarithm of its probability."""

    text: str
    logprob: float


class Completion(Struct, frozen=True):
    """What the model wrote.

    tokens: what `text` is made of; empty where the server does not tell probabilities. finished: False if it was cut at
    the limit of tokens. seconds, engine_seconds: as in `Score`.
    """

    text: str
    tokens: tuple[Token, ...]
    finished: bool
    usage: Usage
    seconds: float
    engine_seconds: float = 0.0


class Writing(Struct, frozen=True):
    """How the model is to write.

    max_tokens: where it is cut. schema: JSON schema, as JSON, that the text must follow; empty for free text. stop:
    texts at which it ends, not part of it. temperature: 0 for the most probable text.
    """

    max_tokens: int
    schema: str = ""
    stop: tuple[str, ...] = ()
    temperature: float = 0.0


ANYONE = Caller()


class Engine(Protocol):
    """A model server. One object serves all operators of a worker."""

    @property
    def model(self) -> str:
        """Name of the model, as the server gives it."""
        ...

    @property
    def context_tokens(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    async def connect(self) -> None:
        """Find out what the server is and which model it has.

        Raises EngineUnavailable or EngineMisconfigured. Must return once before any other call.
        """
        ...

    async def tokenize(self, text: str) -> list[int] | None:
        """Token ids of `text` without special tokens, or None where the server has no tokenizer to ask.

        Waits and tries again while the engine is unavailable. Raises PromptRejected, AttemptsExhausted or
        EngineMisconfigured.
        """
        ...

    async def score(self, prompt: Prompt, labels: Sequence[LabelToken], caller: Caller = ANYONE) -> Score:
        """The probabilities of `labels` as the next token after `prompt`.

        Waits and tries again while the engine is unavailable. Raises PromptRejected, AttemptsExhausted or
        EngineMisconfigured.
        """
        ...

    async def generate(self, prompt: Prompt, writing: Writing, caller: Caller = ANYONE) -> Completion:
        """What the model writes after `prompt`. Waits and raises like `score`."""
        ...

    async def ready(self) -> str | None:
        """None if the server answers, otherwise the reason why not."""
        ...

    async def close(self) -> None:
        """Give connections back. Calls that wait fail."""
        ...
