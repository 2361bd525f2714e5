"""A worker that would give up too much of its traffic is told so, before it does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.limit import DeadLetterLimit


def given_up(limit: DeadLetterLimit, rows: int) -> int:
    """How many of so many bad rows in a row are admitted."""
    for number in range(rows):
        if not limit.admits():
            return number
    return rows


def test_a_worker_that_gives_up_everything_stops_soon() -> None:
    assert given_up(DeadLetterLimit(0.5), 1000) == 25


def test_a_few_bad_rows_are_no_sign_of_anything() -> None:
    limit = DeadLetterLimit(0.1)
    assert given_up(limit, 5) == 5


def test_good_rows_make_room() -> None:
    limit = DeadLetterLimit(0.25)
    for _ in range(200):
        limit.passed()
    assert given_up(limit, 1000) == 50


def test_only_the_last_rows_count() -> None:
    limit = DeadLetterLimit(0.25)
    for _ in range(100_000):
        limit.passed()
    assert given_up(limit, 1000) == 50


@pytest.mark.parametrize(("share", "admitted"), [(0.0, 0), (1.0, 1000)])
def test_the_ends_of_the_scale(share: float, admitted: int) -> None:
    assert given_up(DeadLetterLimit(share), 1000) == admitted


@given(st.lists(st.booleans(), max_size=600), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_share_of_what_is_given_up_is_never_exceeded(bad: list[bool], share: float) -> None:
    limit = DeadLetterLimit(share)
    outcomes: list[bool] = []
    for each in bad:
        if each and not limit.admits():
            break
        if not each:
            limit.passed()
        outcomes.append(each)
        last = outcomes[-200:]
        assert not each or sum(last) <= share * max(len(last), 50)
