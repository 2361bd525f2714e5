"""Mappings of a pipeline file refuse what they do not know, and say what they do."""

import pytest
from pydantic import ValidationError

from inference.section import Section


class Colours(Section):
    red: int = 0
    green: int = 0


@pytest.mark.parametrize("name", ["blue", 7, "Red"])
def test_unknown_field_is_refused_with_the_known_ones(name: object) -> None:
    with pytest.raises(ValidationError, match=f"unknown field {name}; the fields here are: red, green"):
        Colours.model_validate({"red": 1, name: 2})


def test_known_fields_are_taken() -> None:
    assert Colours.model_validate({"green": 2}) == Colours(red=0, green=2)


def test_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Colours().red = 1  # type: ignore[misc]


def test_other_than_a_mapping_is_refused() -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        Colours.model_validate(["red"])
