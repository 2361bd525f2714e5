"""The ledger of the engine's time: every second since it was connected is somebody's, and has its price."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal, NamedTuple, Protocol

from inference.cost import Prices
from inference.judgement import Call, Judgement
from sinks.rows import EngineUsageRow
from sinks.writer import Writer
from streams.budgets import Budgets, next_day
from streams.metrics import Metrics

log = logging.getLogger(__name__)

_PERIOD_SECONDS = 5.0
_PERIODS_A_LOOK = 2  # the sum of a day is more work for the store than the rows of a period
_LAST_WRITE_SECONDS = 10.0
_RESOLUTION = timedelta(milliseconds=1)  # of the store: no two periods may begin at the same time

Use = Literal["judged", "overhead", "idle"]


class Meter(Protocol):
    """What this module needs of `inference.metering.Meter`."""

    @property
    def busy_seconds(self) -> float: ...

    @property
    def idle_seconds(self) -> float: ...

    @property
    def open_seconds(self) -> float: ...


class _Payer(NamedTuple):
    pipeline: str
    stage: str
    tenant: str


@dataclass(slots=True)
class _Sum:
    seconds: float = 0.0
    cost_usd: float = 0.0
    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    def add(self, call: Call) -> None:
        self.seconds += call.engine_seconds
        self.cost_usd += call.cost_usd
        self.calls += 1
        self.input_tokens += call.usage.input_tokens
        self.cached_tokens += call.usage.cached_tokens
        self.output_tokens += call.usage.output_tokens


class UsageLedger:
    """Writes, every few seconds, whose the engine's time was.

    judged: of rows whose verdict is stored, by who pays. overhead: what the engine did beside that, such as
    calibration at the start, probes, failed attempts, and answers whose row failed. idle: it had nothing of ours. With
    time that is given to rows in flight, which is written once they are stored, the three add up to the time that
    passed. Overhead may be less than nothing in a period: a row of several prompts counts as overhead until all of
    them are answered and its verdict is stored, and is then taken out again, so that the sums stay exact.
    """

    def __init__(
        self,
        prices: Prices,
        writer: Writer,
        budgets: Budgets,
        metrics: Metrics,
        worker: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """worker: a name that no other process has or had."""
        self._prices = prices
        self._writer = writer
        self._budgets = budgets
        self._metrics = metrics
        self._worker = worker
        self._now = now
        self._meter: Meter | None = None
        self._engine = ""
        self._since = now()
        self._busy_before = self._idle_before = 0.0
        self._told: dict[Use, float] = {"judged": 0.0, "overhead": 0.0, "idle": 0.0}
        self._shown: dict[Use, float] = dict(self._told)
        self._judged: dict[_Payer, _Sum] = {}
        self._judged_seconds = 0.0

    def open(self, meter: Meter, engine: str) -> None:
        """The engine is connected: from now on its time counts."""
        self._meter = meter
        self._engine = engine
        self._since = self._now()
        self._busy_before, self._idle_before = meter.busy_seconds, meter.idle_seconds

    def judged(self, pipeline: str, stage: str, tenant: str, judgement: Judgement) -> None:
        """A verdict is stored. A judgement without calls cost nothing."""
        if not judgement.calls:
            return
        payer = _Payer(pipeline, stage, tenant)
        total = self._judged.get(payer)
        if total is None:
            total = self._judged[payer] = _Sum()
        for call in judgement.calls:
            total.add(call)
            self._judged_seconds += call.engine_seconds
            self._budgets.charge(pipeline, tenant, call.cost_usd, call.usage.input_tokens + call.usage.output_tokens)

    async def run(self) -> None:
        """Write until cancelled, and look now and then what tenants have spent. Raises what `write` raises."""
        for period in count(1):
            now = self._now()
            # A period that ends at midnight belongs to one day.
            await asyncio.sleep(min(_PERIOD_SECONDS, (next_day(now) - now).total_seconds()))
            await self.write()
            if period % _PERIODS_A_LOOK == 0:
                await self._budgets.look()

    async def write(self) -> None:
        """Return when what was used up to now is stored. Raises RowRejected, StoreMisconfigured."""
        self._budgets.cut()
        await self._writer.write(self.cut())

    async def close(self) -> None:
        """Write what is left, rows that were given up included, if the store takes it soon."""
        try:
            async with asyncio.timeout(_LAST_WRITE_SECONDS):
                await self._writer.write(self.cut(last=True))
        except Exception as error:  # noqa: BLE001  the worker ends in any case
            log.warning("the last seconds of the engine's usage were not stored: %r", error)

    def cut(self, *, last: bool = False) -> list[EngineUsageRow]:
        """The rows of the period that ends now. last: what prompts in flight were given counts as overhead."""
        if self._meter is None:
            return []
        started, self._since = self._since, max(self._now(), self._since + _RESOLUTION)
        busy = self._meter.busy_seconds - self._busy_before
        idle = self._meter.idle_seconds - self._idle_before
        closed = busy if last else busy - self._meter.open_seconds
        judged, self._judged = self._judged, {}
        nobody = _Payer("", "", "")
        sums: list[tuple[_Payer, Use, _Sum]] = [(payer, "judged", total) for payer, total in judged.items()]
        totals: dict[Use, float] = {"overhead": closed - self._judged_seconds, "idle": idle}
        for use, total in totals.items():
            seconds, self._told[use] = total - self._told[use], total
            if seconds:
                sums.append((nobody, use, _Sum(seconds, self._prices.hours(seconds))))
        self._show({"judged": self._judged_seconds, **totals}, sum(total.cost_usd for total in judged.values()))
        written = self._now()
        return [
            EngineUsageRow(
                period_start=started,
                worker=self._worker,
                engine=self._engine,
                pipeline=payer.pipeline,
                stage=payer.stage,
                tenant=payer.tenant,
                use=use,
                seconds=total.seconds,
                cost_usd=total.cost_usd,
                calls=total.calls,
                input_tokens=total.input_tokens,
                cached_tokens=total.cached_tokens,
                output_tokens=total.output_tokens,
                written_at=written,
            )
            for payer, use, total in sums
        ]

    def _show(self, totals: dict[Use, float], judged_usd: float) -> None:
        """Counters only grow: overhead that was taken out again shows when there is more of it."""
        for use, total in totals.items():
            grown = max(0.0, total - self._shown[use])
            self._shown[use] += grown
            self._metrics.engine_seconds.labels(use).inc(grown)
            cost = judged_usd if use == "judged" else self._prices.hours(grown)
            self._metrics.engine_cost.labels(use).inc(cost)
