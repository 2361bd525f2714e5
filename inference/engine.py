"""The small interface between operators and whatever runs the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Usage:
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


@dataclass(frozen=True, slots=True)
class LabelToken:
    """One answer that a prompt may have: its text, and its id where the engine has a tokenizer to ask."""

    text: str
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What the engine thinks of one prompt.

    logprobs: natural logarithms of the labels' probabilities, in the order asked, normalised over the labels.
    seconds: from the request that carried the prompt to its answer.
    """

    logprobs: tuple[float, ...]
    usage: Usage
    seconds: float


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

    async def score(self, prompt: str, labels: Sequence[LabelToken]) -> Score:
        """The probabilities of `labels` as the next token after `prompt`.

        Waits and tries again while the engine is unavailable. Raises PromptRejected, AttemptsExhausted or
        EngineMisconfigured.
        """
        ...

    async def ready(self) -> str | None:
        """None if the server answers, otherwise the reason why not."""
        ...

    async def close(self) -> None:
        """Give connections back. Calls that wait fail."""
        ...
