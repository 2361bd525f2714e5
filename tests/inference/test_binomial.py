"""Bounds of shares, against published tables."""

import pytest

from inference.binomial import clopper_pearson, lower_bound, most_failures, rows_needed, tail


def test_exact_tails_agree_with_tables() -> None:
    assert [rows_needed(0.05, 0.05), rows_needed(0.1, 0.05), rows_needed(0.05, 0.01)] == [59, 29, 90]
    # Sample sizes for 0 to 4 failures at 95/95, as in tables of acceptance sampling.
    assert [most_failures(rows, 0.05, 0.05) for rows in (58, 59, 92, 93, 123, 124, 152, 153, 180, 181)] == [
        *(-1, 0, 0, 1, 1, 2, 2, 3, 3, 4)
    ]
    assert tail(0, 0, 0.05) == 1
    assert lower_bound(59, 59, 0.95) == pytest.approx(0.95, abs=1e-3)
    interval = clopper_pearson(5, 20, 0.95)
    assert interval is not None
    assert interval[:3] == pytest.approx((0.25, 0.0866, 0.4910), abs=1e-4)
    assert clopper_pearson(0, 0, 0.95) is None
