"""How old the rows of a stage are, how fast they are finished, and whether those that wait will be late."""

import math
import random

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import Metrics
from streams.sla import StageSla, Waiting, watched

SLA = 60.0


class Clock:
    """Unix time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """The rows of a stage: `take` gives a number, by which they are finished."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.outcomes: list[str] = []
        self.sla = StageSla(
            SLA, lambda: self.outcomes.append("met"), lambda: self.outcomes.append("missed"), self.clock
        )
        self._last = 0

    def take(self, age: float = 0, came_with: float | None = None) -> int:
        """A row of this age, which came into the topic with that age."""
        self._last += 1
        event_time = self.clock.now - age
        self.sla.take(self._last, event_time, None if came_with is None else event_time + came_with)
        return self._last

    def wait(self, messages: int, still: float = 0) -> None:
        """So many messages are not taken yet."""
        self.sla.backlog = lambda: Waiting(messages, still)

    def work(self, rows: int, seconds: float, came_with: float | None = None) -> None:
        """Rows one after the other, each of them so long."""
        for _ in range(rows):
            row = self.take(came_with or 0, came_with)
            self.clock.now += seconds
            self.sla.finish(row)


@pytest.fixture
def rows() -> Rows:
    return Rows()


def test_the_oldest_row_is_that_of_the_rows_in_flight_however_they_finish(rows: Rows) -> None:
    assert rows.sla.oldest() == 0
    old, young, oldest = rows.take(20), rows.take(5), rows.take(30)
    assert rows.sla.oldest() == 30
    rows.clock.now += 1
    rows.sla.finish(oldest)
    assert rows.sla.oldest() == 21
    rows.sla.leave(old)
    assert rows.sla.oldest() == 6
    rows.sla.finish(young)
    assert (rows.sla.oldest(), rows.sla.in_flight) == (0, 0)
    rows.take(-5)  # a producer whose clock is ahead
    assert rows.sla.oldest() == 0


def test_what_a_stage_holds_back_counts_as_well(rows: Rows) -> None:
    rows.sla.held = lambda: rows.clock.now - 100
    assert rows.sla.oldest() == 100
    rows.take(20)
    assert rows.sla.oldest() == 100
    rows.take(200)
    assert rows.sla.oldest() == 200


def test_a_row_is_inside_the_sla_up_to_its_end(rows: Rows) -> None:
    for age in (0, SLA, SLA + 1, 10):
        rows.sla.finish(rows.take(age))
    assert rows.outcomes == ["met", "met", "missed", "met"]
    assert rows.sla.inside() == 0.75


def test_what_was_not_reviewed_is_neither_inside_nor_outside(rows: Rows) -> None:
    row = rows.take(1000)
    rows.sla.leave(row)
    rows.sla.finish(row)
    rows.sla.finish(12345)  # never taken: it could not be read
    rows.sla.leave(12345)
    assert rows.outcomes == []
    assert math.isnan(rows.sla.inside())
    assert math.isnan(rows.sla.quantile(0.5))


@given_any(
    ages=st.lists(st.floats(0.002, 1e7), min_size=1, max_size=200), share=st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0])
)
def test_quantiles_are_right_to_a_hundredth(ages: list[float], share: float) -> None:
    rows = Rows()
    rows.clock.now = 1e9  # ages of rows are differences: as exact as a clock that says so many seconds
    for age in ages:
        rows.sla.finish(rows.take(age))
    exact = sorted(ages)[math.floor(share * (len(ages) - 1))]
    assert rows.sla.quantile(share) == pytest.approx(exact, rel=0.0102)


def test_quantiles_of_many_rows_at_once(rows: Rows) -> None:
    ages = [number / 100 for number in range(1, 10_001)]
    random.Random(7).shuffle(ages)
    for age in ages:
        rows.sla.finish(rows.take(age))
    found = [rows.sla.quantile(share) for share in (0.5, 0.95, 0.99)]
    assert found == [pytest.approx(50, rel=0.011), pytest.approx(95, rel=0.011), pytest.approx(99, rel=0.011)]


def test_the_window_forgets_after_ten_minutes(rows: Rows) -> None:
    rows.sla.finish(rows.take(1000))
    rows.clock.now += 590
    rows.sla.finish(rows.take(1))
    assert rows.sla.inside() == 0.5
    assert rows.sla.quantile(1) == pytest.approx(1000, rel=0.011)
    rows.clock.now += 11
    assert rows.sla.inside() == 1
    assert rows.sla.quantile(1) == pytest.approx(1, rel=0.011)
    rows.clock.now += 86_400
    assert math.isnan(rows.sla.inside())
    assert rows.sla.rate() == 0


def test_the_rate_counts_only_the_time_with_something_to_do(rows: Rows) -> None:
    assert rows.sla.rate() == 0
    rows.work(5, 2)
    assert rows.sla.rate() == pytest.approx(0.5)
    rows.clock.now += 60
    assert rows.sla.rate() == pytest.approx(0.5)
    rows.clock.now += 300
    assert rows.sla.rate() == 0


def test_rows_side_by_side_take_the_same_time(rows: Rows) -> None:
    for _ in range(10):
        together = [rows.take() for _ in range(20)]
        rows.clock.now += 4  # slices end between
        for row in together:
            rows.sla.finish(row)
    assert rows.sla.rate() == pytest.approx(5)


def test_a_stage_that_hangs_has_no_rate_after_two_minutes(rows: Rows) -> None:
    rows.work(100, 0.1)
    rows.take()
    rows.clock.now += 60
    assert rows.sla.rate() == pytest.approx(100 / 70)
    rows.clock.now += 75
    assert rows.sla.rate() == 0


def test_without_anything_at_hand_the_forecast_is_nothing(rows: Rows) -> None:
    assert math.isnan(rows.sla.forecast())  # nobody has told what waits
    assert not rows.sla.will_be_missed()
    rows.wait(0)
    assert rows.sla.forecast() == 0
    rows.work(3, 1)
    assert rows.sla.forecast() == 0


def test_rows_that_wait_and_none_finished_never_end(rows: Rows) -> None:
    rows.wait(1)
    assert rows.sla.forecast() == math.inf
    assert rows.sla.will_be_missed()
    rows.wait(0)
    rows.take(5)
    assert rows.sla.forecast() == 5  # the first of the day: nothing speaks for its being late
    assert not rows.sla.will_be_missed()


def test_the_last_row_is_as_old_as_the_rows_before_it_take(rows: Rows) -> None:
    rows.work(20, 0.5)
    rows.wait(119)
    rows.take()
    assert rows.sla.forecast() == pytest.approx(SLA)
    assert not rows.sla.will_be_missed()
    rows.wait(120)
    assert rows.sla.will_be_missed()


def test_rows_that_come_old_will_be_older(rows: Rows) -> None:
    rows.work(20, 0.5, came_with=40)
    rows.wait(20)
    assert rows.sla.forecast() == pytest.approx(50)
    for _ in range(30):
        rows.sla.take(-1, rows.clock.now, math.inf)  # producers may write any time
    rows.sla.leave(-1)
    rows.wait(20, still=15)
    assert rows.sla.forecast() == pytest.approx(65)
    assert rows.sla.will_be_missed()


def test_what_is_late_already_stays_late(rows: Rows) -> None:
    rows.work(20, 0.5)
    rows.wait(0)
    rows.take(SLA + 1)
    assert rows.sla.forecast() == SLA + 1
    assert rows.sla.will_be_missed()


def test_a_row_may_take_longer_than_anything_is_remembered(rows: Rows) -> None:
    row = rows.take()
    rows.clock.now += 10 * 365 * 86_400
    rows.sla.finish(row)
    assert rows.outcomes == ["missed"]
    assert rows.sla.rate() == pytest.approx(1 / 115, rel=0.1)
    assert rows.sla.quantile(0.5) == pytest.approx(10 * 365 * 86_400, rel=0.011)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What is told of a stage: name and other labels than those of the stage, and the value."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.labels.get("stage") == "s" and not sample.name.endswith("_created"):
                others = [value for name, value in sample.labels.items() if name not in {"pipeline", "stage"}]
                found[sample.name.removeprefix("weir_sla_"), *others] = sample.value
    return found


def test_each_number_is_a_metric() -> None:
    metrics = Metrics()
    sla = watched("p", "s", 7, metrics)
    found = samples(metrics)
    assert {name for name, value in found.items() if math.isnan(value)} == {
        ("age_seconds", "0.5"),
        ("age_seconds", "0.95"),
        ("age_seconds", "0.99"),
        ("met_ratio",),
        ("backlog_messages",),
        ("forecast_seconds",),
    }
    assert {name: value for name, value in found.items() if not math.isnan(value)} == {
        ("seconds",): 7,
        ("oldest_age_seconds",): 0,
        ("rows_total", "met"): 0,
        ("rows_total", "missed"): 0,
        ("rows_per_second",): 0,
        ("will_be_missed",): 0,
    }
    sla.backlog = lambda: Waiting(3, 0)
    assert samples(metrics)["forecast_seconds",] == math.inf
