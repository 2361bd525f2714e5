"""Texts of a stage with what was said of them: by a person where one looked, otherwise by the model."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY, ask

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What was said without looking at the text teaches nothing, unless a person has looked since.
_PAGE = """
SELECT row_id, source_row_id, lang, decision FROM verdicts_raw FINAL
WHERE pipeline = {pipeline:String} AND stage = {stage:String} AND row_id >= {begin:UInt128}
    AND (confidence_source NOT IN ('prior', 'screen') OR row_id IN
        (SELECT row_id FROM reviews_raw WHERE pipeline = {pipeline:String} AND stage = {stage:String}))
ORDER BY row_id LIMIT {rows:UInt32}
"""
_REVIEWS = """
SELECT row_id, argMax(decision, (reviewed_at, review_id)) FROM reviews_raw FINAL
WHERE row_id IN {rows:Array(UInt128)} GROUP BY row_id
"""
_TEXTS = """
SELECT row_id, text FROM source_rows_raw
WHERE row_id IN {rows:Array(UInt128)} AND erased_at IS NULL ORDER BY written_at DESC LIMIT 1 BY row_id
"""


class Labelled(NamedTuple):
    """A text. flagged: whether it was not let pass. by: who said so. row_id: of the verdict."""

    row_id: int
    text: str
    lang: str
    flagged: bool
    by: Literal["model", "person"]


def labelled(
    client: Client, pipeline: str, stage: str, passes: str, since: datetime, page_rows: int = KEYS_A_QUERY
) -> Iterator[list[Labelled]]:
    """Pages of the texts of a stage, in the order of their events.

    passes: the decision that lets a text pass. since: time of the first event. page_rows: verdicts a page, at most as
    many as a query takes; a page has fewer texts where the store has lost some. Of several reviews of a row the last
    one by time counts. Raises clickhouse-connect's errors.
    """
    begin = max(0, (since - _EPOCH) // timedelta(milliseconds=1)) << 80
    while True:
        page = ask(client, _PAGE, pipeline=pipeline, stage=stage, begin=begin, rows=page_rows)
        if not page:
            return
        reviewed = dict(ask(client, _REVIEWS, rows=[row for row, *_ in page]))
        texts = dict(ask(client, _TEXTS, rows=[source for _, source, *_ in page]))
        yield [
            Labelled(
                row,
                texts[source],
                lang,
                reviewed.get(row, decision) != passes,
                "person" if row in reviewed else "model",
            )
            for row, source, lang, decision in page
            if source in texts
        ]
        if len(page) < page_rows:
            return
        begin = page[-1][0] + 1
