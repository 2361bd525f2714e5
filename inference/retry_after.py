"""The Retry-After header of HTTP."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 60.0


def seconds(header: str | None, now: datetime) -> float | None:
    """Seconds to wait from `now`, from 0 to LONGEST_SECONDS; None where the header is missing or cannot be read.

    header: a number of seconds, or a date as HTTP writes it. now: with a time zone.
    """
    if not header:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, OverflowError):
            return None
        wait = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return None if math.isnan(wait) else min(max(wait, 0.0), LONGEST_SECONDS)
