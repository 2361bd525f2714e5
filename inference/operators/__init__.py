"""Operators turn text into judgements, one module each."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What an operator with some settings may say.

    decisions: the first one lets the text pass. labels: empty for an operator without. fine: the label of text with
    which nothing is wrong, where there is one; it goes with the first decision, and no other label does.
    """

    decisions: Sequence[str]
    labels: Sequence[str]
    fine: str = ""


def vocabulary(settings: AnySettings) -> Vocabulary:
    """What the operator that these settings describe may say."""
    match settings:
        case ModerateSettings():
            return Vocabulary(Moderate.decisions, list(settings.labels()), settings.allowed.name)
        case GuardSettings():
            return Vocabulary(GuardOperator.decisions, settings.labels(), settings.allowed.name)
        case ClassifySettings():
            return Vocabulary(Classify.decisions, list(settings.labels()))
        case CheckSettings():
            return Vocabulary(Check.decisions, list(settings.labels()))
        case ExtractSettings():
            return Vocabulary(Extract.decisions, ())
        case SummarizeSettings():
            return Vocabulary(Summarize.decisions, ())


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
