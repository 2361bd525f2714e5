"""What was promised for a screen, and the audited rows that show whether it holds."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import ask, time_text
from sinks.rows import CascadeFitRow

MOST = 50_000  # rows that a query tells

_LAST = f"""
SELECT {", ".join(CascadeFitRow._fields)} FROM cascade_fits_raw
WHERE pipeline = {{pipeline:String}} AND stage = {{stage:String}} AND screen = {{screen:String}}
    AND prompt_hash = {{prompt_hash:String}} AND model = {{model:String}} AND goal = {{goal:String}}
ORDER BY fitted_at DESC LIMIT 1
"""  # noqa: S608
_AUDITED = """
SELECT judged_at, risk, decision != {fine:String}
FROM verdicts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND screen = {screen:String}
    AND prompt_hash = {prompt_hash:String} AND audited AND model = {model:String}
    AND judged_at > {since:DateTime64(3, 'UTC')} AND judged_at <= {until:DateTime64(3, 'UTC')}
ORDER BY judged_at, row_id LIMIT {limit:UInt32}
"""


class CascadeKey(NamedTuple):
    """What a promise is about. goal: what is promised, in words."""

    pipeline: str
    stage: str
    screen: str
    prompt_hash: str
    model: str
    goal: str


def last_fit(client: Client, key: CascadeKey) -> CascadeFitRow | None:
    """The fit that holds; None if there was none yet. As all here, it raises clickhouse-connect's errors."""
    found = ask(client, _LAST, **key._asdict())
    return CascadeFitRow(*found[0]) if found else None


class AuditedRow(NamedTuple):
    """risk: what the screen said. flagged: whether the model flags the row."""

    judged_at: datetime
    risk: float
    flagged: bool


def audited(client: Client, key: CascadeKey, fine: str, since: datetime, until: datetime) -> Sequence[AuditedRow]:
    """Audited rows that were judged after `since` and not after `until`, in that order; of many the first ones.

    fine: the decision that flags nothing.
    """
    times = {"since": time_text(since), "until": time_text(until)}
    found = ask(client, _AUDITED, **key._asdict(), **times, fine=fine, limit=MOST)
    return [AuditedRow(at, float(risk), bool(flagged)) for at, risk, flagged in found]
