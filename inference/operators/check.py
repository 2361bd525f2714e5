"""`check`: does a document support a claim, contradict it, or not speak of it?"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from inference.cost import Prices
from inference.engine import Engine, Prompt
from inference.judgement import Judgement, Passage
from inference.operators.labels import Instruction, LabelOperator, LabelSettings, Share
from inference.prompt import Example, LabelPrompt
from inference.quoted import quoted, split_quoted
from inference.retrieval import retrieve
from inference.section import Section
from inference.text import one_line, sentences

SUPPORTED, CONTRADICTED, NOT_COVERED = "supported", "contradicted", "not_covered"

_CLAIM_SHARE = 0.25  # of the room; the document has the rest
_KNOWN_DOCUMENTS = 64  # whose parts are remembered, because many claims are checked against one document
_KNOWN_CHARACTERS = 100_000


class CheckExample(Example):
    """A claim, a document, and the label that the claim should get."""

    document: str = Field(min_length=1, max_length=2000, description="what the claim is checked against")


class CheckAnswers(Section):
    """What the model answers for each label."""

    supported: str = Field(default="true", min_length=1)
    contradicted: str = Field(default="false", min_length=1)
    not_covered: str = Field(default="unknown", min_length=1)


class CheckSettings(LabelSettings):
    """A document that claims are checked against, and how sure the model must be."""

    operator: Literal["check"]
    instruction: Instruction = "Say whether the claim is true according to the document."
    document: str = Field(default="", description="for all claims that come without a document of their own")
    answers: CheckAnswers = CheckAnswers()
    examples: Sequence[CheckExample] = Field(
        default_factory=list, description="solved examples, in the order of the prompt"
    )
    parts: int = Field(
        default=3, ge=1, le=50, description="how many parts of a long document are read, the most relevant first"
    )
    review_below: Share = Field(default=0.5, description="confidence under which a person should look")

    def labels(self) -> Mapping[str, str]:
        return {
            SUPPORTED: "the document says what the claim says",
            CONTRADICTED: "the document says something else than the claim",
            NOT_COVERED: "the document does not speak of it",
        }

    def names(self) -> list[str]:
        return list(self.labels())

    def words(self) -> Mapping[str, str]:
        return self.answers.model_dump()

    def prompt(self, words: Mapping[str, str]) -> LabelPrompt:
        return CheckPrompt(self, words)


class CheckPrompt(LabelPrompt):
    """The document before the claim, so that the engine's prefix cache pays for it once for all claims about it.

    Each line of the document is marked (`inference.quoted`), and the claim is one line.
    """

    def __init__(self, settings: CheckSettings, words: Mapping[str, str]) -> None:
        """words: label to the word that answers for it."""
        super().__init__(settings.instruction, settings.labels(), words, ())
        self.shared += "".join(
            f"{_question(shot.document, shot.text)} {words[shot.label]}\n\n" for shot in settings.examples
        )
        self._read = (settings.document, settings.parts)

    def render(self, text: str, context: Sequence[str] = ()) -> Prompt:
        """The prompt for a claim and a part of a document. Without one, `text` stands for both: the model's bias is
        what it says where neither has content.
        """
        (document,) = context or (text,)
        return Prompt(self.shared, _question(document, text))

    def hash(self, *settings: object) -> str:
        return super().hash(*settings, *self._read)


def _question(document: str, claim: str) -> str:
    return f"Document:\n{quoted(document)}Claim: {one_line(claim)}\nLabel:"


class Check(LabelOperator):
    """Decides `accept`, `escalate` what the document contradicts, or `review` in doubt.

    A document that does not fit is split, and the claim is checked against its most relevant parts. A part that does
    not cover the claim says nothing about the others, so the most probable of the answers `supported` and
    `contradicted` stands; without any, the claim is `not_covered`, as probable as it is for the part that most nearly
    covers it. A claim that is too long is split as well, and each part of it checked.

    Confidence is the calibrated probability of the label; the scores are those of the part that it comes from. The
    evidence is the sentence of that part that shares most with the claim, as it stands in the document.

    What was said before the claim stands in the same line before it, as far as there is room: "Up to fifty miles." says
    little without its question.

    Without a document there is nothing to ask the model: `not_covered`, with confidence 0, for `review`.
    """

    decisions = ("accept", "review", "escalate")

    def __init__(self, settings: CheckSettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        super().__init__(settings, engine, prices)
        self._known: OrderedDict[str, list[str]] = OrderedDict()

    async def judge(self, passage: Passage) -> Judgement:
        """Check one claim. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        document = passage.document or self._settings.document
        if not quoted(document):
            return self._without_document(passage.text)
        reserved = int(self._scorer.room.tokens * _CLAIM_SHARE)
        text, read = await self._with_context(passage, reserved)
        questions = await self._questions(text, document, reserved)
        scored = await self._scorer.ask(questions, passage.caller)
        place, scores = self._merge(scored.probabilities)
        label = max(scores, key=scores.__getitem__)
        claim, (part,) = questions[place]
        return Judgement(
            decision=self._decide(label, scores[label]),
            label=label,
            scores=scores,
            confidence=scores[label],
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=scored.calls,
            parts=len(questions),
            context_read=tuple(range(len(passage.context) - read, len(passage.context))),
            confidence_source=scored.source,
            output={"claim": passage.text, "evidence": "" if label == NOT_COVERED else evidence(claim, part, document)},
        )

    async def _questions(self, text: str, document: str, reserved: int) -> list[tuple[str, tuple[str, ...]]]:
        """Parts of the claim, each with the part of the document that it is checked against.

        reserved: tokens for the claim.
        """
        room = self._scorer.room
        parts = await self._parts(document, room.tokens - reserved)
        return [
            (claim, (parts[index],))
            for claim in await room.split(text, reserved)
            for index in sorted(retrieve(claim, parts)[: self._settings.parts])
        ]

    async def _with_context(self, passage: Passage, tokens: int) -> tuple[str, int]:
        """The claim after what was said before it, as much of that as fits, the last of it first; and how many texts
        that is.
        """
        text, read = passage.text, 0
        for said in reversed(passage.context):
            longer = f"{said} {text}"
            if not await self._scorer.room.fits(longer, tokens):
                break
            text, read = longer, read + 1
        return text, read

    async def _parts(self, document: str, tokens: int) -> list[str]:
        known = self._known.get(document)
        if known is None:
            known = await split_quoted(self._scorer.room, document, tokens)
            if len(document) <= _KNOWN_CHARACTERS:
                self._known[document] = known
                if len(self._known) > _KNOWN_DOCUMENTS:
                    self._known.popitem(last=False)
        return known

    def _merge(self, answers: Sequence[Sequence[float]]) -> tuple[int, Mapping[str, float]]:
        """Which answer counts, by its index, and its scores."""
        named = [dict(zip(self._scorer.labels, answer, strict=True)) for answer in answers]
        covering = [i for i, scores in enumerate(named) if max(scores, key=scores.__getitem__) != NOT_COVERED]
        if covering:
            place = max(covering, key=lambda i: max(named[i].values()))
        else:
            place = min(range(len(named)), key=lambda i: named[i][NOT_COVERED])
        return place, named[place]

    def _decide(self, label: str, confidence: float) -> str:
        if confidence < self._settings.review_below:
            return "review"
        return "escalate" if label == CONTRADICTED else "accept"

    def _without_document(self, claim: str) -> Judgement:
        return Judgement(
            decision="review",
            label=NOT_COVERED,
            scores={label: float(label == NOT_COVERED) for label in self._scorer.labels},
            confidence=0.0,
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=(),
            parts=1,
            output={"claim": claim, "evidence": ""},
        )


def evidence(claim: str, part: str, document: str) -> str:
    """The sentence of the part that is most relevant to the claim, exactly as the document has it."""
    found = sentences(part)
    words = found[retrieve(claim, found)[0]].split()
    exact = re.search(r"\s+".join(map(re.escape, words)), document)
    return exact[0] if exact else ""
