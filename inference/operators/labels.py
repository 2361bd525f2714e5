"""What `moderate`, `classify` and `check` share: one prompt, one token, a calibrated probability for each label."""

import asyncio
import itertools
import logging
import string
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, Self

from msgspec import Struct
from pydantic import Field, model_validator

from inference.calibration import Calibration, CalibrationSettings
from inference.cost import Prices
from inference.engine import Caller, Completion, ConfidenceSource, Engine, LabelToken, Score
from inference.errors import EngineMisconfigured, PromptRejected
from inference.judgement import Call, Identity, Judgement, Passage
from inference.operators.asking import few_at_once, preparing
from inference.prompt import Example, LabelPrompt
from inference.room import Room, chosen
from inference.section import Section

log = logging.getLogger(__name__)

Share = Annotated[float, Field(ge=0, le=1)]
Instruction = Annotated[str, Field(min_length=1, description="what the model is to do, one or two sentences")]
LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="lower case, for topics and metrics")]

_ANSWER_TOKENS = 1
_MAX_LABELS = 128  # vLLM returns no more tokens
_PAIRS = ["".join(pair) for pair in itertools.product(string.ascii_uppercase, repeat=2)]


class LabelSettings(Section):
    """Settings that every operator with one label of several has."""

    instruction: Instruction
    examples: Sequence[Example] = Field(default_factory=list, description="solved examples, in the order of the prompt")
    calibration: CalibrationSettings = Field(default=CalibrationSettings())

    def labels(self) -> Mapping[str, str]:
        """Label to definition, in the order of the scores."""
        raise NotImplementedError

    def about(self) -> str:
        """What it gives, for people."""
        return f"{', '.join(self.labels())}; {len(self.examples)} examples"

    def fine(self) -> int | None:
        """Index of the label of text with which nothing is wrong, where there is one."""
        return None

    def names(self) -> list[str]:
        """The labels as the file has them, so that one that stands there twice is noticed."""
        raise NotImplementedError

    def words(self) -> Mapping[str, str]:
        """Label to the word that the model answers with."""
        return {label: label for label in self.labels()}

    def prompt(self, words: Mapping[str, str]) -> LabelPrompt:
        """The prompt, with these words for the labels."""
        return LabelPrompt(self.instruction, self.labels(), words, self.examples)

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


class Scored(Struct, frozen=True):
    """probabilities: of the labels, for each question. calls: for each question that differs from the others.
    context_read: which texts of the passage's context the model read. source: what the probabilities rest on.
    """

    probabilities: list[list[float]]
    calls: list[Call]
    context_read: tuple[int, ...]
    source: ConfidenceSource


class LabelScorer:
    """Scores text against a fixed set of labels with one output token a question."""

    def __init__(self, settings: LabelSettings, engine: Engine, prices: Prices) -> None:
        self.labels = list(settings.labels())
        self._settings = settings
        self._engine = engine
        self._prices = prices
        self._prompt = settings.prompt(settings.words())
        self._tokens: tuple[LabelToken, ...] = ()
        self._calibration = Calibration([], [1.0] * len(self.labels))
        self.room = Room(engine)
        self.identity = self._identify("")  # right once `prepare` has returned

    def _identify(self, prompt_hash: str) -> Identity:
        text = self._prompt.render("{text}", ["{context}"]).text
        return Identity(self._engine.model, prompt_hash, text, self.labels)

    async def prepare(self) -> None:
        """Choose the label tokens, measure the model's bias and the room that a text has.

        Raises EngineMisconfigured if the model cannot tell the labels apart, if the prompt leaves no room for text, or
        if the engine rejects it; EngineUnavailable if the engine fails at it again and again while it answers others.
        """
        with preparing("the labels"):
            await self._prepare()

    async def _prepare(self) -> None:
        settings, calibration = self._settings, self._settings.calibration
        words = await single_token_words(self._engine, settings.words())
        self._prompt = settings.prompt(words)
        self._tokens = tuple([await label_token(self._engine, f" {words[label]}") for label in self.labels])
        await self.room.measure(self._prompt.render("").text, _ANSWER_TOKENS)
        try:
            bias = await asyncio.gather(
                *(self._engine.score(self._prompt.render(text), self._tokens) for text in calibration.content_free)
            )
        except PromptRejected as error:
            raise EngineMisconfigured(
                f"the engine takes no prompt for a text of calibration.content_free: {error}"
            ) from error
        prior = [calibration.prior.get(label, 1.0) for label in self.labels]
        self._calibration = Calibration(
            [score.logprobs for score in bias], prior, calibration.temperature, calibration.isotonic, settings.fine()
        )
        shaping = calibration.model_dump_json(exclude={"prior"})
        self.identity = self._identify(self._prompt.hash(self.labels, prior, shaping))

    async def score(self, passage: Passage) -> Scored:
        """Calibrated probabilities of the labels for each part of the text.

        Text that fits is one part, with its context. Longer text is split and judged without context. Parts that are
        the same are asked for once. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured.
        """
        parts, read = await self.room.parts(passage)
        context = tuple(chosen(passage, read))
        return await self.ask([(part, context) for part in parts], passage.caller, read)

    async def ask(
        self, questions: Sequence[tuple[str, tuple[str, ...]]], caller: Caller, read: tuple[int, ...] = ()
    ) -> Scored:
        """Calibrated probabilities of the labels for texts, each with what stands before it in its prompt.

        read: what the answer is to have as `context_read`. Nothing is split here. Raises like `score`.
        """

        def one(question: tuple[str, tuple[str, ...]]) -> Awaitable[Score]:
            return self._engine.score(self._prompt.render(*question), self._tokens, caller)

        distinct = list(dict.fromkeys(questions))
        scores = await few_at_once(one, distinct)
        probabilities = {
            question: self._calibration(score.logprobs) for question, score in zip(distinct, scores, strict=True)
        }
        calls = [call_of(score, self._prices) for score in scores]
        return Scored([probabilities[question] for question in questions], calls, read, scores[0].source)


class LabelOperator:
    """Base of the operators that ask for a label: prepared, and identified, by their scorer."""

    def __init__(self, settings: LabelSettings, engine: Engine, prices: Prices) -> None:
        self._scorer = LabelScorer(settings, engine, prices)

    @property
    def identity(self) -> Identity:
        """Prompt, model and labels, right once `prepare` has returned."""
        return self._scorer.identity

    async def prepare(self) -> None:
        """As `LabelScorer.prepare`."""
        await self._scorer.prepare()

    def _judgement(
        self, scored: Scored, decision: str, label: str, scores: Mapping[str, float], confidence: float
    ) -> Judgement:
        """What was decided, with what it took."""
        return Judgement(
            decision=decision,
            label=label,
            scores=scores,
            confidence=confidence,
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=scored.calls,
            parts=len(scored.probabilities),
            context_read=scored.context_read,
            confidence_source=scored.source,
        )


def call_of(answer: Score | Completion, prices: Prices) -> Call:
    """What an answer of the engine took."""
    cost = prices.cost(answer.usage, answer.engine_seconds)
    return Call(answer.usage, answer.seconds, cost, answer.engine_seconds)


async def label_token(engine: Engine, text: str) -> LabelToken:
    """The one token of a text, of an engine that can tell. Raises EngineMisconfigured if it has more."""
    tokens = await engine.tokenize(text)
    if tokens is not None and len(tokens) != 1:
        raise EngineMisconfigured(f"{engine.model} writes the answer {text.strip()!r} with {len(tokens)} tokens")
    return LabelToken(text, tokens[0] if tokens else None)


async def single_token_words(engine: Engine, words: Mapping[str, str]) -> Mapping[str, str]:
    """The labels' own words if each is a single token of its own for this model, otherwise letters.

    More labels than there are letters get pairs of letters that are a single token. For an engine without tokenizer
    each word is taken for one token. Raises EngineMisconfigured if the model has too few such pairs.
    """
    tokens = [await engine.tokenize(f" {word}") for word in words.values()]
    ids = {(word,) if t is None else tuple(t) for word, t in zip(words.values(), tokens, strict=True)}
    if all(len(i) == 1 for i in ids) and len(ids) == len(words):
        return words
    log.info("%s cannot answer %s with one token each; using letters", engine.model, "/".join(words.values()))
    if len(words) <= len(string.ascii_uppercase):
        return dict(zip(words, string.ascii_uppercase, strict=False))
    pairs = await _single_token_pairs(engine, len(words))
    return dict(zip(words, pairs, strict=True))


async def _single_token_pairs(engine: Engine, count: int) -> list[str]:
    found: list[str] = []
    for pair in _PAIRS:
        tokens = await engine.tokenize(f" {pair}")
        if tokens is None or len(tokens) == 1:
            found.append(pair)
        if len(found) == count:
            return found
    raise EngineMisconfigured(
        f"{engine.model} writes only {len(found)} pairs of letters with one token; {count} labels are too many for it"
    )
