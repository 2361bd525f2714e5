"""What is said of a text that the model is not asked about."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from inference.engine import Usage
from inference.judgement import Identity
from inference.operators import OperatorSettings
from inference.prior import prior_judgement

SETTINGS: TypeAdapter[Any] = TypeAdapter(OperatorSettings)


def identity(labels: Sequence[str]) -> Identity:
    return Identity("m-1", "a1", "prompt", labels)


def moderate(**calibration: Any) -> Any:
    rules = [{"name": name, "definition": name} for name in ("spam", "threat")]
    return SETTINGS.validate_python({"operator": "moderate", "categories": rules, "calibration": calibration})


def test_the_scores_are_what_the_stage_expects() -> None:
    judgement = prior_judgement(moderate(prior={"ok": 8, "spam": 1, "threat": 1}), identity(["ok", "spam", "threat"]))
    assert judgement.scores == pytest.approx({"ok": 0.8, "spam": 0.1, "threat": 0.1})
    assert (judgement.decision, judgement.label, judgement.model) == ("review", "ok", "prior")
    assert judgement.confidence == pytest.approx(0.8)
    assert judgement.confidence_source == "prior"


def test_without_expectations_all_labels_are_equal() -> None:
    judgement = prior_judgement(moderate(), identity(["ok", "spam", "threat"]))
    assert list(judgement.scores.values()) == pytest.approx([1 / 3] * 3)


def test_it_costs_nothing_and_its_scores_have_names() -> None:
    judgement = prior_judgement(moderate(), identity(["ok", "spam", "threat"]))
    assert (judgement.cost_usd, judgement.usage, judgement.engine_seconds) == (0, Usage(), 0)
    assert judgement.prompt_hash == "a1"


def test_an_operator_without_labels_knows_nothing() -> None:
    judgement = prior_judgement(moderate(), identity([]))
    assert (judgement.label, judgement.scores, judgement.confidence) == ("", {}, 0)
