"""Texts of a stage with what was said of them: by a person where one looked, otherwise by the model."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from clickhouse_connect.driver.client import Client

from sinks.clickhouse import KEYS_A_QUERY, ask

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BAND = "least(toUInt32(floor(risk * {bands:UInt32})), {bands:UInt32} - 1)"
# What was said without looking at the text teaches nothing, unless a person has looked since.
_PAGE = f"""
SELECT row_id, source_row_id, lang, decision, label, confidence_source NOT IN ('prior', 'screen'), screen, {_BAND}
FROM verdicts_raw FINAL
WHERE pipeline = {{pipeline:String}} AND stage = {{stage:String}} AND row_id >= {{begin:UInt128}}
    AND (confidence_source NOT IN ('prior', 'screen') OR row_id IN
        (SELECT row_id FROM reviews_raw WHERE pipeline = {{pipeline:String}} AND stage = {{stage:String}}))
ORDER BY row_id LIMIT {{rows:UInt32}}
"""  # noqa: S608
_REVIEWS = """
SELECT row_id, argMax(decision, (reviewed_at, review_id)), argMax(label, (reviewed_at, review_id))
FROM reviews_raw FINAL
WHERE row_id IN {rows:Array(UInt128)} GROUP BY row_id
"""
_TEXTS = """
SELECT row_id, text FROM source_rows_raw
WHERE row_id IN {rows:Array(UInt128)} ORDER BY written_at DESC LIMIT 1 BY row_id
"""
_BANDS = f"""
SELECT screen, {_BAND}, count(), countIf(confidence_source != 'screen') FROM verdicts_raw FINAL
WHERE pipeline = {{pipeline:String}} AND stage = {{stage:String}} AND row_id >= {{begin:UInt128}}
    AND confidence_source != 'prior' AND reused_from = 0
GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608


class Band(NamedTuple):
    """Risks of a screen, divided evenly. screen: empty where none looked. number: from 0."""

    screen: str
    number: int


class Labelled(NamedTuple):
    """A text. flagged: whether it was not let pass. by: who said so. row_id: of the verdict.

    judged: whether the model read it, whoever has the last word. overturned: a person says other than the verdict does.
    label: of a verdict that let it pass and was overturned it may be empty.
    """

    row_id: int
    text: str
    lang: str
    flagged: bool
    by: Literal["model", "person"]
    label: str
    judged: bool
    overturned: bool
    band: Band


def labelled(
    client: Client,
    pipeline: str,
    stage: str,
    passes: str,
    since: datetime,
    bands: int,
    page_rows: int = KEYS_A_QUERY,
) -> Iterator[list[Labelled]]:
    """Pages of the texts of a stage, in the order of their events.

    passes: the decision that lets a text pass. since: time of the first event. bands: in how many parts risks are
    divided. page_rows: verdicts a page, at most as many as a query takes; a page has fewer texts where the store has
    lost some. Of several reviews of a row the last one by time counts. Raises clickhouse-connect's errors.
    """
    begin = _first_row_id(since)
    while True:
        page = ask(client, _PAGE, pipeline=pipeline, stage=stage, begin=begin, rows=page_rows, bands=bands)
        if not page:
            return
        reviewed = {
            row: (decision, label) for row, decision, label in ask(client, _REVIEWS, rows=[row for row, *_ in page])
        }
        texts = dict(ask(client, _TEXTS, rows=[source for _, source, *_ in page]))
        found = []
        for row, source, lang, decision, label, judged, screen, band in page:
            if source in texts:
                holds, called = reviewed.get(row, (decision, label))
                found.append(
                    Labelled(
                        row,
                        texts[source],
                        lang,
                        holds != passes,
                        "person" if row in reviewed else "model",
                        called,
                        bool(judged),
                        (holds != passes) != (decision != passes),
                        Band(screen, band),
                    )
                )
        yield found
        if len(page) < page_rows:
            return
        begin = page[-1][0] + 1


def rows_by_band(client: Client, pipeline: str, stage: str, since: datetime, bands: int) -> dict[Band, tuple[int, int]]:
    """How many rows of a stage have such a risk, and how many of them the model judged; also those without words.

    Rows that got another row's judgement do not count, nor do those past a limit, of which nobody thought anything. In
    the order of screens and risks. Raises clickhouse-connect's errors.
    """
    found = ask(client, _BANDS, pipeline=pipeline, stage=stage, begin=_first_row_id(since), bands=bands)
    return {Band(screen, band): (rows, judged) for screen, band, rows, judged in found}


def _first_row_id(since: datetime) -> int:
    return max(0, (since - _EPOCH) // timedelta(milliseconds=1)) << 80
