"""`moderate`: is the text against the rules, and against which?"""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from inference.cost import Prices
from inference.engine import Engine
from inference.judgement import Judgement, Passage
from inference.operators.labels import Instruction, LabelName, LabelOperator, LabelSettings, Share
from inference.section import Section


class Category(Section):
    """One kind of text that is against the rules."""

    name: LabelName
    definition: str = Field(min_length=1, description="what falls under it, for the model to read")
    word: str | None = Field(default=None, description="what the model answers; default: the name")
    review: Share | None = Field(default=None, description="review from this score of the category on as well")
    block: Share | None = Field(default=None, description="block from this score of the category on as well")


class Allowed(Section):
    """The label of text that is fine."""

    name: LabelName = "ok"
    definition: str = Field(default="ordinary talk, jokes, complaints about things", min_length=1)


class Thresholds(Section):
    """From which probability on that a text breaks any rule it is reviewed, or blocked."""

    review: Share = 0.5
    block: Share = 0.9


class ModerateSettings(LabelSettings):
    """Categories with definitions, and thresholds to allow, review or block."""

    operator: Literal["moderate"]
    instruction: Instruction = "You moderate a chat. Give each message one label."
    allowed: Allowed = Allowed()
    categories: list[Category] = Field(min_length=1)
    thresholds: Thresholds = Thresholds()

    def labels(self) -> Mapping[str, str]:
        rules = {category.name: category.definition for category in self.categories}
        return {self.allowed.name: self.allowed.definition, **rules}

    def fine(self) -> int | None:
        return 0

    def names(self) -> list[str]:
        return [self.allowed.name, *(category.name for category in self.categories)]

    def words(self) -> Mapping[str, str]:
        own = {category.name: category.word for category in self.categories if category.word}
        return {label: own.get(label, label) for label in self.labels()}

    @model_validator(mode="after")
    def _review_before_block(self) -> Self:
        named = [("thresholds", self.thresholds.review, self.thresholds.block)]
        named += [(f"category {c.name!r}", c.review or 0, 1 if c.block is None else c.block) for c in self.categories]
        for name, review, block in named:
            if review > block:
                raise ValueError(f"{name}: review ({review}) must not be above block ({block})")
        return self


class Moderate(LabelOperator):
    """Decides `allow`, `review` or `block`.

    The score of a category is its calibrated probability; of text in parts, the highest of all parts, so one bad part
    is enough. The score of the allowed label is then the lowest of all parts.

    Confidence is the probability of the side that was taken: of the allowed label for `allow`, of all categories
    together for `review` and `block`.
    """

    decisions = ("allow", "review", "block")

    def __init__(self, settings: ModerateSettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        super().__init__(settings, engine, prices)

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        scored = await self._scorer.score(passage)
        allowed = self._settings.allowed.name
        scores = dict(zip(self._scorer.labels, _worst(scored.probabilities), strict=True))
        decision = self._decide(scores)
        confidence = scores[allowed] if decision == "allow" else 1 - scores[allowed]
        return self._judgement(scored, decision, max(scores, key=scores.__getitem__), scores, confidence)

    def _decide(self, scores: Mapping[str, float]) -> str:
        """Doubt about which rule is broken is no doubt that one is, so the stage's thresholds are for all together."""
        risk = 1 - scores[self._settings.allowed.name]
        stage, categories = self._settings.thresholds, self._settings.categories
        if risk >= stage.block or any(c.block is not None and scores[c.name] >= c.block for c in categories):
            return "block"
        if risk >= stage.review or any(c.review is not None and scores[c.name] >= c.review for c in categories):
            return "review"
        return "allow"


def _worst(parts: Sequence[Sequence[float]]) -> Sequence[float]:
    """The highest probability of each category in any part, and the lowest of the allowed label, which is the first."""
    if len(parts) == 1:
        return parts[0]
    allowed, *categories = zip(*parts, strict=True)
    return [min(allowed), *map(max, categories)]
