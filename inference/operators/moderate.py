"""`moderate`: is the text against the rules, and against which?"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from inference.cost import Prices
from inference.engine import Engine
from inference.judgement import Judgement, Passage
from inference.operators.labels import LabelName, LabelScorer, LabelSettings, Share
from inference.section import Section


class Category(Section):
    """One kind of text that is against the rules."""

    name: LabelName
    definition: str = Field(min_length=1, description="what falls under it, for the model to read")
    word: str | None = Field(default=None, description="what the model answers; default: the name")
    review: Share | None = Field(default=None, description="own threshold for review; default: the stage's")
    block: Share | None = Field(default=None, description="own threshold for block; default: the stage's")


class Allowed(Section):
    """The label of text that is fine."""

    name: LabelName = "ok"
    definition: str = Field(default="ordinary talk, jokes, complaints about things", min_length=1)


class Thresholds(Section):
    """From which score of a category on a row is reviewed, or blocked."""

    review: Share = 0.5
    block: Share = 0.9


class ModerateSettings(LabelSettings):
    """Categories with definitions, and thresholds to allow, review or block."""

    operator: Literal["moderate"]
    instruction: str = "You moderate a chat. Give each message one label."
    allowed: Allowed = Allowed()
    categories: list[Category] = Field(min_length=1)
    thresholds: Thresholds = Thresholds()

    def labels(self) -> Mapping[str, str]:
        rules = {category.name: category.definition for category in self.categories}
        return {self.allowed.name: self.allowed.definition, **rules}

    def words(self) -> Mapping[str, str]:
        own = {category.name: category.word for category in self.categories if category.word}
        return {label: own.get(label, label) for label in self.labels()}

    def threshold(self, category: Category) -> tuple[float, float]:
        """The scores from which a row is reviewed and blocked for this category."""
        review = self.thresholds.review if category.review is None else category.review
        block = self.thresholds.block if category.block is None else category.block
        return review, block

    @model_validator(mode="after")
    def _review_before_block(self) -> Self:
        for category in self.categories:
            review, block = self.threshold(category)
            if review > block:
                raise ValueError(f"category {category.name!r}: review ({review}) must not be above block ({block})")
        return self


class Moderate:
    """Decides `allow`, `review` or `block`.

    The score of a category is its calibrated probability; of text in parts, the highest of all parts, so one bad part
    is enough. The score of the allowed label is then the lowest of all parts.

    Confidence is the probability of the side that was taken: of the allowed label for `allow`, of all categories
    together for `review` and `block`.
    """

    decisions = ("allow", "review", "block")

    def __init__(self, settings: ModerateSettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        self._engine = engine
        self.scorer = LabelScorer(settings, engine, prices)

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected, EngineMisconfigured."""
        scored = await self.scorer.score(passage)
        parts = scored.probabilities
        allowed = self._settings.allowed.name
        scores = dict(zip(self.scorer.labels, (max(column) for column in zip(*parts, strict=True)), strict=True))
        scores[allowed] = min(part[0] for part in parts)
        decision = self._decide(scores)
        return Judgement(
            decision=decision,
            label=max(scores, key=scores.__getitem__),
            scores=scores,
            confidence=scores[allowed] if decision == "allow" else 1 - scores[allowed],
            model=self._engine.model,
            prompt_hash=self.scorer.prompt_hash,
            calls=scored.calls,
            parts=len(parts),
            context_read=scored.context_read,
        )

    def _decide(self, scores: Mapping[str, float]) -> str:
        decision = "allow"
        for category in self._settings.categories:
            review, block = self._settings.threshold(category)
            if scores[category.name] >= block:
                return "block"
            if scores[category.name] >= review:
                decision = "review"
        return decision
