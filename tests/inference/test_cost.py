"""What tokens or GPU hours cost, for one call and for a judgement of several."""

import pytest

from inference.cost import Prices
from inference.engine import Usage
from inference.judgement import Call, Judgement

PRICES = Prices(input_usd=2.0, cached_usd=0.5, output_usd=8.0)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(), 0),
        (Usage(input_tokens=1_000_000), 2.0),
        (Usage(input_tokens=1_000_000, cached_tokens=1_000_000), 0.5),
        (Usage(input_tokens=1000, output_tokens=1, cached_tokens=600), (400 * 2.0 + 600 * 0.5 + 8.0) / 1e6),
    ],
)
def test_cached_tokens_are_priced_apart(usage: Usage, dollars: float) -> None:
    assert PRICES.cost(usage) == pytest.approx(dollars)


def test_costs_nothing_by_default() -> None:
    assert Prices().cost(Usage(10, 10, 5)) == 0


def test_gpu_hours_are_paid_instead_of_tokens() -> None:
    prices = Prices(input_usd=2.0, output_usd=8.0, gpu_hour_usd=3.6, gpus=2)

    assert prices.cost(Usage(1_000_000, 1000), engine_seconds=0.5) == pytest.approx(0.5 * 2 * 0.001)
    assert prices.hours(3600) == pytest.approx(7.2)
    assert Prices(gpu_hour_usd=3.6).hours(1800) == pytest.approx(1.8)


def test_engine_seconds_cost_nothing_where_tokens_are_paid() -> None:
    assert PRICES.cost(Usage(), engine_seconds=1000.0) == PRICES.hours(1000.0) == 0


def test_sum_of_calls_is_what_the_hours_cost() -> None:
    prices = Prices(gpu_hour_usd=2.5)
    shares = [0.013 * number for number in range(1, 500)]

    assert sum(prices.cost(Usage(9, 1), share) for share in shares) == pytest.approx(prices.hours(sum(shares)))


def test_judgement_adds_its_calls_up() -> None:
    usages = [Usage(10, 1, 4), Usage(20, 2, 8)]
    calls = [Call(usage, 0.1, PRICES.cost(usage), 0.02) for usage in usages]
    judgement = Judgement("allow", "ok", {"ok": 1.0}, 1.0, "model", "hash", calls, 2)

    assert judgement.usage == Usage(30, 3, 12)
    assert judgement.cost_usd == pytest.approx(PRICES.cost(Usage(30, 3, 12)))
    assert judgement.engine_seconds == pytest.approx(0.04)


def test_judgement_without_calls_costs_nothing() -> None:
    judgement = Judgement("allow", "ok", {"ok": 1.0}, 1.0, "model", "hash", [], 1)

    assert (judgement.usage, judgement.cost_usd, judgement.engine_seconds) == (Usage(), 0, 0)
