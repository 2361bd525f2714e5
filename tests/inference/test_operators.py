"""Which operator a pipeline file asks for."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from inference import operators
from inference.cost import Prices
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.classify import Classify
from inference.operators.moderate import Moderate

SETTINGS: TypeAdapter[Any] = TypeAdapter(operators.OperatorSettings)
MODERATE = {"operator": "moderate", "categories": [{"name": "spam", "definition": "advertising"}]}
CLASSIFY = {"operator": "classify", "classes": [{"name": name, "definition": "x"} for name in ("ok", "spam")]}


@pytest.mark.parametrize(("settings", "kind"), [(MODERATE, Moderate), (CLASSIFY, Classify)])
def test_settings_choose_the_operator(settings: dict[str, Any], kind: type) -> None:
    engine = OpenAiEngine(EngineSettings("http://localhost"))
    assert type(operators.create(SETTINGS.validate_python(settings), engine, Prices())) is kind


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({**MODERATE, "operator": "moderat"}, "does not match any of the expected tags: 'moderate', 'classify'"),
        ({"categories": []}, "Unable to extract tag using discriminator 'operator'"),
        (
            {**MODERATE, "classes": []},
            "the fields here are: instruction, examples, calibration, operator, allowed, categories, thresholds",
        ),
        (
            {**CLASSIFY, "thresholds": {}},
            "the fields here are: instruction, examples, calibration, operator, classes, review_below",
        ),
    ],
)
def test_mistake_is_told_with_the_valid_choices(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SETTINGS.validate_python(settings)
    assert told in str(caught.value)
