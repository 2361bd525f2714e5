"""Operators turn text into judgements, one module each."""

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field

from inference.cost import Prices
from inference.engine import Engine
from inference.judgement import Identity, Judgement, Passage
from inference.operators.check import Check, CheckSettings
from inference.operators.classify import Classify, ClassifySettings
from inference.operators.extract import Extract, ExtractSettings
from inference.operators.guard import GuardOperator, GuardSettings
from inference.operators.moderate import Moderate, ModerateSettings
from inference.operators.summarize import Summarize, SummarizeSettings

AnySettings = ModerateSettings | ClassifySettings | ExtractSettings | CheckSettings | SummarizeSettings | GuardSettings
OperatorSettings = Annotated[AnySettings, Field(discriminator="operator")]


class Operator(Protocol):
    """Judges text against fixed settings."""

    @property
    def identity(self) -> Identity:
        """Prompt, model and labels. Right once `prepare` has returned."""
        ...

    @property
    def decisions(self) -> Sequence[str]:
        """What it may decide."""
        ...

    async def prepare(self) -> None:
        """Ask the engine for what must be known of it before the first row. Must return once before `judge`.

        Raises EngineMisconfigured; EngineUnavailable if the engine fails at it while it answers others.
        """
        ...

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected or AttemptsExhausted for this text, EngineMisconfigured for all."""
        ...


def create(settings: AnySettings, engine: Engine, prices: Prices) -> Operator:
    """The operator that these settings describe."""
    match settings:
        case ModerateSettings():
            return Moderate(settings, engine, prices)
        case ClassifySettings():
            return Classify(settings, engine, prices)
        case ExtractSettings():
            return Extract(settings, engine, prices)
        case CheckSettings():
            return Check(settings, engine, prices)
        case SummarizeSettings():
            return Summarize(settings, engine, prices)
        case GuardSettings():
            return GuardOperator(settings, engine, prices)
