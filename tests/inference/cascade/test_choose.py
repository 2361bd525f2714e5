"""The same row is always audited or never, and the audited rows are a sample by chance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from inference.cascade.choose import audited

IDS = st.integers(0, 2**128 - 1)


@given(IDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_a_smaller_one(row_id: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert audited(row_id, large) >= audited(row_id, small)


@given(IDS)
def test_none_and_all(row_id: int) -> None:
    assert not audited(row_id, 0)
    assert audited(row_id, 1)


def test_the_share_is_kept_over_rows_that_follow_each_other() -> None:
    start = 0x0199_0000_0000_7000_8000_0000_0000_0000
    chosen = [audited(start + row, 0.02) for row in range(100_000)]
    assert binomtest(sum(chosen), len(chosen), 0.02).pvalue > 1e-4
    tenths = [sum(chosen[first : first + 10_000]) for first in range(0, 100_000, 10_000)]
    assert chisquare(tenths).pvalue > 1e-4


def test_the_choice_is_that_of_every_other_version() -> None:
    """Rows keep their answer over releases, so that the audited ones of the store stay a plain sample."""
    assert [row for row in range(200) if audited(row, 0.02)] == [108, 110, 136]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        audited(1, share)
