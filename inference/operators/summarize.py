"""`summarize`: what does the text say, in fewer words?"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from inference.cost import Prices
from inference.engine import Caller, Completion, ConfidenceSource, Engine, Prompt, Writing
from inference.judgement import Identity, Judgement, Passage
from inference.operators.asking import few_at_once, preparing
from inference.operators.labels import Instruction, call_of
from inference.prompt import prompt_hash
from inference.quoted import quoted, split_quoted
from inference.room import Room
from inference.section import Section
from inference.text import one_line

_TOKENS_PER_WORD = 4  # with some to spare, and for languages that a tokenizer was not made for
_STOP = ("\n\n", "\n>")  # a summary is one paragraph
_LABEL = "summary"
_LINE_TOKENS = 8  # what marks a line, and what comes to be where it meets the next
_NOTHING: tuple[float, ConfidenceSource] = (0.0, "logprobs")


class SummarizeSettings(Section):
    """How long the summary should be."""

    operator: Literal["summarize"]
    instruction: Instruction = "Summarize the text."
    words: int = Field(default=60, ge=5, le=1000, description="how long the summary should be, for the model to read")
    max_tokens: int | None = Field(
        default=None, ge=8, description="where it is cut; default: four tokens a word of `words`"
    )

    def about(self) -> str:
        """What it gives, for people."""
        return f"a summary of {self.words} words"

    @property
    def limit(self) -> int:
        """Tokens that one summary may have."""
        return self.max_tokens or self.words * _TOKENS_PER_WORD


class Summarize:
    """Decides `accept`, or `review` where a summary was cut at `max_tokens` or is empty.

    Text that does not fit is summarized in parts; the parts' summaries, a line each, are summarized again, until one is
    left.

    A text without words is not shown to the model: its summary is empty.

    Confidence is the geometric mean of the probabilities of the last summary's tokens: how expected its words are to
    the model, which is fluency, not truth. For an engine that does not tell them it is the share of words that a second
    summary has in common with it (Dice's coefficient).
    """

    decisions = ("accept", "review")

    def __init__(self, settings: SummarizeSettings, engine: Engine, prices: Prices) -> None:
        self._engine = engine
        self._prices = prices
        self._room = Room(engine)
        self._writing = Writing(settings.limit, stop=_STOP)
        self._task = f"{one_line(settings.instruction)} Use at most {settings.words} words.\nSummary:\n\n"
        self.identity = self._identify("")  # right once `prepare` has returned

    def _identify(self, digest: str) -> Identity:
        return Identity(self._engine.model, digest, self._render("{text}").text, [_LABEL])

    def _render(self, text: str) -> Prompt:
        """The task after the text: a small model that is asked before it goes on with the text instead."""
        return Prompt("Text:\n", f"{quoted(text)}\n{self._task}")

    async def prepare(self) -> None:
        """Measure the room that a text has.

        Raises EngineMisconfigured if that is next to nothing, EngineUnavailable if the engine fails again and again
        while it answers others.
        """
        with preparing("the summary"):
            await self._room.measure(self._render("").text, self._writing.max_tokens)
        self.identity = self._identify(prompt_hash(self._render("{text}"), self._writing.max_tokens))

    async def judge(self, passage: Passage) -> Judgement:
        """Summarize one passage. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        answers: list[Completion] = []

        async def write(text: str) -> str:
            answers.append(await self._engine.generate(self._render(text), self._writing, passage.caller))
            return _clean(answers[-1].text)

        parts = await split_quoted(self._room, passage.text, self._room.tokens) if quoted(passage.text) else []
        texts = parts
        while len(texts) > 1:
            texts = await self._join(await few_at_once(write, texts))
        summary = await write(texts[0]) if texts else ""
        whole = bool(summary) and all(answer.finished for answer in answers)
        confidence, source = await self._confidence(texts[0], answers, passage.caller) if summary else _NOTHING
        return Judgement(
            decision="accept" if whole else "review",
            label="",
            scores={_LABEL: confidence},
            confidence=confidence,
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=[call_of(answer, self._prices) for answer in answers],
            parts=max(1, len(parts)),
            confidence_source=source,
            output={_LABEL: summary},
        )

    async def _join(self, summaries: Sequence[str]) -> list[str]:
        """The summaries, a line each, in texts that fit. At least two share one, so that one is left in the end."""
        half = max(1, self._room.tokens // 2 - _LINE_TOKENS)
        joined: list[str] = []
        for summary in filter(None, summaries):
            line = (await self._room.split(summary, half))[0]
            together = f"{joined[-1]}\n{line}" if joined else ""
            if joined and await self._room.count(quoted(together)) <= self._room.tokens:
                joined[-1] = together
            else:
                joined.append(line)
        return joined

    async def _confidence(self, text: str, answers: list[Completion], caller: Caller) -> tuple[float, ConfidenceSource]:
        last = answers[-1]
        if last.tokens:
            mean = math.fsum(token.logprob for token in last.tokens) / len(last.tokens)
            return math.exp(min(0.0, mean)), "logprobs"
        varied = Writing(self._writing.max_tokens, stop=_STOP, temperature=1.0)
        answers.append(await self._engine.generate(self._render(text), varied, caller))
        return _in_common(last.text, answers[-1].text), "votes"


def _clean(text: str) -> str:
    return " ".join(text.split())


def _in_common(one: str, other: str) -> float:
    """Dice's coefficient of the words: 0 for none in common, 1 for the same."""
    first, second = Counter(one.casefold().split()), Counter(other.casefold().split())
    return 2 * (first & second).total() / (first.total() + second.total())
