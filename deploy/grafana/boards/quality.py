"""Quality: what is decided, how sure of it the model is, what the screen lets pass, and what people say of it."""

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards.panels import dashboard, graph, number, sheet, with_stages
from deploy.grafana.boards.queries import SQL_STAGE, STAGE, at_the_end, grown, over_time, quantile, rows, series

NAME = "{{pipeline}}/{{stage}}"
DOUBT = "runbooks/cascade-in-doubt.md"
_AGREES = f'{STAGE}, agrees="yes"'
_TIME = "$__timeFilter_ms(event_time)"


def board(docs: str) -> Dashboard:
    """The dashboard. docs: address of the folder docs/."""
    about = "The mix of verdicts, confidence, what the cascade saves and catches, and how often people agree."
    board = with_stages(dashboard("weir-quality", "Weir: quality", about, docs, "now-24h"))

    board = board.with_row(Row("Now"))
    board = board.with_panel(
        number(
            "People agree with the model",
            "Share of the reviews in the dashboard's time in which the person decides as the model did. People look at "
            "rows that were chosen for them: this says nothing of the others.",
            "percentunit",
            [
                at_the_end(
                    NAME,
                    f"{grown('weir_reviews_total', '$__range', 'pipeline, stage', _AGREES)} "
                    f"/ {grown('weir_reviews_total', '$__range', 'pipeline, stage')}",
                )
            ],
            ["reviews.md"],
            width=6,
        )
    )
    board = board.with_panel(
        number(
            "Rows that the screen decides",
            "Share of the rows of the dashboard's time that needed no model.",
            "percentunit",
            [
                at_the_end(
                    NAME,
                    "sum by (pipeline, stage) "
                    f'(increase(weir_screened_total{{{STAGE}, route!="ask", audited="false"}}[$__range])) '
                    f"/ sum by (pipeline, stage) (increase(weir_screened_total{{{STAGE}}}[$__range]))",
                )
            ],
            ["cascade.md"],
            width=6,
        )
    )
    board = board.with_panel(
        number(
            "Recall of the screen, at least",
            "Lower bound, from audited rows since the fit: of what the model flags, the share that the screen does not "
            "let pass.",
            "percentunit",
            [at_the_end(NAME, f'min by (pipeline, stage) (weir_cascade_recall_ratio{{{STAGE}, bound="low"}})')],
            ["cascade.md", DOUBT],
            width=6,
        )
    )
    board = board.with_panel(
        number(
            "Open cascades",
            "Stages in which the model judges every row, because nothing can be promised for the screen.",
            "short",
            [at_the_end("open", f"sum(max by (pipeline, stage) (weir_cascade_open{{{STAGE}}})) or vector(0)")],
            [DOUBT, "cascade.md"],
            ((None, "green"), (1, "orange")),
            6,
        )
    )
    board = board.with_panel(
        graph(
            "Decisions",
            "Verdicts a second.",
            "ops",
            [
                over_time(
                    f"{NAME} {{{{decision}}}}",
                    f"sum by (pipeline, stage, decision) (rate(weir_verdicts_total{{{STAGE}}}[$__rate_interval]))",
                )
            ],
            ["pipelines.md"],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "Sent to people",
            "Verdicts a second that went to a person, and reviews that came back.",
            "ops",
            [
                over_time(
                    f"{NAME} {{{{decision}}}} sent",
                    f"sum by (pipeline, stage, decision) (rate(weir_escalations_total{{{STAGE}}}[$__rate_interval]))",
                ),
                over_time(
                    f"{NAME} reviewed",
                    f"sum by (pipeline, stage) (rate(weir_reviews_total{{{STAGE}}}[$__rate_interval]))",
                ),
            ],
            ["reviews.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Corrections",
            "Reviews in the interval that changed a decision: what held before, and what holds now.",
            "short",
            [
                over_time(
                    f"{NAME} {{{{was}}}} to {{{{now}}}}",
                    grown("weir_corrections_total", "$__rate_interval", "pipeline, stage, was, now"),
                )
            ],
            ["reviews.md"],
        )
    )
    board = board.with_panel(
        graph(
            "From verdict to review",
            "How long people take: median and p95.",
            "s",
            [
                over_time(f"{NAME} p50", quantile("weir_review_delay_seconds", 0.5)),
                over_time(f"{NAME} p95", quantile("weir_review_delay_seconds", 0.95)),
            ],
            ["reviews.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Judged anew, recalled, split",
            "Verdicts a second given anew by `weir rerun` or found in the store after a restart, and parts that a text "
            "was judged in.",
            "ops",
            [
                over_time(
                    f"{NAME} parts", f"sum by (pipeline, stage) (rate(weir_parts_total{{{STAGE}}}[$__rate_interval]))"
                ),
                over_time(
                    f"{NAME} anew",
                    f"sum by (pipeline, stage) (rate(weir_judgements_rerun_total{{{STAGE}}}[$__rate_interval]))",
                ),
                over_time(
                    f"{NAME} recalled",
                    f"sum by (pipeline, stage) (rate(weir_judgements_recalled_total{{{STAGE}}}[$__rate_interval])) or "
                    f"0 * sum by (pipeline, stage) (weir_messages_received_total{{{STAGE}}})",
                ),
            ],
            ["lineage.md", "reliability.md"],
        )
    )

    board = board.with_row(Row("Cascade"))
    board = board.with_panel(
        graph(
            "What the screen says",
            "Rows a second: let pass, ask the model, flag. Audited rows are judged by the model in any case.",
            "ops",
            [
                over_time(
                    f"{NAME} {{{{route}}}} audited={{{{audited}}}}",
                    "sum by (pipeline, stage, route, audited) "
                    f"(rate(weir_screened_total{{{STAGE}}}[$__rate_interval]))",
                )
            ],
            ["cascade.md"],
            stacked=True,
        )
    )
    target = over_time(f"{NAME} target", f"max by (pipeline, stage) (weir_cascade_target_ratio{{{STAGE}}})")
    for title, metric, about, *more in (
        (
            "Audited recall",
            "weir_cascade_recall_ratio",
            "Of what the model flags among audited rows, the share that the screen does not let pass, since the fit.",
            target,
        ),
        (
            "Calls saved",
            "weir_cascade_saved_ratio",
            "Of audited rows, the share that the screen would decide, since the fit.",
        ),
        (
            "Audited precision",
            "weir_cascade_precision_ratio",
            "Of audited rows that the screen would flag by itself, the share that the model flags, since the fit.",
        ),
    ):
        board = board.with_panel(
            graph(
                title,
                f"{about} With the bounds of its 95% interval.",
                "percentunit",
                [
                    over_time(
                        f"{NAME} {{{{bound}}}}",
                        f"max by (pipeline, stage, bound) ({metric}{{{STAGE}}})",
                    ),
                    *more,
                ],
                ["cascade.md", DOUBT],
            )
        )
    board = board.with_panel(
        graph(
            "Open cascades over time",
            "1: the model judges every row of the stage.",
            "bool_yes_no",
            [over_time(NAME, f"max by (pipeline, stage) (weir_cascade_open{{{STAGE}}})")],
            [DOUBT, "cascade.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Doubt of the promise",
            "Evidence against the promise, in rows. At 10,000 the cascade opens.",
            "short",
            [over_time(NAME, f"max by (pipeline, stage) (weir_cascade_doubt{{{STAGE}}})")],
            [DOUBT, "cascade.md#audit"],
        )
    )

    board = board.with_row(Row("History, from ClickHouse"))
    board = board.with_panel(
        graph(
            "Mix of decisions",
            "Share of each decision, by stage.",
            "percentunit",
            [
                series(
                    f"""
SELECT time, concat(pipeline, '/', stage, ' ', decision) AS of_decision,
    count / sum(count) OVER (PARTITION BY time, pipeline, stage) AS share
FROM
(
    SELECT $__timeInterval(minute) AS time, pipeline, stage, decision, sum(verdicts) AS count
    FROM verdict_rollups WHERE $__timeFilter(minute) AND {SQL_STAGE}
    GROUP BY time, pipeline, stage, decision
)
ORDER BY time"""
                )
            ],
            ["quality.md", "tables.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Mix of labels",
            "Share of each label, by stage. A jump with a new prompt or model is worth a look.",
            "percentunit",
            [
                series(
                    f"""
SELECT time, concat(pipeline, '/', stage, ' ', label) AS of_label,
    count / sum(count) OVER (PARTITION BY time, pipeline, stage) AS share
FROM
(
    SELECT $__timeInterval(minute) AS time, pipeline, stage, label, sum(verdicts) AS count
    FROM verdict_rollups WHERE $__timeFilter(minute) AND {SQL_STAGE}
    GROUP BY time, pipeline, stage, label
)
ORDER BY time"""
                )
            ],
            ["quality.md", "tables.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Confidence over time",
            "Mean calibrated confidence of the model's verdicts, by prompt version and model.",
            "percentunit",
            [
                series(
                    f"""
SELECT $__timeInterval(judged_at) AS time, concat(pipeline, '/', stage, ' ', prompt_version, ' ', model) AS of_prompt,
    avg(confidence) AS mean
FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE} AND confidence_source != 'prior'
GROUP BY time, of_prompt ORDER BY time"""
                )
            ],
            ["confidence.md"],
        )
    )
    board = board.with_panel(
        sheet(
            "Confidence and agreement",
            "Verdicts by confidence, in tenths, and of those that people looked at, the share on which they agree. "
            "Calibrated means: agreement is about the confidence.",
            [
                rows(
                    f"""
SELECT v.pipeline AS pipeline, v.stage AS stage, floor(v.confidence * 10) / 10 AS confidence_from, count() AS verdicts,
    countIf(r.row_id != 0) AS looked_at,
    if(looked_at = 0, NULL, countIf(r.row_id != 0 AND r.decision = v.decision) / looked_at) AS agree
FROM (SELECT * FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE}) AS v
LEFT JOIN (SELECT row_id, decision FROM reviewed_verdicts WHERE {_TIME}) AS r ON r.row_id = v.row_id
GROUP BY pipeline, stage, confidence_from ORDER BY pipeline, stage, confidence_from"""
                )
            ],
            ["confidence.md", "reviews.md"],
            {"confidence_from": "percentunit", "agree": "percentunit"},
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Agreement by decision",
            "Of the verdicts that people looked at, how often they decide as the model did.",
            [
                rows(
                    f"""
SELECT pipeline, stage, model_decision, count() AS looked_at, avg(decision = model_decision) AS agree
FROM reviewed_verdicts WHERE {_TIME} AND {SQL_STAGE}
GROUP BY pipeline, stage, model_decision ORDER BY pipeline, stage, model_decision"""
                )
            ],
            ["reviews.md"],
            {"agree": "percentunit"},
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Where people disagree",
            "The last verdicts that a person decided otherwise. A click on the row leads to its words.",
            [
                rows(
                    f"""
SELECT reviewed_at, row_uuid AS row, pipeline, stage, model_decision, model_label, confidence, decision, label
FROM reviewed_verdicts WHERE {_TIME} AND {SQL_STAGE} AND decision != model_decision
ORDER BY reviewed_at DESC LIMIT 100"""
                )
            ],
            ["reviews.md", "lineage.md"],
            {"confidence": "percentunit"},
            ids=["row"],
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "The most doubtful verdicts",
            "Those with the least confidence. A click on the row leads to its words.",
            [
                rows(
                    f"""
SELECT judged_at, toUUID(leftPad(hex(row_id), 32, '0')) AS row, pipeline, stage, decision, label, confidence, model
FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE} AND confidence_source != 'prior'
ORDER BY confidence LIMIT 100"""
                )
            ],
            ["confidence.md", "lineage.md"],
            {"confidence": "percentunit"},
            ids=["row"],
            width=12,
        )
    )
    board = board.with_panel(
        sheet(
            "Fits of cascades",
            "What was promised when, on how many rows, and why a cascade was opened.",
            [
                rows(
                    f"""
SELECT fitted_at, pipeline, stage, screen, model, goal, open, pass_below, flag_from, rows, flagged, reason
FROM cascade_fits WHERE {SQL_STAGE} ORDER BY fitted_at DESC LIMIT 100"""
                )
            ],
            ["cascade.md", DOUBT],
        )
    )
    board = board.with_panel(
        sheet(
            "Prompts in use",
            "What judged in the dashboard's time.",
            [
                rows(
                    f"""
SELECT pipeline, pipeline_version, stage, prompt_version, prompt_hash, model, min(judged_at) AS first,
    max(judged_at) AS last, count() AS verdicts, countIf(tier = 'screen') AS by_screen,
    avg(confidence) AS mean_confidence
FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE}
GROUP BY pipeline, pipeline_version, stage, prompt_version, prompt_hash, model ORDER BY last DESC LIMIT 100"""
                )
            ],
            ["pipelines.md", "lineage.md"],
            {"mean_confidence": "percentunit"},
        )
    )
    return board.build()
