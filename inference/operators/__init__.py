"""Operators turn text into judgements, one module each."""

from typing import Annotated, Protocol

from pydantic import Field

from inference.cost import Prices
from inference.engine import Engine
from inference.judgement import Judgement, Passage
from inference.operators.classify import Classify, ClassifySettings
from inference.operators.labels import LabelScorer
from inference.operators.moderate import Moderate, ModerateSettings

OperatorSettings = Annotated[ModerateSettings | ClassifySettings, Field(discriminator="operator")]


class Operator(Protocol):
    """Judges text against fixed settings. `scorer.prepare()` must have returned once before."""

    scorer: LabelScorer

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected or AttemptsExhausted for this text, EngineMisconfigured for all."""
        ...


def create(settings: ModerateSettings | ClassifySettings, engine: Engine, prices: Prices) -> Operator:
    """The operator that these settings describe."""
    if isinstance(settings, ModerateSettings):
        return Moderate(settings, engine, prices)
    return Classify(settings, engine, prices)
