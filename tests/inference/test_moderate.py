"""`moderate`: from probabilities to allow, review or block, for texts of any length."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.embedded.engine import LlamaEngine
from inference.cost import Prices
from inference.judgement import Judgement, Passage
from inference.operators.moderate import Moderate, ModerateSettings
from tests.inference.conftest import Connect, Relay, ScriptedEngine, Server, covers, message_of

CATEGORIES: list[dict[str, Any]] = [
    {"name": "threat", "definition": "threatens violence"},
    {"name": "spam", "definition": "advertising"},
]


def made(categories: list[dict[str, Any]] = CATEGORIES, **changes: Any) -> ModerateSettings:
    """Settings without calibration, so that scores are the model's probabilities."""
    base = {"operator": "moderate", "calibration": {"content_free": []}}
    return ModerateSettings.model_validate({**base, "categories": categories, **changes})


async def judge(
    connect: Connect,
    server: Server | str,
    shares: Mapping[str, float] | None = None,
    settings: ModerateSettings | None = None,
    text: str = "hello",
    **engine: Any,
) -> Judgement:
    """What is decided about a text where the model gives the labels these shares."""
    if isinstance(server, ScriptedEngine) and shares is not None:
        server.probabilities = lambda _: shares
    operator = Moderate(settings or made(), await connect(server, **engine), Prices(input_usd=1e6))
    await operator.prepare()
    return await operator.judge(Passage(text))


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            (
                {"categories": [*CATEGORIES, CATEGORIES[0]]},
                "two labels have the same name; the labels are: ok, threat, spam",
            ),
            ({"allowed": {"name": "spam"}}, "two labels have the same name; the labels are: spam, threat, spam"),
            ({"categories": []}, "at least 1 item"),
            (
                {"thresholds": {"review": 0.9, "block": 0.5}},
                "thresholds: review (0.9) must not be above block (0.5)",
            ),
            (
                {"categories": [{**CATEGORIES[0], "review": 0.8, "block": 0.7}]},
                "category 'threat': review (0.8) must not be above block (0.7)",
            ),
            ({"thresholds": {"review": 1.1}}, "less than or equal to 1"),
            ({"thresholds": {"alow": 1}}, "unknown field alow; the fields here are: review, block"),
            (
                {"categories": [{**CATEGORIES[0], "treshold": 1}]},
                "unknown field treshold; the fields here are: name, definition, word, review, block",
            ),
            ({"allowed": {"word": "fine"}}, "unknown field word; the fields here are: name, definition"),
            (
                {"examples": [{"text": "x", "label": "hate"}]},
                "example label 'hate' is not a label of this stage; the labels are: ok, threat, spam",
            ),
            ({"instruction": ""}, "at least 1 character"),
        ],
    )
    def test_mistake_is_told_with_the_valid_choices(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError) as caught:
            made(**changes)
        assert told in str(caught.value)

    @pytest.mark.parametrize("own", [{"review": 0.95}, {"block": 0.1}, {"review": 0, "block": 1}])
    def test_own_thresholds_need_not_agree_with_the_stages(self, own: dict[str, float]) -> None:
        assert made([{**CATEGORIES[0], **own}])


class TestDecision:
    @pytest.mark.parametrize(
        ("shares", "decision"),
        [
            ({"ok": 1.0}, "allow"),
            ({"ok": 0.51, "spam": 0.49}, "allow"),
            ({"ok": 0.49, "spam": 0.51}, "review"),
            ({"ok": 0.11, "spam": 0.89}, "review"),
            ({"ok": 0.09, "spam": 0.91}, "block"),
            ({"ok": 0.4, "spam": 0.3, "threat": 0.3}, "review"),
            ({"ok": 0.05, "spam": 0.475, "threat": 0.475}, "block"),
        ],
    )
    async def test_follows_the_probability_that_any_rule_is_broken(
        self, shares: dict[str, float], decision: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        assert (await judge(connect, scripted, shares)).decision == decision

    @pytest.mark.parametrize(
        ("own", "share", "decision"),
        [
            ({"review": 0.2}, 0.21, "review"),
            ({"review": 0.2}, 0.19, "allow"),
            ({"block": 0.2}, 0.21, "block"),
            ({"block": 0.2}, 0.19, "allow"),
            ({"review": 0.2, "block": 0.3}, 0.25, "review"),
            ({"review": 0.2, "block": 0.3}, 0.35, "block"),
            ({"review": 0}, 0.0, "review"),
            ({"review": 0.95}, 0.6, "review"),
            ({"block": 1}, 0.92, "block"),
        ],
    )
    @pytest.mark.parametrize("order", [1, -1])
    async def test_a_categorys_own_thresholds_come_on_top(
        self,
        own: dict[str, float],
        share: float,
        decision: str,
        order: int,
        scripted: ScriptedEngine,
        connect: Connect,
    ) -> None:
        settings = made([{**CATEGORIES[0], **own}, CATEGORIES[1]][::order])

        assert (await judge(connect, scripted, {"ok": 1 - share, "threat": share}, settings)).decision == decision

    @pytest.mark.parametrize(("review", "decision"), [(0.5, "review"), (0.50001, "allow")])
    async def test_starts_at_the_threshold_itself(
        self, review: float, decision: str, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        settings = made(CATEGORIES[1:], thresholds={"review": review, "block": 1})

        assert (await judge(connect, scripted, {"ok": 0.5, "spam": 0.5}, settings)).decision == decision

    @pytest.mark.parametrize(
        ("shares", "label", "confidence"),
        [
            ({"ok": 0.8, "spam": 0.1, "threat": 0.1}, "ok", 0.8),
            ({"ok": 0.3, "spam": 0.3, "threat": 0.4}, "threat", 0.7),
            ({"ok": 0.4, "spam": 0.3, "threat": 0.3}, "ok", 0.6),
            ({"ok": 0.02, "spam": 0.9, "threat": 0.08}, "spam", 0.98),
        ],
    )
    async def test_confidence_is_that_of_the_side_taken(
        self, shares: dict[str, float], label: str, confidence: float, scripted: ScriptedEngine, connect: Connect
    ) -> None:
        judgement = await judge(connect, scripted, shares)

        assert judgement.label == label
        assert judgement.confidence == pytest.approx(confidence)
        assert judgement.scores == pytest.approx(shares)
        assert list(judgement.scores) == ["ok", "threat", "spam"]


async def test_category_answers_with_its_own_word(scripted: ScriptedEngine, connect: Connect) -> None:
    settings = made([{**CATEGORIES[0], "word": "harm"}])
    judgement = await judge(connect, scripted, {"ok": 0.25, "harm": 0.75}, settings)

    assert judgement.scores == pytest.approx({"ok": 0.25, "threat": 0.75})
    assert "harm: threatens violence\n" in scripted.prompts[0]


async def test_judgement_tells_where_it_comes_from(scripted: ScriptedEngine, connect: Connect) -> None:
    judgement = await judge(connect, scripted)

    assert judgement.model == "scripted"
    assert len(judgement.prompt_hash) == 32
    assert (judgement.parts, len(judgement.calls), judgement.context_read) == (1, 1, ())
    assert judgement.cost_usd == judgement.usage.input_tokens == len(scripted.tokens(scripted.prompts[0]))


async def test_one_bad_part_is_enough(scripted: ScriptedEngine, connect: Connect) -> None:
    def shares(message: str) -> Mapping[str, float]:
        if "Number 150 " in message:
            return {"ok": 0.05, "spam": 0.93, "threat": 0.02}
        if "Number 20 " in message:
            return {"ok": 0.6, "spam": 0.1, "threat": 0.3}
        return {"ok": 0.9, "spam": 0.08, "threat": 0.02}

    scripted.probabilities = shares
    judgement = await judge(connect, scripted, text=" ".join(f"Number {number} is here." for number in range(200)))

    assert judgement.parts > 4
    assert judgement.scores == pytest.approx({"ok": 0.05, "threat": 0.3, "spam": 0.93})
    assert (judgement.decision, judgement.label) == ("block", "spam")
    assert judgement.confidence == pytest.approx(0.95)


async def test_real_model_judges_a_long_text_whole(llama: LlamaEngine, connect: Connect) -> None:
    """Sentences, then a stretch with many more tokens a character than the rest, then sentences again."""
    sentences = [f"Day {number}: we walked {number * 7} miles to a town by the sea." for number in range(8)]
    text = " ".join([*sentences[:4], "\U0001f98a\U0001f9ed\u2603\u4e16\u754c" * 12, *sentences[4:]])
    settings = made(examples=[{"text": "hi all", "label": "ok"}, {"text": "i will hurt you", "label": "threat"}])
    async with Relay(llama.url) as relay:
        judgement = await judge(connect, relay, settings=settings, text=text, context_tokens=160)
    engine = await connect(llama.url)
    sizes = [len(await engine.tokenize(prompt) or []) for prompt in relay.prompts]

    messages = [message_of(prompt) for prompt in relay.prompts]
    assert len(messages) == judgement.parts == len(judgement.calls) > 3
    assert max(sizes) < 160
    assert judgement.usage.input_tokens == sum(sizes)
    assert judgement.usage.cached_tokens > 0
    assert covers(sorted(messages, key=text.find), text)
    assert all(any(sentence in message for message in messages) for sentence in sentences)
    assert judgement.decision in Moderate.decisions
    assert all(0 <= score <= 1 for score in judgement.scores.values())


async def test_real_models_bias_is_taken_out(llama: LlamaEngine, connect: Connect) -> None:
    """A text that is its own measure of bias is as probable under each label."""
    settings = made(calibration={"content_free": ["N/A"]})
    judgement = await judge(connect, llama.url, settings=settings, text="N/A")

    assert judgement.scores == pytest.approx(dict.fromkeys(["ok", "threat", "spam"], 1 / 3), abs=0.1)
    assert math.isclose(sum(judgement.scores.values()), 1)
