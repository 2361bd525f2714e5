"""What `moderate` and `classify` share: one prompt, one token, a calibrated probability for each label."""

import asyncio
import logging
import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, model_validator

from inference.calibration import CONTENT_FREE, Calibration
from inference.cost import Prices
from inference.engine import Engine, LabelToken, Score
from inference.errors import AttemptsExhausted, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.judgement import Call, Passage
from inference.prompt import Example, LabelPrompt
from inference.section import Section
from inference.text import one_line, split

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]
Instruction = Annotated[str, Field(min_length=1, description="what the model is to do, one or two sentences")]
LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower case, for topics and metrics")]

_ANSWER_TOKENS = 1
_SERVER_TOKENS = 4  # that the server puts around a prompt, and that come to be where text and prompt meet
_OVERLAP = 0.1  # share of a part that the next part repeats
_CONTEXT_LINE_TOKENS = 4  # "Earlier: " and the line break
_PARTS_AT_ONCE = 2  # so that one long text leaves the engine to others as well
_SHRINK = 0.9  # a part that is still too long is cut to this share of what would have fitted
_MAX_LABELS = len(string.ascii_uppercase)  # each label can fall back to a letter, and vLLM returns up to 128 tokens


class CalibrationSettings(Section):
    """How the model's bias is measured and what is expected instead."""

    content_free: list[str] = Field(
        default=list(CONTENT_FREE),
        description="texts that deserve no label in particular; the model's answer to them is its bias; [] for none",
    )
    prior: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="label to its expected share of the traffic, any scale; all labels or none; none: all equal",
    )


class LabelSettings(Section):
    """Settings that every operator with one label of several has."""

    instruction: Instruction
    examples: list[Example] = Field(default_factory=list, description="solved examples, in the order of the prompt")
    calibration: CalibrationSettings = Field(default=CalibrationSettings())

    def labels(self) -> Mapping[str, str]:
        """Label to definition, in the order of the scores."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """The labels as the file has them, so that one that stands there twice is noticed."""
        raise NotImplementedError

    def words(self) -> Mapping[str, str]:
        """Label to the word that the model answers with."""
        return {label: label for label in self.labels()}

    @model_validator(mode="after")
    def _labels_are_known(self) -> Self:
        labels = self.names()
        known = f"the labels are: {', '.join(labels)}"
        if len(set(labels)) < len(labels):
            raise ValueError(f"two labels have the same name; {known}")
        if len(labels) > _MAX_LABELS:
            raise ValueError(f"{len(labels)} labels; at most {_MAX_LABELS} can be told apart by one token")
        for example in self.examples:
            if example.label not in labels:
                raise ValueError(f"example label {example.label!r} is not a label of this stage; {known}")
        if self.calibration.prior and set(self.calibration.prior) != set(labels):
            raise ValueError(f"calibration.prior must name every label and no other; {known}")
        return self


@dataclass(frozen=True, slots=True)
class Scored:
    """probabilities: of the labels, for each part of the text. calls: for each part that differs from the others.
    context_read: whether the model read the passage's context.
    """

    probabilities: list[list[float]]
    calls: list[Call]
    context_read: bool


class LabelScorer:
    """Scores text against a fixed set of labels with one output token a part."""

    def __init__(self, settings: LabelSettings, engine: Engine, prices: Prices) -> None:
        self.labels = list(settings.labels())
        self.prompt_hash = ""
        self._settings = settings
        self._engine = engine
        self._prices = prices
        self._prompt = LabelPrompt(settings.instruction, settings.labels(), settings.words(), settings.examples)
        self._tokens: list[LabelToken] = []
        self._calibration = Calibration([], [1.0] * len(self.labels))
        self._budget = 0

    @property
    def prompt_text(self) -> str:
        """The prompt as sent, with {context} and {text} where a row's text goes."""
        return self._prompt.render("{text}", ["{context}"])

    @property
    def model(self) -> str:
        """Name of the model that judges."""
        return self._engine.model

    async def prepare(self) -> None:
        """Choose the label tokens, measure the model's bias and the room that a text has.

        Raises EngineMisconfigured if the model cannot tell the labels apart, if the prompt leaves no room for text, or
        if the engine rejects it; EngineUnavailable if the engine fails at it again and again while it answers others.
        """
        try:
            await self._prepare()
        except AttemptsExhausted as error:
            raise EngineUnavailable(f"the engine cannot be asked for the labels: {error}", error.reason) from error

    async def _prepare(self) -> None:
        words = await self._single_token_words()
        self._prompt = LabelPrompt(self._settings.instruction, self._settings.labels(), words, self._settings.examples)
        self._tokens = [await self._label_token(words[label]) for label in self.labels]
        shared = await self._count_tokens(self._prompt.render(""))
        self._budget = self._engine.context_tokens - shared - _ANSWER_TOKENS - _SERVER_TOKENS
        if self._budget < shared // 20 + 16:
            raise EngineMisconfigured(
                f"the prompt has {shared} tokens and {self._engine.model} takes {self._engine.context_tokens}: "
                "no room is left for text; use fewer or shorter examples"
            )
        calibration = self._settings.calibration
        try:
            bias = await asyncio.gather(
                *(self._engine.score(self._prompt.render(text), self._tokens) for text in calibration.content_free)
            )
        except PromptRejected as error:
            raise EngineMisconfigured(
                f"the engine takes no prompt for a text of calibration.content_free: {error}"
            ) from error
        prior = [calibration.prior.get(label, 1.0) for label in self.labels]
        self._calibration = Calibration([score.logprobs for score in bias], prior)
        self.prompt_hash = self._prompt.hash(self.labels, calibration.content_free, prior)

    async def score(self, passage: Passage) -> Scored:
        """Calibrated probabilities of the labels for each part of the text.

        Text that fits is one part, with its context. Longer text is split at sentence ends with some overlap, and
        context is left out. Parts that are the same are asked for once. Raises PromptRejected, AttemptsExhausted,
        EngineMisconfigured.
        """
        parts, context = await self._parts(passage)
        turn = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def ask(part: str) -> Score:
            async with turn:
                return await self._engine.score(self._prompt.render(part, context), self._tokens)

        distinct = list(dict.fromkeys(parts))
        scores = dict(zip(distinct, await asyncio.gather(*map(ask, distinct)), strict=True))
        probabilities = {part: self._calibration(score.logprobs) for part, score in scores.items()}
        calls = [Call(score.usage, score.seconds, self._prices.cost(score.usage)) for score in scores.values()]
        return Scored([probabilities[part] for part in parts], calls, bool(context))

    async def _parts(self, passage: Passage) -> tuple[list[str], Sequence[str]]:
        bounds = [await self._bound(message) for message in passage.context]
        room = self._budget - sum(bounds) - _CONTEXT_LINE_TOKENS * len(bounds)
        if room > 0 and await self._fits(passage.text, room):
            return [passage.text], passage.context
        return await self._split(passage.text), ()

    async def _fits(self, text: str, room: int) -> bool:
        """Whether the text has at most `room` tokens. A token is at least one byte, so short text needs no count."""
        return len(one_line(text).encode()) <= room or await self._count_tokens(one_line(text)) <= room

    async def _bound(self, text: str) -> int:
        """At least as many tokens as the text has."""
        size = len(one_line(text).encode())
        return size if size < 64 else await self._count_tokens(one_line(text))

    async def _split(self, text: str) -> list[str]:
        """Parts that each fit into the prompt, judged by the model's own tokenizer."""
        if await self._fits(text, self._budget):
            return [text]
        tokens = await self._count_tokens(one_line(text))
        characters = max(1, int(len(text) * self._budget / tokens * _SHRINK))
        parts: list[str] = []
        for part in split(text, characters, int(characters * _OVERLAP)):
            parts += [part] if await self._fits(part, self._budget) else await self._halve(part)
        return parts

    async def _halve(self, text: str) -> list[str]:
        """For text that is denser in tokens than the rest."""
        halves = split(text, max(1, math.ceil(len(text) / 2)))
        parts: list[str] = []
        for half in halves:
            parts += [half] if await self._fits(half, self._budget) else await self._halve(half)
        return parts

    async def _count_tokens(self, text: str) -> int:
        """Tokens of the text; for an engine without tokenizer its bytes, which are at least as many."""
        tokens = await self._engine.tokenize(text)
        return len(text.encode()) if tokens is None else len(tokens)

    async def _label_token(self, word: str) -> LabelToken:
        tokens = await self._engine.tokenize(f" {word}")
        if tokens is not None and len(tokens) != 1:
            raise EngineMisconfigured(f"{self._engine.model} writes the answer {word!r} with {len(tokens)} tokens")
        return LabelToken(f" {word}", tokens[0] if tokens else None)

    async def _single_token_words(self) -> Mapping[str, str]:
        """The labels' own words if each is a single token of its own for this model, otherwise letters.

        For an engine without tokenizer each word is taken for one token.
        """
        words = self._settings.words()
        tokens = [await self._engine.tokenize(f" {word}") for word in words.values()]
        ids = {(word,) if t is None else tuple(t) for word, t in zip(words.values(), tokens, strict=True)}
        if all(len(i) == 1 for i in ids) and len(ids) == len(words):
            return words
        letters = dict(zip(words, string.ascii_uppercase, strict=False))
        log.info("%s cannot answer %s with one token each; using letters", self._engine.model, "/".join(words.values()))
        return letters
