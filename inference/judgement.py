"""What an operator is given and what it gives back."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal

from msgspec import Struct, field

from inference.engine import ANYONE, Caller, ConfidenceSource, Usage

Tier = Literal["screen", "model"]


class Passage(Struct, frozen=True):
    """Text to be judged.

    context: texts from around it in its conversation, oldest first; not judged. context_tokens: how many tokens of them
    the model may read. document: what the text is checked against, for operators that do that. caller: for whom.
    """

    text: str
    context: Sequence[str] = ()
    context_tokens: int = 1_000_000
    document: str = ""
    caller: Caller = ANYONE


class Call(Struct, frozen=True):
    """One prompt that was sent to the engine.

    seconds: from request to answer. engine_seconds: its share of the engine's time. cost_usd: US dollars.
    """

    usage: Usage
    seconds: float
    cost_usd: float
    engine_seconds: float = 0.0


class Identity(Struct, frozen=True):
    """What makes an operator's answers comparable: the same identity gives the same answer to the same text.

    prompt_text: the prompt as sent, with {context} and {text} where a row's words go. labels: in the order of scores.
    """

    model: str
    prompt_hash: str
    prompt_text: str
    labels: Sequence[str]


class Screening(Struct, frozen=True):
    """What the screen before the model said of a text.

    screen: name and version. risk: its probability that the text is to be flagged. tier: who gave the judgement.
    audited: the row is one of those that the model judges whatever the screen says.
    """

    screen: str
    risk: float
    tier: Tier
    audited: bool


class Judgement(Struct, frozen=True):
    """An answer for one passage: an operator's, or that of the screen before it.

    decision: what to do, one of the operator's decisions. label: the most probable label; empty if the operator has
    none. scores: calibrated probability of each label, in the order of the pipeline file; where the text was judged in
    parts, see the operator. confidence: probability that `decision` rests on. confidence_source: what that was
    estimated from. output: what the operator found or wrote, for JSON; empty where the label says it all. calls: one
    for each prompt; parts of the text that are the same share one. parts: how many parts the text was judged in.
    context_read: which texts of the passage's context the model read, by their index. screening: None without a
    screen.
    """

    decision: str
    label: str
    scores: Mapping[str, float]
    confidence: float
    model: str
    prompt_hash: str
    calls: Sequence[Call]
    parts: int
    context_read: Sequence[int] = ()
    confidence_source: ConfidenceSource = "logprobs"
    output: Mapping[str, Any] = field(default_factory=dict)
    screening: Screening | None = None

    @property
    def usage(self) -> Usage:
        """Tokens of all calls together."""
        return reduce(add, [call.usage for call in self.calls] or [Usage()])

    @property
    def cost_usd(self) -> float:
        """US dollars of all calls together."""
        return sum([call.cost_usd for call in self.calls])

    @property
    def engine_seconds(self) -> float:
        """The engine's time that all calls together took."""
        return sum([call.engine_seconds for call in self.calls])
