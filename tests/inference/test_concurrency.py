"""How many prompts are in flight follows what the engine says, or what it does."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.concurrency import Concurrency, Load

loads = st.builds(Load, st.integers(0, 200).map(float), st.integers(0, 200).map(float))
steps = st.one_of(
    st.tuples(st.just("observed"), loads),
    st.tuples(st.just("answered"), st.integers(1, 64)),
    st.tuples(st.sampled_from(["refused", "wanted"]), st.none()),
)


@given(st.integers(1, 50), st.integers(1, 50), st.lists(steps, max_size=80))
def test_limit_stays_within_its_bounds_and_every_change_is_told(
    start: int, largest: int, events: list[tuple[str, Load | int | None]]
) -> None:
    told: list[int] = []
    concurrency = Concurrency(start, largest, told.append)
    assert concurrency.limit == min(start, largest)
    for name, value in events:
        before = concurrency.limit
        getattr(concurrency, name)(*() if value is None else (value,))
        assert 1 <= concurrency.limit <= largest
        assert told[-1] == concurrency.limit
        if name == "wanted":
            assert concurrency.limit == before
        if name == "refused":
            assert concurrency.limit <= before
    assert all(one != other for one, other in pairwise(told))


class TestToldLoad:
    @pytest.mark.parametrize("wanted", [False, True])
    def test_limit_grows_only_where_it_is_wanted_and_nothing_waits_there(self, *, wanted: bool) -> None:
        concurrency = Concurrency(100, 1000)
        if wanted:
            concurrency.wanted()
        concurrency.observed(Load(100, 0))

        assert concurrency.limit == (125 if wanted else 100)

    def test_growth_is_wanted_anew_each_time(self) -> None:
        concurrency = Concurrency(100, 1000)
        concurrency.wanted()
        concurrency.observed(Load(100, 0))
        concurrency.observed(Load(100, 0))

        assert concurrency.limit == 125

    def test_smallest_limit_grows_too(self) -> None:
        concurrency = Concurrency(1, 1000)
        for _ in range(3):
            concurrency.wanted()
            concurrency.observed(Load(1, 0))

        assert concurrency.limit == 4

    @pytest.mark.parametrize("load", [Load(80, 20), Load(80, 100), Load(1, 100), Load(120, 120)])
    def test_queue_of_a_step_or_of_what_it_began_with_is_as_it_should_be(self, load: Load) -> None:
        concurrency = Concurrency(100, 1000)
        concurrency.wanted()
        concurrency.observed(load)

        assert concurrency.limit == 100

    @pytest.mark.parametrize(
        ("load", "limit"), [(Load(100, 120), 90), (Load(110, 130), 91), (Load(60, 240), 70), (Load(0, 200), 70)]
    )
    def test_limit_shrinks_to_what_fits_but_not_all_at_once(self, load: Load, limit: int) -> None:
        concurrency = Concurrency(100, 1000)
        concurrency.observed(load)

        assert concurrency.limit == limit

    def test_answers_are_no_reason_to_grow_where_the_engine_tells_more(self) -> None:
        concurrency = Concurrency(4, 1000)
        concurrency.observed(Load(4, 1))
        for _ in range(100):
            concurrency.wanted()
            concurrency.answered(4)

        assert concurrency.limit == 4

    def test_limit_settles_where_the_engine_is_full_with_a_short_queue(self) -> None:
        """An engine that runs 64 prompts at once, and has more work than it can do."""
        concurrency = Concurrency(4, 1000)
        limits = []
        for _ in range(60):
            concurrency.wanted()
            concurrency.observed(Load(min(64, concurrency.limit), max(0, concurrency.limit - 64)))
            limits.append(concurrency.limit)

        assert all(64 < limit <= 96 for limit in limits[30:])


class TestAnswersOnly:
    def test_limit_grows_by_one_for_a_limits_worth_of_answers(self) -> None:
        concurrency = Concurrency(10, 1000)
        for _ in range(10):
            concurrency.wanted()
            concurrency.answered(1)
        assert concurrency.limit in (10, 11)
        concurrency.wanted()
        concurrency.answered(1)
        assert concurrency.limit == 11

    def test_limit_does_not_grow_where_nothing_waits_for_it(self) -> None:
        concurrency = Concurrency(10, 1000)
        for _ in range(100):
            concurrency.answered(10)

        assert concurrency.limit == 10

    def test_refusals_of_one_round_trip_count_once(self) -> None:
        concurrency = Concurrency(100, 1000)
        for _ in range(50):
            concurrency.refused()
        assert concurrency.limit == 70

        concurrency.answered(99)
        concurrency.refused()
        assert concurrency.limit == 70
        concurrency.answered(1)
        concurrency.refused()
        assert concurrency.limit == 49

    def test_limit_comes_back_after_refusals(self) -> None:
        concurrency = Concurrency(8, 8)
        for _ in range(20):
            concurrency.refused()
            concurrency.answered(8)
        assert concurrency.limit == 1
        for _ in range(100):
            concurrency.wanted()
            concurrency.answered(1)

        assert concurrency.limit == 8
