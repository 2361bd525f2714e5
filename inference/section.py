"""Base of everything that can be written in a pipeline file: unknown fields are refused with the valid choices."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A mapping of a pipeline file with a fixed set of fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_field",
                        "unknown field {field}; the fields here are: {known}",
                        {"field": str(name), "known": ", ".join(cls.model_fields)},
                    )
        return data
