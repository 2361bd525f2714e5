"""How a pipeline file puts a screen before the model of a stage."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from inference.section import Section

if TYPE_CHECKING:
    from inference.cascade.guarantee import Goal

Share = Annotated[float, Field(gt=0, lt=1)]
Risk = Annotated[float, Field(ge=0, le=1)]


class CascadeSettings(Section):
    """A screen decides the rows that are easy, and the model the others."""

    screen: str = Field(min_length=1, description="name of a screen that Weir ships, or path of its file")
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="of the screen's file; with another one no worker starts"
    )
    reference: Literal["model", "people"] = Field(
        default="model",
        description="who says which rows should be flagged. model: that of the stage; thresholds are fitted to its "
        "verdicts, and the cascade opens when they are in doubt. people: thresholds were fitted to their labels",
    )
    target: Share = Field(
        default=0.95, description="share of what the reference flags that the screen does not let pass"
    )
    precision: Share | None = Field(
        default=None,
        description="share of what the screen flags by itself that the reference flags; default: it flags nothing",
    )
    confidence: Share = Field(default=0.95, description="how often such a promise is kept")
    rows: int = Field(
        default=2000,
        ge=1,
        description="model: so many rows it judges before thresholds are fitted to them; few make careful thresholds",
    )
    audit: Share = Field(default=0.02, description="share of the rows that the model judges whatever the screen says")
    pass_below: Risk | None = Field(default=None, description="people: below this risk a row is let pass")
    flag_from: Risk | None = Field(default=None, description="people: from this risk on the screen flags a row")

    @property
    def goal(self) -> "Goal":
        """What is to be promised. Needs the extra `screen`."""
        from inference.cascade.guarantee import Goal

        return Goal(self.target, self.precision, self.confidence)

    @model_validator(mode="after")
    def _thresholds_of_people(self) -> Self:
        given = self.pass_below is not None or self.flag_from is not None
        if self.reference == "people" and not given:
            raise ValueError("reference people needs pass_below, flag_from or both, fitted to labels")
        if self.reference == "model" and given:
            raise ValueError("reference model: pass_below and flag_from are fitted while it runs; leave them out")
        if (self.pass_below or 0) > (1 if self.flag_from is None else self.flag_from):
            raise ValueError(f"pass_below ({self.pass_below}) must not be above flag_from ({self.flag_from})")
        return self
