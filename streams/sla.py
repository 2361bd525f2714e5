"""How a stage stands to the SLA: ages of its rows, how fast they are finished, and whether the next ones will be late.

A row's age is counted from when the words were written or said, through all stages: of the last stage it is the time
to the review.

Ages of finished rows are counted in buckets whose bounds grow by 2%, as DDSketch does (Masson et al., 2019): any
quantile is right to 1%, in bounded memory, with nothing sampled. Buckets are kept for each ten seconds, so what is
told is of the last ten minutes.

The forecast is that of a queue that is served in order. The rows at hand, `n` of them in the topic and in flight, are
finished after `n / rate`, where the rate is that of the last two minutes, counted only while there were rows: a stage
that had little to do is not slow. The last of them will then be so much older than it is now. Its age now is how long
the topic has not grown, and what the rows that were taken lately had of age when they came into the topic. The oldest
row in flight is late if that one is, so the forecast is never less than its age.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import ceil, log
from statistics import median_low
from typing import NamedTuple

from streams.metrics import Metrics

_SLICE_SECONDS = 10.0
_SLICES = 60
_RATE_SLICES = 12
_ARRIVALS = 255
_SHORTEST = 0.001
_BUCKETS_AN_E = 1 / log(1.01 / 0.99)
_FIRST = ceil(log(_SHORTEST) * _BUCKETS_AN_E)

QUANTILES = (0.5, 0.95, 0.99)


class Waiting(NamedTuple):
    """What a stage has not taken yet. messages: how many. still: seconds since the topic last grew."""

    messages: int
    still: float


@dataclass(slots=True)
class _Slice:
    """Rows that were finished in ten seconds, from `start`. busy: how much of that time there were rows in flight.

    buckets: how many rows were how old.
    """

    start: float
    busy: float = 0.0
    finished: int = 0
    inside: int = 0
    buckets: dict[int, int] = field(default_factory=dict)


class StageSla:
    """Follows the rows of one stage.

    backlog: what is not taken yet, None if that is not known. held: time of the oldest event that is neither in flight
    nor finished, such as a turn of an open call; None if there is none. All times are Unix seconds.
    """

    def __init__(
        self,
        seconds: float,
        met: Callable[[], object] = lambda: None,
        missed: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """seconds: the SLA. met, missed: called for each row that was finished within it, and for each other one."""
        self.seconds = seconds
        self.backlog: Callable[[], Waiting | None] = lambda: None
        self.held: Callable[[], float | None] = lambda: None
        self._met = met
        self._missed = missed
        self._clock = clock
        self._taken: dict[int, float] = {}
        self._arrivals: deque[float] = deque(maxlen=_ARRIVALS)
        self._current = _Slice(clock())
        self._until = self._current.start + _SLICE_SECONDS
        self._slices = deque([self._current], maxlen=_SLICES)
        self._busy_since = 0.0

    def take(self, row: int, event_time: float, broker_time: float | None) -> None:
        """A row is in flight. row: any number that no other row in flight has. broker_time: None if there is none."""
        if not self._taken:
            self._busy_since = now = self._clock()
            self._roll(now)
        self._taken[row] = event_time
        if broker_time is not None:
            self._arrivals.append(broker_time - event_time)

    def leave(self, row: int) -> None:
        """The row is not in flight any more, and was not reviewed: it is a dead letter, a repeat, or waits."""
        if self._taken.pop(row, None) is not None and not self._taken:
            now = self._clock()
            self._roll(now)
            self._current.busy += now - self._busy_since

    def finish(self, row: int) -> None:
        """Its message is acknowledged. One that has left counts only for how fast the topic is worked off."""
        now = self._clock()
        if now >= self._until:
            self._roll(now)
        current = self._current
        current.finished += 1
        event_time = self._taken.pop(row, None)
        if event_time is None:
            return
        if not self._taken:
            current.busy += now - self._busy_since
        age = now - event_time
        bucket = ceil(log(age) * _BUCKETS_AN_E) if age > _SHORTEST else _FIRST
        current.buckets[bucket] = current.buckets.get(bucket, 0) + 1
        if age <= self.seconds:
            current.inside += 1
            self._met()
        else:
            self._missed()

    @property
    def in_flight(self) -> int:
        """Rows that were taken and are not finished."""
        return len(self._taken)

    def oldest(self) -> float:
        """Age of the oldest row that was taken and is not finished, in seconds; 0 if there is none."""
        held = self.held()
        times = [*self._taken.values(), *([] if held is None else [held])]
        return max(0.0, self._clock() - min(times)) if times else 0.0

    def quantile(self, share: float) -> float:
        """Age, in seconds, below which this share of the rows of the window were finished; NaN if there were none."""
        buckets: Counter[int] = Counter()
        for part in self._window():
            buckets.update(part.buckets)
        rank = share * (buckets.total() - 1)
        below = 0
        for bucket in sorted(buckets):
            below += buckets[bucket]
            if below > rank:
                return _age(bucket)
        return math.nan

    def inside(self) -> float:
        """Share of the rows of the window that were within the SLA; NaN if there were none."""
        rows = inside = 0
        for part in self._window():
            rows += sum(part.buckets.values())
            inside += part.inside
        return inside / rows if rows else math.nan

    def rate(self) -> float:
        """Rows finished a second, while there were any to finish; 0 if none were."""
        window = self._window()
        busy, finished = self._clock() - self._busy_since if self._taken else 0.0, 0
        for part in islice(reversed(window), _RATE_SLICES):
            busy += part.busy
            finished += part.finished
        return finished / busy if busy > 0 else 0.0

    def forecast(self) -> float:
        """Age, in seconds, that the rows at hand will have at worst when they are finished; 0 if there are none.

        Infinite if rows wait and none is finished, NaN if it is not known how many wait.
        """
        waiting = self.backlog()
        if waiting is None:
            return math.nan
        oldest, rate, rows = self.oldest(), self.rate(), waiting.messages + self.in_flight
        if not rows:
            return oldest
        if not rate:
            return math.inf if waiting.messages else oldest
        still = waiting.still if waiting.messages else 0.0
        return max(oldest, still + self._came_with() + rows / rate)

    def will_be_missed(self) -> bool:
        """Whether the forecast is beyond the SLA. False if there is none."""
        return self.forecast() > self.seconds

    def _came_with(self) -> float:
        """Age that rows lately had when they came into the topic, in seconds."""
        known = [age for age in self._arrivals if math.isfinite(age)]  # producers may write any time
        return max(0.0, median_low(known)) if known else 0.0

    def _window(self) -> deque[_Slice]:
        self._roll(self._clock())
        return self._slices

    def _roll(self, now: float) -> None:
        """Go on to the slice of now. Those that are too old are gone."""
        if now < self._until:
            return
        for start in _starts(self._current.start, now):
            if self._taken:
                self._current.busy += start - self._busy_since
                self._busy_since = start
            self._current = _Slice(start)
            self._slices.append(self._current)
        self._until = self._current.start + _SLICE_SECONDS


def watched(pipeline: str, stage: str, seconds: float, metrics: Metrics) -> StageSla:
    """A stage's SLA of so many seconds, shown in these metrics."""
    labels = (pipeline, stage)
    met, missed = (metrics.sla_rows.labels(*labels, outcome) for outcome in ("met", "missed"))
    sla = StageSla(seconds, met.inc, missed.inc)
    metrics.sla.labels(*labels).set(seconds)
    metrics.sla_oldest.labels(*labels).set_function(sla.oldest)
    for quantile in QUANTILES:
        metrics.sla_age.labels(*labels, str(quantile)).set_function(partial(sla.quantile, quantile))
    metrics.sla_inside.labels(*labels).set_function(sla.inside)
    metrics.sla_backlog.labels(*labels).set_function(lambda: math.nan if (w := sla.backlog()) is None else w.messages)
    metrics.sla_rate.labels(*labels).set_function(sla.rate)
    metrics.sla_forecast.labels(*labels).set_function(sla.forecast)
    metrics.sla_will_be_missed.labels(*labels).set_function(sla.will_be_missed)
    return sla


def _starts(last: float, now: float) -> Iterator[float]:
    """The starts of the slices after one, to that of now; only those that a window keeps."""
    passed = int((now - last) // _SLICE_SECONDS)
    for number in range(max(1, passed - _SLICES + 1), passed + 1):
        yield last + number * _SLICE_SECONDS


def _age(bucket: int) -> float:
    """The age that is no more than 1% from all of a bucket."""
    return math.exp(bucket / _BUCKETS_AN_E) * 0.99
