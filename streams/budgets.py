"""What tenants have spent today, in all workers together, and who may spend no more."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta

from sinks.spend import Spend, Spent
from streams.limits import Limits, TenantLimits

_NOTHING = Spent()


class BudgetSpent(Exception):
    """The tenant's budget for today is spent."""

    reason = "budget"


class Budgets:
    """The daily budgets of all pipelines of a worker. A day is one of UTC.

    Spent is what the store has, as of the last look, and what this worker has not written there by then. A budget is
    noticed to be spent by the rows that come after: those in flight, and what other workers paid for since the last
    look, come on top.
    """

    def __init__(
        self, limits: Mapping[str, Limits], spend: Spend, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """limits: by the name of their pipeline."""
        self._limits = {name: of for name, of in limits.items() if of.has_budgets}
        self._spend = spend
        self._now = now
        self._day = date.min
        self._stored: Mapping[tuple[str, str], Spent] = {}
        self._written: dict[tuple[str, str], Spent] = {}
        self._new: dict[tuple[str, str], Spent] = {}

    def check(self, pipeline: str, tenant: str) -> None:
        """Raises BudgetSpent."""
        if pipeline in self._limits and self.share_spent(pipeline, tenant) >= 1:
            raise BudgetSpent

    @property
    def day_ends(self) -> datetime:
        """When the next day begins."""
        return next_day(self._now())

    def share_spent(self, pipeline: str, tenant: str) -> float:
        """How much of its budget a tenant has spent today, from 0; 0 for one without."""
        limits = self._limits.get(pipeline)
        of = limits.of(tenant) if limits else None
        if of is None or not of.has_budget:
            return 0.0
        self._begin_day()
        key = pipeline, tenant
        return _share(of, [spent.get(key, _NOTHING) for spent in (self._stored, self._written, self._new)])

    def charge(self, pipeline: str, tenant: str, usd: float, tokens: int) -> None:
        """A row was paid for."""
        if pipeline in self._limits:
            self._begin_day()
            key = pipeline, tenant
            self._new[key] = self._new.get(key, _NOTHING) + Spent(usd, tokens)

    def cut(self) -> None:
        """What was charged up to now is about to be written, before the next `look`."""
        self._begin_day()
        for key, spent in self._new.items():
            self._written[key] = self._written.get(key, _NOTHING) + spent
        self._new.clear()

    async def look(self) -> None:
        """Ask the store what was spent. What `cut` told of must have been written. Raises StoreMisconfigured."""
        if not self._limits:
            return
        self._begin_day()
        day = self._day
        found = await self._spend.since(datetime.combine(day, time(), UTC), list(self._limits))
        self._begin_day()
        if self._day == day:
            self._stored = found
            self._written.clear()

    def _begin_day(self) -> None:
        if (today := self._now().date()) != self._day:
            self._day = today
            self._stored, self._written, self._new = {}, {}, {}


def next_day(now: datetime) -> datetime:
    """When the next day of UTC begins."""
    return datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), time(), UTC)


def _share(limits: TenantLimits, spent: list[Spent]) -> float:
    total = sum(spent, _NOTHING)
    shares = [(total.usd, limits.usd_per_day), (total.tokens, limits.tokens_per_day)]
    return max(_part(amount, of) for amount, of in shares if of is not None)


def _part(amount: float, of: float) -> float:
    return amount / of if of else 1.0
