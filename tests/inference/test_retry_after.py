"""The Retry-After header in each of its forms, and in none."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.retry_after import LONGEST_SECONDS, seconds

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("-7", 0.0),
        ("86400", LONGEST_SECONDS),
        ("1e999", LONGEST_SECONDS),
        ("Sun, 22 Nov 2026 10:00:09 GMT", 9.0),
        ("Sun, 22 Nov 2026 10:00:09", 9.0),
        ("Sun, 22 Nov 2026 11:00:09 +0100", 9.0),
        ("Sun, 22 Nov 2026 09:59:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 10:00:00 GMT", LONGEST_SECONDS),
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Sun, 99 Nov 2026 10:00:09 GMT", None),
    ],
)
def test_says_how_long_to_wait(header: str | None, wait: float | None) -> None:
    assert seconds(header, NOW) == wait


@given(st.one_of(st.text(), st.from_regex(r"[A-Z][a-z]{2}, \d+ Nov \d+ \d+:\d+:\d+ [-+]?\w*")))
@example("Sun, 22 Nov 99999999999999999999 10:00:09 GMT")
@example("Sun, 22 Nov 2026 10:00:09 +99999999999999999999")
def test_never_fails_whatever_a_server_sends(header: str) -> None:
    wait = seconds(header, NOW + timedelta(days=1))
    assert wait is None or 0 <= wait <= LONGEST_SECONDS
