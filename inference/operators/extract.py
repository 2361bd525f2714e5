"""`extract`: what does the text say about each of these fields?"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from inference.cost import Prices
from inference.engine import Caller, Completion, ConfidenceSource, Engine, Prompt, Writing
from inference.json_spans import members, probability
from inference.judgement import Call, Identity, Judgement, Passage
from inference.operators.asking import few_at_once, preparing
from inference.operators.labels import Instruction, LabelName, Share, call_of
from inference.prompt import prompt_hash
from inference.room import Room, chosen
from inference.section import Section
from inference.text import one_line

_EXACT = 2**53  # beyond it, readers of JSON that take numbers for doubles read another integer
_STOP = ("\nMessage:",)  # a server that does not hold to the schema may go on with another example


class ExtractField(Section):
    """One value to find."""

    name: LabelName
    type: Literal["string", "number", "integer", "boolean", "enum"] = "string"
    values: list[str] = Field(default_factory=list, description="for enum: what the value may be")
    definition: str = Field(min_length=1, description="what the value is, for the model to read")
    required: bool = Field(default=False, description="false: null where the text does not say it")

    def line(self) -> str:
        """The field as the prompt has it."""
        kind = f"one of: {', '.join(self.values)}" if self.type == "enum" else self.type
        return f"{self.name} ({one_line(kind)}): {one_line(self.definition)}"

    def value_schema(self, *, nullable: bool) -> Mapping[str, Any]:
        """JSON schema of the value."""
        if self.type == "enum":
            return {"enum": [*self.values, None] if nullable else self.values}
        return {"type": [self.type, "null"] if nullable else self.type}

    def value_of(self, found: Any) -> Any:
        """The value, or None for null. Raises ValueError if it is none of this field."""
        kind = type(found)
        if found is None or (self.type == "boolean" and kind is bool) or (self.type == "enum" and found in self.values):
            return found
        if self.type == "string" and kind is str:
            found.encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
            return found
        if self.type == "number" and kind in (int, float) and abs(found) < (math.inf if kind is float else _EXACT):
            return found
        if self.type == "integer" and kind in (int, float) and abs(found) < _EXACT and found == int(found):
            return int(found)
        raise ValueError(f"{self.name} is no {self.type}")


class ExtractExample(Section):
    """A text and what should be found in it."""

    text: str = Field(min_length=1, max_length=1000)
    output: dict[str, Any] = Field(description="field to value; a field that is left out is null")


class ExtractSettings(Section):
    """Fields with types and definitions, and how sure the model must be."""

    operator: Literal["extract"]
    instruction: Instruction = "Read the message and give the fields as JSON, null for what it does not say."
    fields: list[ExtractField] = Field(min_length=1)
    examples: list[ExtractExample] = Field(default_factory=list, description="solved examples")
    max_tokens: int = Field(default=256, ge=8, description="what the answer may have; one that is cut is reviewed")
    samples: int = Field(
        default=5, ge=2, le=20, description="answers that are compared where the engine tells no probabilities"
    )
    review_below: Share = Field(default=0.5, description="confidence under which a person should look")

    def about(self) -> str:
        """What it gives, for people."""
        return f"{', '.join(field.name for field in self.fields)}; {len(self.examples)} examples"

    def answer_schema(self, *, nullable: bool = False) -> str:
        """JSON schema of the answer. nullable: every field may be null, as where a part of a text is read."""
        fields = {field.name: field.value_schema(nullable=nullable or not field.required) for field in self.fields}
        return json.dumps(
            {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        )

    @model_validator(mode="after")
    def _fields_are_known(self) -> Self:
        fields = {field.name: field for field in self.fields}
        known = f"the fields are: {', '.join(fields)}"
        if len(fields) < len(self.fields):
            raise ValueError(f"two fields have the same name; {known}")
        for field in self.fields:
            if (field.type == "enum") != bool(field.values):
                raise ValueError(f"field {field.name!r}: `values` belong to the type enum, and to no other")
        for example in self.examples:
            for name, value in example.output.items():
                if name not in fields:
                    raise ValueError(f"example field {name!r} is not a field of this stage; {known}")
                fields[name].value_of(value)
            for name, field in fields.items():
                if field.required and example.output.get(name) is None:
                    raise ValueError(f"example has no {name!r}, which is required")
        return self


@dataclass(frozen=True, slots=True)
class _Reading:
    """found: value and confidence of each field whose value fits. calls: what they took."""

    found: Mapping[str, tuple[Any, float]]
    calls: Sequence[Call]
    source: ConfidenceSource


class Extract:
    """Decides `accept`, or `review` in doubt.

    The scores are the confidence of each field: the product of the probabilities of the tokens that its value was
    written with. For an engine that does not tell them, several answers are compared (self-consistency, Wang et al.,
    ICLR 2023): the most frequent value stands, and its share of the answers is the confidence.

    Confidence is the lowest of the fields that were found, or of all if none was; 0 if an answer has a value that does
    not fit its field, or lacks one, and then the decision is `review`. Such a field is null.

    Text that does not fit is read in parts. Of each field the most probable value that any part has stands.
    """

    decisions = ("accept", "review")

    def __init__(self, settings: ExtractSettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        self._engine = engine
        self._prices = prices
        self._room = Room(engine)
        lines = [one_line(settings.instruction), *(field.line() for field in settings.fields)]
        self._schema, self._nullable = settings.answer_schema(), settings.answer_schema(nullable=True)
        self._shared = "\n".join(lines) + "\n\n" + "".join(map(self._shot, settings.examples))
        self.identity = self._identify("")  # right once `prepare` has returned

    def _shot(self, example: ExtractExample) -> str:
        output = {field.name: example.output.get(field.name) for field in self._settings.fields}
        answer = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
        return f"{_question(example.text)}{answer}\n\n"

    def _identify(self, digest: str) -> Identity:
        text = self._render("{text}", ["{context}"]).text
        return Identity(self._engine.model, digest, text, [field.name for field in self._settings.fields])

    def _render(self, text: str, context: Sequence[str] = ()) -> Prompt:
        return Prompt(self._shared, _question(text, context))

    async def prepare(self) -> None:
        """Measure the room that a text has, and see whether the engine takes the schema.

        Raises EngineMisconfigured if it does not, or if no room is left; EngineUnavailable if the engine fails at it
        again and again while it answers others.
        """
        settings = self._settings
        with preparing("the fields"):
            await self._room.measure(self._render("").text, settings.max_tokens)
            await self._engine.generate(self._render("N/A"), Writing(1, self._schema, _STOP))
        shape = (self._schema, settings.max_tokens, settings.samples)
        self.identity = self._identify(prompt_hash(self._render("{text}", ["{context}"]), *shape))

    async def judge(self, passage: Passage) -> Judgement:
        """Read one passage. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        parts, read = await self._room.parts(passage)
        context = chosen(passage, read)
        writing = Writing(self._settings.max_tokens, self._schema if len(parts) == 1 else self._nullable, _STOP)

        async def one(part: str) -> _Reading:
            return await self._read(self._render(part, context), writing, passage.caller)

        readings = await few_at_once(one, list(dict.fromkeys(parts)))
        merged = {field.name: _merge([r.found.get(field.name) for r in readings]) for field in self._settings.fields}
        values = {name: value for name, (value, _) in merged.items()}
        fits = all(len(reading.found) == len(values) for reading in readings) and not any(
            field.required and values[field.name] is None for field in self._settings.fields
        )
        confidence = _lowest(merged) if fits else 0.0
        return Judgement(
            decision="accept" if fits and confidence >= self._settings.review_below else "review",
            label="",
            scores={name: share for name, (_, share) in merged.items()},
            confidence=confidence,
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=[call for reading in readings for call in reading.calls],
            parts=len(parts),
            context_read=read,
            confidence_source="votes" if any(r.source == "votes" for r in readings) else "logprobs",
            output=values,
        )

    async def _read(self, prompt: Prompt, writing: Writing, caller: Caller) -> _Reading:
        first = await self._engine.generate(prompt, writing, caller)
        if first.tokens or not first.text:
            return _Reading(self._fitting(first), [call_of(first, self._prices)], "logprobs")
        varied = Writing(writing.max_tokens, writing.schema, writing.stop, temperature=1.0)

        async def again(_: int) -> Completion:
            return await self._engine.generate(prompt, varied, caller)

        answers = [first, *await few_at_once(again, range(self._settings.samples - 1))]
        found = _vote([self._fitting(answer) for answer in answers])
        return _Reading(found, [call_of(answer, self._prices) for answer in answers], "votes")

    def _fitting(self, answer: Completion) -> dict[str, tuple[Any, float]]:
        """The values that fit their fields, and the probability of each."""
        fields = {field.name: field for field in self._settings.fields}
        found: dict[str, tuple[Any, float]] = {}
        for member in members(answer.text):
            try:
                value = fields[member.name].value_of(member.value)
            except (KeyError, ValueError):
                continue
            found[member.name] = value, probability(answer.text, answer.tokens, member.start, member.end)
        return found


def _question(text: str, context: Sequence[str] = ()) -> str:
    earlier = "".join(f"Earlier: {one_line(message)}\n" for message in context)
    return f"{earlier}Message: {one_line(text)}\nJSON:\n"


def _vote(answers: Sequence[Mapping[str, tuple[Any, float]]]) -> dict[str, tuple[Any, float]]:
    """Of each field the most frequent value, of several the one that came first, and its share of the answers."""
    found: dict[str, tuple[Any, float]] = {}
    for name in dict.fromkeys(name for answer in answers for name in answer):
        ballots = Counter(json.dumps(answer[name][0]) for answer in answers if name in answer)
        ((value, count),) = ballots.most_common(1)
        found[name] = json.loads(value), count / len(answers)
    return found


def _merge(found: Sequence[tuple[Any, float] | None]) -> tuple[Any, float]:
    """What a field is by all parts: the most probable value, or null, as probable as where it is least so."""
    present = [each for each in found if each is not None]
    values = [each for each in present if each[0] is not None]
    if values:
        return max(values, key=lambda each: each[1])
    return None, min((share for _, share in present), default=0.0)


def _lowest(merged: Mapping[str, tuple[Any, float]]) -> float:
    shares = [share for value, share in merged.values() if value is not None]
    return min(shares or [share for _, share in merged.values()])
