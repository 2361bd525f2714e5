"""What the messages of each topic look like. The AsyncAPI document is generated from these types."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from inference.engine import ConfidenceSource
from streams.cloudevents import rfc3339

VERDICT_TYPE = "weir.verdict.v1"
MESSAGE_TYPE = "weir.message.v1"
ESCALATION_TYPE = "weir.escalation.v1"
REVIEW_TYPE = "weir.review.v1"
CORRECTION_TYPE = "weir.correction.v1"

NAME_CHARACTERS = 256
DOCUMENTS = 20
COMMENT_CHARACTERS = 4000

Name = Annotated[str, Field(max_length=NAME_CHARACTERS)]
Score = Annotated[float, Field(ge=0, le=1)]
Operator = Literal["moderate", "classify", "extract", "check", "summarize", "guard"]
Tokens = Annotated[int, Field(ge=0)]
TurnNumber = Annotated[int, Field(ge=0, lt=2**31)]
UuidText = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class TurnText(BaseModel):
    """What one speaker said before another spoke."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    text: str = Field(description="the words")
    speaker: Name = Field(default="", description="who spoke, by their part: customer, agent")
    turn: TurnNumber | None = Field(default=None, description="number of the turn; default: one more than the last")
    time: AwareDatetime | None = Field(default=None, description="when it was said, RFC 3339 with offset")
    row_id: UuidText | None = Field(
        default=None, description="row id of the turn's own message, if it came as one; lineage leads there"
    )


class TextMessage(BaseModel):
    """A text: a community message, a ticket, a turn of a call, a whole call, a document. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    text: str = Field(
        default="", description="the words; any length, split and judged whole where it is long; default: the turns"
    )
    id: Name | None = Field(
        default=None,
        description="the producer's name for the event, unique within `source`; default: CloudEvents `ce_id`, "
        "and without either the event is known by its topic, partition and offset",
    )
    time: AwareDatetime | None = Field(
        default=None,
        description="when it was written, RFC 3339 with offset; default: CloudEvents `ce_time`, then Kafka's timestamp",
    )
    thread: Name = Field(default="", description="conversation that it belongs to; publish with this as the key")
    author: Name = Field(default="", description="who wrote it")
    lang: Annotated[str, Field(max_length=35)] = Field(default="", description="language, BCP 47")
    tenant: Name = Field(default="", description="who pays for the judgement")
    documents: tuple[Name, ...] = Field(
        default=(), max_length=DOCUMENTS, description="ids of the documents that the words are checked against"
    )
    context: tuple[str, ...] = Field(default=(), description="what must be known to understand the words, in order")
    turn: TurnNumber | None = Field(default=None, description="number of the turn in its call, if it is one")
    final: bool = Field(default=False, description="whether the call ends with this turn")
    turns: tuple[TurnText, ...] = Field(default=(), description="turns of a call, in order")

    def encode(self) -> bytes:
        """The message as JSON, without what it does not say."""
        return self.model_dump_json(exclude_defaults=True).encode()


class Review(BaseModel):
    """What a person says of a verdict. Unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    row_id: UuidText = Field(description="row id of the verdict; publish with this as the key")
    decision: Name = Field(
        default="",
        description="what should have been decided: one of the stage's decisions; default: as the label says",
    )
    label: Name = Field(default="", description="one of the stage's labels; default: as the decision says")
    reviewer: Annotated[Name, Field(min_length=1)] = Field(description="who says so")
    time: AwareDatetime | None = Field(
        default=None, description="when, RFC 3339 with offset; default: CloudEvents `ce_time`, then Kafka's timestamp"
    )
    id: Name | None = Field(
        default=None,
        description="the tool's name for the review, unique within `source`; default: CloudEvents `ce_id`, and without "
        "either a review is known by row, reviewer and time",
    )
    comment: Annotated[str, Field(max_length=COMMENT_CHARACTERS)] = Field(default="", description="why")


class _Made(BaseModel):
    """Base of what this worker makes itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def unchecked(cls, **values: Any) -> Self:
        """One with these values, all of them and as they are.

        As `model_construct`, which looks for aliases and defaults of every field and takes ten times as long.
        """
        made = cls.__new__(cls)
        object.__setattr__(made, "__dict__", values)
        object.__setattr__(made, "__pydantic_fields_set__", set(values))
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made


class Source(_Made):
    """The event that a verdict is about, and where it stands in Kafka."""

    row_id: str = Field(description="row id of the event, UUID")
    source: str = Field(description="CloudEvents source of the event")
    id: str = Field(description="the producer's id of the event; empty if it gave none")
    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)


class TokenUsage(_Made):
    """Tokens that the judgement took."""

    input_tokens: Tokens
    cached_tokens: Tokens = Field(description="input tokens that came from the engine's prefix cache")
    output_tokens: Tokens


class Screening(_Made):
    """What the screen before the model said of the text."""

    screen: str = Field(description="name and version")
    risk: Score = Field(description="its probability that the text is to be flagged")
    tier: Literal["screen", "model"] = Field(description="who gave the judgement")
    audited: bool = Field(description="whether the model was to judge it whatever the screen says")


class Verdict(_Made):
    """One judgement. The same event always has the same `row_id`: a reader that keys by it counts each event once."""

    row_id: str = Field(description="UUID; sorts by event time")
    parents: list[str] = Field(description="row ids of what was judged, of documents and of context")
    source: Source
    pipeline: str
    pipeline_version: str
    stage: str
    operator: Operator
    decision: str = Field(
        description="moderate, guard: allow, review or block; classify, extract, summarize: accept or review; check: "
        "accept, review or escalate"
    )
    label: str = Field(description="the most probable label; empty for extract and summarize")
    scores: dict[str, Score] = Field(description="calibrated probability of each label; extract: of each field's value")
    confidence: Score = Field(description="probability that the decision rests on")
    confidence_source: ConfidenceSource = Field(
        description="logprobs: the model's own probabilities; votes: how far several answers agree; prior: "
        "nobody was asked; screen: the model was not asked"
    )
    output: dict[str, Any] = Field(
        description="extract: the fields; check: the claim and the evidence; summarize: the summary; otherwise empty"
    )
    model: str
    prompt_hash: str
    prompt_version: str = Field(description="the pipeline file's name for the prompt; empty for none")
    parts: int = Field(ge=1, description="how many parts the text was judged in")
    screening: Screening | None = Field(description="where a screen stands before the model; otherwise null")
    reused_from: str | None = Field(
        description="row id of the verdict whose judgement this is, where the model was not asked again"
    )
    usage: TokenUsage
    cost_usd: float = Field(ge=0)
    engine_seconds: float = Field(ge=0, description="share of the engine's time that the judgement took")
    latency_ms: int = Field(
        ge=0, description="from event time to judgement; of one that is made anew, from when that was asked for"
    )
    event_time: datetime
    judged_at: datetime
    thread: str
    author: str
    lang: str
    tenant: str

    def encode(self) -> bytes:
        """The verdict as JSON, times in RFC 3339 to the millisecond."""
        screening = vars(self.screening) if self.screening else None
        nested = {"source": vars(self.source), "usage": vars(self.usage), "screening": screening}
        times = {"event_time": _utc(self.event_time), "judged_at": _utc(self.judged_at)}
        return orjson.dumps(vars(self) | nested | times)


class Escalation(Verdict):
    """A verdict that a person should see, with the words that it is about."""

    text: str = Field(description="what was judged; empty if it is longer than a quarter of a message may be")
    context: tuple[str, ...] = Field(description="what was said before it; empty as well then")
    report: str = Field(description="the same for people, in some lines")


class Ruling(_Made):
    """A decision and a label, and who they are by."""

    decision: str
    label: str
    by: Literal["model", "person"]


class Correction(_Made):
    """What a person said of a verdict. It is about `corrects`, and has a row id of its own."""

    row_id: str = Field(description="UUID of the review; the same review always has the same one")
    corrects: str = Field(description="row id of the verdict; no verdict has this field")
    source: Source = Field(description="the event; `source` and `id` are empty if the store has its words no more")
    pipeline: str
    stage: str
    operator: Operator
    decision: str = Field(description="what holds now")
    label: str = Field(description="what holds now; empty if nobody said")
    was: Ruling = Field(description="what held before")
    changed: bool = Field(description="whether decision or label are other than before; false: a confirmation")
    stands: bool = Field(description="false if a later review of the row was there already, whose word holds")
    reviewer: str
    reviewed_at: datetime
    event_time: datetime
    thread: str
    lang: str
    tenant: str

    def encode(self) -> bytes:
        """The correction as JSON, times in RFC 3339 to the millisecond."""
        nested = {"source": vars(self.source), "was": vars(self.was)}
        times = {"reviewed_at": _utc(self.reviewed_at), "event_time": _utc(self.event_time)}
        return orjson.dumps(vars(self) | nested | times)


def _utc(time: datetime) -> str:
    return rfc3339(time.astimezone(UTC))
