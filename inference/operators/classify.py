"""`classify`: which one of these labels fits the text best?"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from inference.cost import Prices
from inference.engine import Engine
from inference.judgement import Judgement, Passage
from inference.operators.labels import Instruction, LabelName, LabelOperator, LabelSettings, Share
from inference.section import Section


class ClassLabel(Section):
    """One of the labels."""

    name: LabelName
    definition: str = Field(min_length=1, description="what falls under it, for the model to read")
    word: str | None = Field(default=None, description="what the model answers; default: the name")


class ClassifySettings(LabelSettings):
    """A label set, and how sure the model must be."""

    operator: Literal["classify"]
    instruction: Instruction = "Give each message the label that fits it best."
    classes: list[ClassLabel] = Field(min_length=2)
    review_below: Share = Field(default=0.5, description="confidence under which a person should look")

    def labels(self) -> Mapping[str, str]:
        return {label.name: label.definition for label in self.classes}

    def names(self) -> list[str]:
        return [label.name for label in self.classes]

    def words(self) -> Mapping[str, str]:
        return {label.name: label.word or label.name for label in self.classes}


class Classify(LabelOperator):
    """Decides `accept` or `review` for the most probable label.

    Confidence is the calibrated probability of that label. Of text in parts, the parts' probabilities are multiplied
    (their logarithms averaged) and normalised: a label must fit the whole.
    """

    decisions = ("accept", "review")

    def __init__(self, settings: ClassifySettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        super().__init__(settings, engine, prices)

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        scored = await self._scorer.score(passage)
        parts = scored.probabilities
        weights = [math.exp(sum(map(_log, column)) / len(parts)) for column in zip(*parts, strict=True)]
        total = sum(weights)
        scores = {label: weight / total for label, weight in zip(self._scorer.labels, weights, strict=True)}
        label = max(scores, key=scores.__getitem__)
        decision = "accept" if scores[label] >= self._settings.review_below else "review"
        return self._judgement(scored, decision, label, scores, scores[label])


def _log(probability: float) -> float:
    return math.log(max(probability, 1e-12))
