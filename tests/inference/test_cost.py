"""What tokens cost, for one call and for a judgement of several."""

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


def test_judgement_adds_its_calls_up() -> None:
    usages = [Usage(10, 1, 4), Usage(20, 2, 8)]
    calls = [Call(usage, 0.1, PRICES.cost(usage)) for usage in usages]
    judgement = Judgement("allow", "ok", {"ok": 1.0}, 1.0, "model", "hash", calls, 2, context_read=False)

    assert judgement.usage == Usage(30, 3, 12)
    assert judgement.cost_usd == pytest.approx(PRICES.cost(Usage(30, 3, 12)))


def test_judgement_without_calls_costs_nothing() -> None:
    judgement = Judgement("allow", "ok", {"ok": 1.0}, 1.0, "model", "hash", [], 1, context_read=False)

    assert (judgement.usage, judgement.cost_usd) == (Usage(), 0)
