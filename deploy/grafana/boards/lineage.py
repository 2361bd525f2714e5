"""Lineage explorer: a row, what it was made from, what was made of it, its words, its reviews and its cost.

A row is named by its row id in UUID form, or by the id that its producer gave it. The upper 48 bits of a row id are the
time of the event in milliseconds, so the dashboard's time bounds where a producer's id is looked for.
"""

from grafana_foundation_sdk.builders.dashboard import Row, TextBoxVariable
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards.panels import LINEAGE, dashboard, sheet, tree
from deploy.grafana.boards.queries import rows

MONEY = "currencyUSD"
_STEPS = 4  # from a finding to its turns, and one more

_HEX = "replaceAll(trimBoth(${id:sqlstring}), '-', '')"
_FOCUS = f"""
    SELECT reinterpretAsUInt128(reverse(unhex({_HEX}))) AS id WHERE match({_HEX}, '^[0-9a-fA-F]{{32}}$')
    UNION ALL
    SELECT row_id FROM source_rows_raw WHERE event_id = trimBoth(${{id:sqlstring}}) AND event_id != ''
        AND row_id >= bitShiftLeft(toUInt128(${{__from}}), 80) AND row_id <= bitShiftLeft(toUInt128(${{__to}}), 80)"""


def _up(steps: int) -> str:
    """Rows, and those that they were made from in so many steps."""
    reached = "(SELECT id FROM focus)"
    for _ in range(steps):
        reached = f"(SELECT arrayJoin([child, parent]) FROM lineage_edges_raw WHERE child IN {reached})"
    return reached


_WITH = f"WITH RECURSIVE focus AS ({_FOCUS}\n)"
# Only a recursive query uses the projection that leads down; what was taken over from a row is not followed further.
_TREE = f"""{_WITH},
down AS
(
    SELECT child, parent, kind FROM lineage_edges_raw WHERE parent IN (SELECT id FROM focus)
    UNION ALL
    SELECT child, parent, kind FROM lineage_edges_raw WHERE parent IN (SELECT child FROM down WHERE kind != 'reused')
),
edges AS
(
    SELECT DISTINCT child, parent, kind FROM
    (
        SELECT child, parent, kind FROM lineage_edges_raw WHERE child IN {_up(_STEPS - 1)}
        UNION ALL
        SELECT child, parent, kind FROM down
    )
    LIMIT 1000
),
ids AS (SELECT DISTINCT arrayJoin([child, parent]) AS id FROM edges UNION DISTINCT SELECT id FROM focus)"""


def _uuid(column: str) -> str:
    return f"toUUID(leftPad(hex({column}), 32, '0'))"


def _facts(ids: str) -> str:
    """One row for each of these ids: what it is, by the table that knows it."""
    return f"""
(
    SELECT row_id, 'verdict' AS what, concat(pipeline, '/', stage) AS of, concat(decision, ' ', label) AS says,
        event_time AS at, cost_usd
    FROM verdicts_raw FINAL WHERE row_id IN {ids}
    UNION ALL
    SELECT row_id, 'words', concat(topic, ' ', toString(`partition`), ':', toString(`offset`)),
        substringUTF8(text, 1, 80), event_time, 0
    FROM source_rows_raw FINAL WHERE row_id IN {ids}
    UNION ALL
    SELECT row_id, 'document', document, if(withdrawn, 'withdrawn', ''), event_time, 0
    FROM documents_raw FINAL WHERE row_id IN {ids}
    UNION ALL
    SELECT row_id, 'call', `call`, concat(toString(turns), ' turns, closed by ', closed_by), started, 0
    FROM calls_raw FINAL WHERE row_id IN {ids}
)"""


def _linked(side: str, other: str) -> str:
    """The rows one step away."""
    near = f"(SELECT {other} FROM lineage_edges_raw WHERE {side} IN (SELECT id FROM focus))"
    return f"""
{_WITH}
SELECT {_uuid(f"e.{other}")} AS row, e.kind AS kind, f.what AS what, f.of AS of, f.says AS says, f.at AS at
FROM (SELECT DISTINCT {other}, kind FROM lineage_edges_raw WHERE {side} IN (SELECT id FROM focus)) AS e
LEFT JOIN {_facts(near)} AS f ON f.row_id = e.{other}
ORDER BY kind, at LIMIT 200"""


def board(docs: str) -> Dashboard:
    """The dashboard. docs: address of the folder docs/."""
    about = (
        "Why is this verdict what it is? Enter a row id, or the id that a producer gave its event: then the "
        "dashboard's time must cover the event."
    )
    board = dashboard(LINEAGE, "Weir: lineage explorer", about, docs, "now-7d").refresh("")
    board = board.with_variable(TextBoxVariable("id").label("Row id or source id").default_value(""))
    pages = ["lineage.md", "tables.md"]

    board = board.with_row(Row("The row"))
    board = board.with_panel(
        tree(
            "Tree",
            "What the row was made from and what was made of it. A click on a node makes it the row that is looked at.",
            [
                rows(
                    f"""
{_TREE}
SELECT {_uuid("i.id")} AS id, f.of AS title, f.says AS subtitle, f.what AS mainstat,
    if(i.id IN (SELECT id FROM focus), 'orange', 'blue') AS color
FROM ids AS i LEFT JOIN {_facts("(SELECT id FROM ids)")} AS f ON f.row_id = i.id"""
                ),
                rows(
                    f"""
{_TREE}
SELECT concat(toString(child), kind, toString(parent)) AS id, {_uuid("parent")} AS source, {_uuid("child")} AS target,
    kind AS mainstat
FROM edges"""
                ),
            ],
            pages,
        )
    )
    board = board.with_panel(
        sheet(
            "Verdict",
            "What was decided, by which prompt and model, how sure, how fast and for how much. For words: the verdicts "
            "on them.",
            [
                rows(
                    f"""
{_WITH}
SELECT {_uuid("row_id")} AS row, pipeline, pipeline_version, stage, operator, decision, label, confidence,
    confidence_source, tier, screen, risk, audited, model, prompt_version, prompt_hash, parts, input_tokens,
    cached_tokens, output_tokens, cost_usd, engine_seconds, latency_ms, event_time, judged_at, tenant, lang,
    if(reused_from = 0, NULL, {_uuid("reused_from")}) AS reused, output
FROM verdicts_raw FINAL
WHERE row_id IN (SELECT id FROM focus)
    OR row_id IN (SELECT child FROM lineage_edges_raw WHERE parent IN (SELECT id FROM focus) AND kind = 'input')
ORDER BY judged_at"""
                )
            ],
            ["lineage.md", "confidence.md"],
            {"confidence": "percentunit", "cost_usd": MONEY, "engine_seconds": "s", "latency_ms": "ms"},
            ids=["row", "reused"],
        )
    )
    board = board.with_panel(
        sheet(
            "Scores",
            "Probability of each label, of the verdict or of those on these words.",
            [
                rows(
                    f"""
{_WITH}
SELECT row_uuid AS row, scored AS label, score
FROM verdicts ARRAY JOIN mapKeys(scores) AS scored, mapValues(scores) AS score
WHERE row_id IN (SELECT id FROM focus)
    OR row_id IN (SELECT child FROM lineage_edges_raw WHERE parent IN (SELECT id FROM focus) AND kind = 'input')
ORDER BY row, score DESC"""
                )
            ],
            ["confidence.md"],
            {"score": "percentunit"},
            ids=["row"],
            width=8,
        )
    )
    board = board.with_panel(
        sheet(
            "Words",
            "The text that the row rests on, with its place in Kafka: of the row itself, and of everything above it.",
            [
                rows(
                    f"""
{_WITH}
SELECT {_uuid("row_id")} AS row, text, lang, author, thread, tenant, source, event_id, topic, `partition`, `offset`,
    event_time
FROM source_rows_raw FINAL
WHERE row_id IN {_up(_STEPS)} OR row_id IN (SELECT id FROM focus)
ORDER BY event_time LIMIT 200"""
                )
            ],
            pages,
            ids=["row"],
            width=16,
        )
    )

    board = board.with_row(Row("Around it"))
    board = board.with_panel(
        sheet("Made from", "Parents, one step up.", [rows(_linked("child", "parent"))], pages, ids=["row"], width=12)
    )
    board = board.with_panel(
        sheet("Led to", "Children, one step down.", [rows(_linked("parent", "child"))], pages, ids=["row"], width=12)
    )
    board = board.with_panel(
        sheet(
            "Reviews",
            "What people said of the row, or of the verdicts on these words; the one that holds stands.",
            [
                rows(
                    f"""
{_WITH}
SELECT row_uuid AS row, reviewed_at, reviewer, model_decision, model_label, decision, label, stands, comment
FROM reviews WHERE row_id IN (SELECT id FROM focus) OR source_row_id IN (SELECT id FROM focus)
ORDER BY reviewed_at"""
                )
            ],
            ["reviews.md"],
            ids=["row"],
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Versions",
            "The verdict as each prompt gave it; `weir rerun` keeps what it replaces.",
            [
                rows(
                    f"""
{_WITH}
SELECT row_uuid AS row, current, prompt_version, prompt_hash, model, decision, label, confidence, judged_at, cost_usd
FROM verdict_versions WHERE row_id IN (SELECT id FROM focus)
    OR row_id IN (SELECT child FROM lineage_edges_raw WHERE parent IN (SELECT id FROM focus) AND kind = 'input')
ORDER BY judged_at DESC"""
                )
            ],
            ["lineage.md#judging-anew"],
            {"confidence": "percentunit", "cost_usd": MONEY},
            ids=["row"],
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Cost of the tree",
            "What was paid for everything above and below the row, by stage.",
            [
                rows(
                    f"""
{_TREE}
SELECT pipeline, stage, model, count() AS verdicts, sum(input_tokens) AS input, sum(cached_tokens) AS cached,
    sum(output_tokens) AS output, sum(engine_seconds) AS engine, sum(cost_usd) AS usd
FROM verdicts_raw FINAL WHERE row_id IN (SELECT id FROM ids)
GROUP BY pipeline, stage, model ORDER BY usd DESC"""
                )
            ],
            ["limits.md#cost"],
            {"engine": "s", "usd": MONEY},
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Calls to the model",
            "Each prompt that was sent for the row, or for the verdicts on these words.",
            [
                rows(
                    f"""
{_WITH}
SELECT {_uuid("row_id")} AS row, call, called_at, model, prompt_hash, input_tokens, cached_tokens, output_tokens,
    seconds, engine_seconds, cost_usd
FROM inference_calls_raw FINAL WHERE row_id IN (SELECT id FROM focus)
    OR row_id IN (SELECT child FROM lineage_edges_raw WHERE parent IN (SELECT id FROM focus) AND kind = 'input')
ORDER BY row_id, call"""
                )
            ],
            ["engines.md", "tables.md"],
            {"seconds": "s", "engine_seconds": "s", "cost_usd": MONEY},
            ids=["row"],
            width=12,
        )
    )

    board = board.with_row(Row("Where to begin"))
    board = board.with_panel(
        sheet(
            "Latest verdicts",
            "The last ones of the dashboard's time. A click on a row makes it the one that is looked at.",
            [
                rows(
                    f"""
SELECT judged_at, {_uuid("row_id")} AS row, {_uuid("source_row_id")} AS words, pipeline, stage, decision, label,
    confidence, tenant, cost_usd
FROM verdicts_raw FINAL WHERE $__timeFilter_ms(event_time) ORDER BY judged_at DESC LIMIT 50"""
                )
            ],
            pages,
            {"confidence": "percentunit", "cost_usd": MONEY},
            ids=["row", "words"],
        )
    )
    return board.build()
