"""The section `limits` of a pipeline file: how fast rows may come to the model, and what a tenant's day may cost."""

from typing import Annotated, Literal

from pydantic import Field

from inference.section import Section

DEFAULT = "default"
OTHER = "other"

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RateLimits(Section):
    """Rates of all workers together."""

    requests_per_second: Rate | None = Field(default=None, description="prompts to the model; default: no limit")
    tokens_per_second: Rate | None = Field(default=None, description="of prompts and answers; default: no limit")

    @property
    def has_rate(self) -> bool:
        """Whether rows may have to wait for each other."""
        return self.requests_per_second is not None or self.tokens_per_second is not None


class TenantLimits(RateLimits):
    """What one tenant may have of the model. A day is one of UTC."""

    usd_per_day: Amount | None = Field(default=None, description="US dollars; default: no limit")
    tokens_per_day: Amount | None = Field(default=None, description="of prompts and answers; default: no limit")
    past_budget: Literal["wait", "review"] = Field(
        default="review",
        description="review: a verdict for a person to look at, without asking the model; wait: the row comes again "
        "when the next day begins",
    )

    @property
    def has_budget(self) -> bool:
        """Whether a day has an end before midnight."""
        return self.usd_per_day is not None or self.tokens_per_day is not None


class Limits(RateLimits):
    """Rates of the whole pipeline, and what each tenant may have of it."""

    tenants: dict[str, TenantLimits] = Field(
        default_factory=dict,
        description=f"tenant to its limits; `{DEFAULT}`: of each tenant that is not named, for itself",
    )

    def of(self, tenant: str) -> TenantLimits:
        """The limits of a tenant."""
        return self.tenants.get(tenant) or self.tenants.get(DEFAULT) or _NONE

    def shown_as(self, tenant: str) -> str:
        """The tenant's name in metrics, whose labels are bounded: `other` if the file does not name it."""
        return tenant if tenant in self.tenants else OTHER

    @property
    def has_budgets(self) -> bool:
        """Whether some tenant's day has an end."""
        return any(tenant.has_budget for tenant in self.tenants.values())

    @property
    def defers(self) -> bool:
        """Whether rows may have to wait for the next day."""
        return any(tenant.has_budget and tenant.past_budget == "wait" for tenant in self.tenants.values())

    def described(self) -> list[str]:
        """One line for each limit, for people."""
        lines = [("all tenants", _rates(self))]
        lines += [(f"tenant {name}", _rates(of) + _budget(of)) for name, of in self.tenants.items()]
        return [f"{who}: {', '.join(what)}" for who, what in lines if what]


_NONE = TenantLimits()


def _rates(limits: RateLimits) -> list[str]:
    named = {"requests/s": limits.requests_per_second, "tokens/s": limits.tokens_per_second}
    return [f"{_plain(value)} {name}" for name, value in named.items() if value is not None]


def _budget(limits: TenantLimits) -> list[str]:
    named = {"USD a day": limits.usd_per_day, "tokens a day": limits.tokens_per_day}
    amounts = [f"{_plain(value)} {name}" for name, value in named.items() if value is not None]
    return [*amounts, f"then {limits.past_budget}"] if amounts else []


def _plain(value: float) -> str:
    return f"{value:,.6f}".rstrip("0").rstrip(".")
