"""The way of a pipeline's rows to the model: as far as its limits allow."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from inference.judgement import Judgement
from streams.budgets import Budgets, BudgetSpent
from streams.limits import Limits
from streams.rates import Rates

_SHARE_OF_WINDOW = 0.25


class RateExceeded(Exception):
    """As many rows of the tenant as may wait for its rate do so already."""

    reason = "rate"


PAST_LIMIT = (BudgetSpent, RateExceeded)


class Admission:
    """Rates and budgets of one pipeline."""

    def __init__(self, pipeline: str, limits: Limits, rates: Rates, budgets: Budgets) -> None:
        self._pipeline = pipeline
        self.limits = limits
        self.rates = rates
        self.budgets = budgets
        self._bounded = limits.has_rate or bool(limits.tenants)
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def row(self, tenant: str, window_rows: int) -> Iterator[None]:
        """A row of the tenant wants a judgement: that of the model, or of another row that asks it the same.

        window_rows: how many rows the stage works on at once. While a tenant that need not wait is held up by a rate of
        its own, at most a quarter of them may be its. Raises RateExceeded if this would be one more.
        """
        of = self.limits.of(tenant)
        if not of.has_rate or of.past_budget == "wait":
            yield
            return
        if self.rates.waiting(tenant) and self._waiting[tenant] >= max(1, int(window_rows * _SHARE_OF_WINDOW)):
            raise RateExceeded
        self._waiting[tenant] += 1
        try:
            yield
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]

    async def ask(self, tenant: str, judge: Callable[[], Awaitable[Judgement]]) -> Judgement:
        """What `judge` returns, once the tenant may ask the model. Raises BudgetSpent, and what `judge` raises."""
        if not self._bounded:
            return await judge()
        self.budgets.check(self._pipeline, tenant)
        reserved = await self.rates.admit(tenant)
        requests = tokens = 0
        try:
            self.budgets.check(self._pipeline, tenant)  # it may have been spent meanwhile
            judgement = await judge()
            usage = judgement.usage
            requests, tokens = len(judgement.calls), usage.input_tokens + usage.output_tokens
        finally:
            reserved.settle(requests, tokens)
        return judgement
