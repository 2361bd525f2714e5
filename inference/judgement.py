"""What an operator is given and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from inference.engine import Usage


@dataclass(frozen=True, slots=True)
class Passage:
    """Text to be judged. context: texts that came before it in its conversation, oldest first; not judged."""

    text: str
    context: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One prompt that was sent to the engine. seconds: from request to answer. cost: US dollars."""

    usage: Usage
    seconds: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """An operator's answer for one passage.

    decision: what to do, one of the operator's decisions. label: the most probable label. scores: calibrated
    probability of each label, in the order of the pipeline file; where the text was judged in parts, see the operator.
    confidence: calibrated probability that `decision` rests on. calls: one for each part of the text that differs from
    the others. parts: how many parts the text was judged in. context_read: whether the model read the context.
    """

    decision: str
    label: str
    scores: Mapping[str, float]
    confidence: float
    model: str
    prompt_hash: str
    calls: Sequence[Call]
    parts: int
    context_read: bool

    @property
    def usage(self) -> Usage:
        """Tokens of all calls together."""
        return reduce(add, (call.usage for call in self.calls), Usage())

    @property
    def cost_usd(self) -> float:
        """US dollars of all calls together."""
        return sum(call.cost_usd for call in self.calls)
