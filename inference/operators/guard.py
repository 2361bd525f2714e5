"""`guard`: moderation by a published guard model, in the format that it was trained on."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from msgspec import structs
from pydantic import Field, model_validator

from inference.cost import Prices
from inference.engine import Caller, ConfidenceSource, Engine, LabelToken
from inference.errors import EngineMisconfigured
from inference.guards.gpt_oss_safeguard import GptOssSafeguard
from inference.guards.guard import Answer, Guard, Question, harmless
from inference.guards.llama_guard import LLAMA_GUARD_3_1B, LLAMA_GUARD_3_8B
from inference.guards.qwen3guard import Qwen3Guard
from inference.guards.shieldgemma import ShieldGemma
from inference.judgement import Call, Identity, Judgement, Passage
from inference.operators.asking import few_at_once, preparing
from inference.operators.labels import LabelName, Share, call_of
from inference.operators.moderate import Allowed, Thresholds
from inference.prompt import Example, digest
from inference.room import Room, chosen
from inference.section import Section

log = logging.getLogger(__name__)

_UNNAMED = "unsafe"  # the label of a risk whose rule was not asked for
_ANSWER_TOKENS = 1


class Rule(Section):
    """One kind of text that is against a policy."""

    name: LabelName
    definition: str = Field(min_length=1, description="what falls under it, for the model to read")


class GuardSettings(Section):
    """Which guard, what its rules are called, and thresholds to allow, review or block."""

    operator: Literal["guard"]
    guard: Literal["llama-guard-3-1b", "llama-guard-3-8b", "qwen3guard", "shieldgemma", "gpt-oss-safeguard"]
    allowed: Allowed = Allowed()
    taxonomy: dict[str, LabelName] = Field(
        default_factory=dict,
        description="a rule of the guard, by its code, to the label that verdicts have for it; the allowed label: the "
        "rule does not count",
    )
    thresholds: Thresholds = Thresholds()
    controversial: Share = Field(
        default=0.5, description="qwen3guard: how much of the probability of Controversial counts; 1 is strict, 0 loose"
    )
    categories: list[Rule] = Field(default_factory=list, max_length=26, description="gpt-oss-safeguard: the policy")
    examples: list[Example] = Field(default_factory=list, description="gpt-oss-safeguard: solved examples")

    def preset(self) -> Guard:
        """The guard that these settings name."""
        if self.guard == "gpt-oss-safeguard":
            policy = {rule.name: rule.definition for rule in self.categories}
            return GptOssSafeguard(self.allowed.definition, policy, self.examples)
        fixed: Mapping[str, Guard] = {
            guard.name: guard
            for guard in (LLAMA_GUARD_3_1B, LLAMA_GUARD_3_8B, Qwen3Guard(self.controversial), ShieldGemma())
        }
        return fixed[self.guard]

    def labels_of_rules(self) -> Mapping[str, str]:
        """Code of each rule to its label."""
        return {rule.code: self.taxonomy.get(rule.code, rule.label) for rule in self.preset().categories}

    def about(self) -> str:
        """What it gives, for people."""
        return f"{self.guard}: {', '.join(self.labels())}"

    def labels(self) -> list[str]:
        """Every label that a verdict can have, in the order of the scores."""
        unnamed = [_UNNAMED] if self.preset().asks_twice else []
        return list(dict.fromkeys([self.allowed.name, *unnamed, *self.labels_of_rules().values()]))

    @model_validator(mode="after")
    def _fields_are_for_the_guard(self) -> Self:
        owners = {
            "categories": "gpt-oss-safeguard",
            "examples": "gpt-oss-safeguard",
            "controversial": "qwen3guard",
        }
        for name, owner in owners.items():
            if name in self.model_fields_set and self.guard != owner:
                raise ValueError(f"{name} is for {owner}; {self.guard} has rules of its own, see taxonomy")
        return self

    @model_validator(mode="after")
    def _rules_are_known(self) -> Self:
        if self.guard == "gpt-oss-safeguard":
            names = [self.allowed.name, *(rule.name for rule in self.categories)]
            known = f"the labels are: {', '.join(names)}"
            if not self.categories:
                raise ValueError("gpt-oss-safeguard judges by your policy: categories must name at least one")
            if len(set(names)) < len(names):
                raise ValueError(f"two labels have the same name; {known}")
            if self.taxonomy:
                raise ValueError("taxonomy is for guards with rules of their own; name the categories as you like")
            for example in self.examples:
                if example.label not in names:
                    raise ValueError(f"example label {example.label!r} is not a label of this stage; {known}")
        codes = self.labels_of_rules()
        for code in self.taxonomy:
            if code not in codes:
                raise ValueError(f"{self.guard} has no rule {code!r}; its rules are: {', '.join(codes)}")
        if set(codes.values()) == {self.allowed.name}:
            raise ValueError(f"taxonomy maps every rule to {self.allowed.name!r}: nothing is left to look for")
        return self

    @model_validator(mode="after")
    def _review_before_block(self) -> Self:
        if self.thresholds.review > self.thresholds.block:
            raise ValueError(
                f"thresholds: review ({self.thresholds.review}) must not be above block ({self.thresholds.block})"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What a guard thinks of one part. scores: probability of each label."""

    scores: Mapping[str, float]
    calls: list[Call]
    source: ConfidenceSource


class GuardOperator:
    """Decides `allow`, `review` or `block` by the probability that the text breaks any rule.

    A guard that answers in two steps is asked for the rule only where that probability is at or above the threshold for
    review; below it stands under the label `unsafe`, and the rules have none. A guard with a question a rule gives each
    rule a probability of its own, and the highest counts. Of text in parts, each rule's score is the highest of all
    parts, and the allowed label's the lowest. Scores are the model's own: these models were trained to give them.
    """

    decisions = ("allow", "review", "block")

    def __init__(self, settings: GuardSettings, engine: Engine, prices: Prices) -> None:
        self._settings = settings
        self._guard = settings.preset()
        self._engine = engine
        self._prices = prices
        self._room = Room(engine, harmless)
        self._tokens: dict[tuple[Answer, ...], list[LabelToken]] = {}
        self._allowed = settings.allowed.name
        self._label_of = settings.labels_of_rules()
        self._labels = settings.labels()
        self.identity = self._identify()  # right once `prepare` has returned

    def _identify(self) -> Identity:
        every = self._every_question("{text}", ["{context}"])
        shaped_by = (every, sorted(self._label_of.items()), self._allowed, self._settings.thresholds.review)
        text = "\n\n".join(question.prompt.text for question in self._questions("{text}", ["{context}"]))
        return Identity(self._engine.model, digest(shaped_by), text, self._labels)

    async def prepare(self) -> None:
        """Find the tokens of the answers, and the room that a text has.

        Raises EngineMisconfigured if the model's tokenizer cannot tell two answers apart by their first token, or if
        there is no room for text; EngineUnavailable if the engine fails at it while it answers others.
        """
        if not any(model.rpartition("/")[2].lower() in self._engine.model.lower() for model in self._guard.models):
            log.warning(
                "the engine's model is %s; guard %s is for: %s",
                self._engine.model,
                self._guard.name,
                ", ".join(self._guard.models),
            )
        self.identity = self._identify()
        questions = self._every_question("")
        with preparing("the labels"):
            for question in questions:
                self._tokens[question.answers] = [await self._first_token(answer) for answer in question.answers]
            await self._room.measure(max((question.prompt.text for question in questions), key=len), _ANSWER_TOKENS)
        for answers, tokens in self._tokens.items():
            if len({token.id if token.id is not None else token.text for token in tokens}) < len(tokens):
                told = "/".join(answer.token.strip() for answer in answers)
                raise EngineMisconfigured(f"{self._engine.model} begins two of the answers {told} with the same token")

    async def judge(self, passage: Passage) -> Judgement:
        """Judge one passage. Raises PromptRejected, AttemptsExhausted, EngineMisconfigured."""
        if not self._guard.reads_context:
            passage = structs.replace(passage, context=())
        parts, read = await self._room.parts(passage)
        context = chosen(passage, read)

        async def ask(part: str) -> _Opinion:
            return await self._opinion(part, context, passage.caller)

        opinions = await few_at_once(ask, list(dict.fromkeys(parts)))
        scores = {label: max(opinion.scores[label] for opinion in opinions) for label in self._labels}
        scores[self._allowed] = min(opinion.scores[self._allowed] for opinion in opinions)
        decision = self._decide(1 - scores[self._allowed])
        return Judgement(
            decision=decision,
            label=max(scores, key=scores.__getitem__),
            scores=scores,
            confidence=scores[self._allowed] if decision == "allow" else 1 - scores[self._allowed],
            model=self.identity.model,
            prompt_hash=self.identity.prompt_hash,
            calls=[call for opinion in opinions for call in opinion.calls],
            parts=len(parts),
            context_read=read,
            confidence_source=opinions[0].source,
        )

    def _decide(self, risk: float) -> str:
        if risk >= self._settings.thresholds.block:
            return "block"
        return "review" if risk >= self._settings.thresholds.review else "allow"

    async def _opinion(self, part: str, context: Sequence[str], caller: Caller) -> _Opinion:
        questions = self._questions(part, context)
        asked = await asyncio.gather(*(self._ask(question, caller) for question in questions))
        calls = [call for _, call, _ in asked]
        risk, named = 0.0, dict.fromkeys(self._labels, 0.0)
        for question, (shares, _, _) in zip(questions, asked, strict=True):
            weights = [answer.risk * share for answer, share in zip(question.answers, shares, strict=True)]
            risk = max(risk, sum(weights))
            self._name(named, question, weights)
        if self._guard.asks_twice and risk >= self._settings.thresholds.review:
            first, (shares, _, _) = questions[0], asked[0]
            worst = max(zip(first.answers, shares, strict=True), key=lambda pair: pair[0].risk * pair[1])[0]
            second = self._guard.follow_up(first, worst)
            assert second is not None
            shares, call, _ = await self._ask(second, caller)
            calls.append(call)
            self._name(named, second, [risk * share for share in shares])
            risk -= named[self._allowed]
        if self._guard.asks_twice:
            rules = sum(share for label, share in named.items() if label != self._allowed)
            named[_UNNAMED] += max(0.0, risk - rules)
        return _Opinion({**named, self._allowed: max(0.0, 1 - risk)}, calls, asked[0][2])

    def _name(self, named: dict[str, float], question: Question, weights: Sequence[float]) -> None:
        """Raise the labels to what the answers say of their rules. Rules of one label add up within a question."""
        told: dict[str, float] = {}
        for answer, weight in zip(question.answers, weights, strict=True):
            if answer.category is not None:
                label = self._label_of[answer.category]
                told[label] = told.get(label, 0.0) + weight
        for label, share in told.items():
            named[label] = max(named[label], share)

    async def _ask(self, question: Question, caller: Caller) -> tuple[list[float], Call, ConfidenceSource]:
        """Probability of each answer."""
        score = await self._engine.score(question.prompt, self._tokens[question.answers], caller)
        return [math.exp(value) for value in score.logprobs], call_of(score, self._prices), score.source

    def _questions(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        """What to ask first, without questions that are only about rules which do not count."""
        return [question for question in self._guard.questions(text, context) if self._counts(question)]

    def _counts(self, question: Question) -> bool:
        codes = [answer.category for answer in question.answers if answer.category is not None]
        return not codes or any(self._label_of[code] != self._allowed for code in codes)

    def _every_question(self, text: str, context: Sequence[str] = ()) -> list[Question]:
        """Every question that may be asked about a text, follow-ups included."""
        first = self._questions(text, context)
        follow_ups = (
            self._guard.follow_up(question, answer) for question in first for answer in question.answers if answer.risk
        )
        return [*first, *(question for question in follow_ups if question is not None)]

    async def _first_token(self, answer: Answer) -> LabelToken:
        tokens = await self._engine.tokenize(answer.token)
        return LabelToken(answer.token, tokens[0] if tokens else None)
