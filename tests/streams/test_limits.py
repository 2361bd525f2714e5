"""What a pipeline file may say about limits, and what that means for a tenant."""

import pytest
from pydantic import ValidationError

from streams.limits import Limits


def limits(**fields: object) -> Limits:
    return Limits.model_validate(fields)


def test_without_a_section_nothing_is_limited() -> None:
    none = limits()
    assert not none.has_budgets
    assert not none.defers
    assert none.of("acme").requests_per_second is None
    assert none.described() == []


def test_a_tenant_that_is_not_named_has_those_of_default() -> None:
    some = limits(tenants={"default": {"requests_per_second": 1}, "acme": {"requests_per_second": 5}})
    assert some.of("acme").requests_per_second == 5
    assert some.of("other").requests_per_second == some.of("").requests_per_second == 1


def test_metrics_name_only_tenants_that_the_file_names() -> None:
    some = limits(tenants={"acme": {}})
    assert (some.shown_as("acme"), some.shown_as("stranger")) == ("acme", "other")


@pytest.mark.parametrize(
    ("tenant", "defers"),
    [
        ({"usd_per_day": 1}, False),
        ({"usd_per_day": 1, "past_budget": "wait"}, True),
        ({"tokens_per_day": 0, "past_budget": "wait"}, True),
        ({"requests_per_second": 1, "past_budget": "wait"}, False),
    ],
)
def test_rows_wait_for_another_day_only_past_a_budget(tenant: dict[str, object], defers: bool) -> None:
    assert limits(tenants={"acme": tenant}).defers is defers


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_second": 0},
        {"tokens_per_second": float("inf")},
        {"tenants": {"acme": {"usd_per_day": -1}}},
        {"tenants": {"acme": {"past_budget": "drop"}}},
        {"tenants": {"acme": {"usd_a_day": 1}}},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        limits(**wrong)


def test_limits_are_told_to_people() -> None:
    some = limits(
        tokens_per_second=1000,
        tenants={
            "acme": {"requests_per_second": 2.5, "usd_per_day": 3, "past_budget": "wait"},
            "default": {"tokens_per_day": 1_000_000},
            "free": {},
        },
    )
    assert some.described() == [
        "all tenants: 1,000 tokens/s",
        "tenant acme: 2.5 requests/s, 3 USD a day, then wait",
        "tenant default: 1,000,000 tokens a day, then review",
    ]
