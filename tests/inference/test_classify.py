"""`classify`: the label that fits the whole text best, and whether a person should look."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from deploy.embedded.engine import LlamaEngine
from inference.cost import Prices
from inference.judgement import Judgement, Passage
from inference.operators.classify import Classify, ClassifySettings
from tests.inference.conftest import Connect, Relay, ScriptedEngine, Server

CLASSES: list[dict[str, Any]] = [
    {"name": "billing", "definition": "charges and invoices"},
    {"name": "bug", "definition": "the app does not work"},
    {"name": "other", "definition": "everything else"},
]
LONG = " ".join(f"Number {number} is here." for number in range(200))


def made(**changes: Any) -> ClassifySettings:
    """Settings without calibration, so that scores are the model's probabilities."""
    base = {"operator": "classify", "classes": CLASSES, "calibration": {"content_free": []}}
    return ClassifySettings.model_validate({**base, **changes})


async def judge(connect: Connect, server: Server | str, text: str = "hello", **changes: Any) -> Judgement:
    operator = Classify(made(**changes), await connect(server), Prices())
    await operator.prepare()
    return await operator.judge(Passage(text))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": CLASSES[:1]}, "at least 2 items"),
        ({"classes": [*CLASSES, CLASSES[1]]}, "two labels have the same name; the labels are: billing, bug, other"),
        ({"review_below": 2}, "less than or equal to 1"),
        (
            {"classes": [{**CLASSES[0], "review": 1}, CLASSES[1]]},
            "unknown field review; the fields here are: name, definition, word",
        ),
    ],
)
def test_mistake_is_told_with_the_valid_choices(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        made(**changes)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("shares", "label", "decision"),
    [
        ({"billing": 0.9, "bug": 0.05, "other": 0.05}, "billing", "accept"),
        ({"billing": 0.2, "bug": 0.61, "other": 0.19}, "bug", "accept"),
        ({"billing": 0.2, "bug": 0.59, "other": 0.21}, "bug", "review"),
        ({"billing": 0.3, "bug": 0.3, "other": 0.4}, "other", "review"),
    ],
)
async def test_takes_the_most_probable_label_and_asks_a_person_in_doubt(
    shares: dict[str, float], label: str, decision: str, scripted: ScriptedEngine, connect: Connect
) -> None:
    scripted.probabilities = lambda _: shares
    judgement = await judge(connect, scripted, review_below=0.6)

    assert (judgement.label, judgement.decision) == (label, decision)
    assert judgement.scores == pytest.approx(shares)
    assert list(judgement.scores) == ["billing", "bug", "other"]
    assert judgement.confidence == judgement.scores[label]


@pytest.mark.parametrize(("review_below", "decision"), [(0.5, "accept"), (0.50001, "review")])
async def test_confidence_at_the_bound_is_enough(
    review_below: float, decision: str, scripted: ScriptedEngine, connect: Connect
) -> None:
    scripted.probabilities = lambda _: {"billing": 0.5, "bug": 0.5}
    judgement = await judge(connect, scripted, classes=CLASSES[:2], review_below=review_below)

    assert judgement.decision == decision


async def test_label_must_fit_the_whole_text(scripted: ScriptedEngine, connect: Connect) -> None:
    """One part that speaks for `bug` loses against a label that no part speaks against."""
    first, rest = {"billing": 0.3, "bug": 0.699, "other": 0.001}, {"billing": 0.6, "bug": 0.2, "other": 0.2}

    def shares(message: str) -> Mapping[str, float]:
        return first if "Number 0 " in message else rest

    scripted.probabilities = shares
    judgement = await judge(connect, scripted, LONG)

    weights = {
        label: math.exp((math.log(first[label]) + math.log(rest[label]) * (judgement.parts - 1)) / judgement.parts)
        for label in first
    }
    assert judgement.parts > 4
    assert judgement.scores == pytest.approx(
        {label: weight / sum(weights.values()) for label, weight in weights.items()}
    )
    assert (judgement.label, judgement.context_read) == ("billing", ())


async def test_impossible_label_leaves_the_others_comparable(scripted: ScriptedEngine, connect: Connect) -> None:
    scripted.probabilities = lambda message: {"bug": 1.0} if "Number 0 " in message else {"billing": 1.0}
    judgement = await judge(connect, scripted, LONG)

    assert judgement.label == "billing"
    assert sum(judgement.scores.values()) == pytest.approx(1)
    assert all(math.isfinite(score) for score in judgement.scores.values())


async def test_judgement_tells_where_it_comes_from(scripted: ScriptedEngine, connect: Connect) -> None:
    scripted.probabilities = lambda _: {"bug": 1.0}
    judgement = await judge(connect, scripted)

    assert judgement.model == "scripted"
    assert len(judgement.prompt_hash) == 32
    assert (judgement.parts, len(judgement.calls)) == (1, 1)
    assert judgement.usage.input_tokens == len(scripted.tokens(scripted.prompts[0]))


async def test_real_model_answers_with_letters_where_words_are_several_tokens(
    llama: LlamaEngine, connect: Connect
) -> None:
    classes = [{**CLASSES[0], "name": "chargeback_dispute"}, *CLASSES[1:]]
    async with Relay(llama.url) as relay:
        judgement = await judge(connect, relay, "my card was charged twice", classes=classes)

    assert "A: charges and invoices\nB: the app does not work\nC: everything else\n" in relay.prompts[0]
    assert list(judgement.scores) == ["chargeback_dispute", "bug", "other"]
    assert sum(judgement.scores.values()) == pytest.approx(1)
    assert judgement.confidence == judgement.scores[judgement.label] == max(judgement.scores.values())
