"""Cost: where the engine's time and the money go, now from Prometheus and over weeks from ClickHouse."""

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards.panels import bars, dashboard, graph, number, sheet, with_stages
from deploy.grafana.boards.queries import SQL_STAGE, STAGE, Query, at_the_end, grown, over_time, rows, series

MONEY = "currencyUSD"
LIMITS = "limits.md"
LEDGER = "limits.md#cost"
BUDGET = "runbooks/budget-nearly-spent.md"
_TIME = "$__timeFilter_ms(event_time)"
_PERIOD = "$__timeFilter_ms(period_start)"
_INPUT = f'gen_ai_client_token_usage_sum{{{STAGE}, gen_ai_token_type="input"}}'


def _spent(by: str, legend: str) -> list[Query]:
    return [over_time(legend, f"3600 * sum by ({by}) (rate(weir_cost_usd_total{{{STAGE}}}[$__rate_interval]))")]


def board(docs: str) -> Dashboard:
    """The dashboard. docs: address of the folder docs/."""
    about = "What judging costs: by tenant, pipeline, stage and model, what the cache saves, and what idle time costs."
    board = with_stages(dashboard("weir-cost", "Weir: cost", about, docs, "now-24h"))

    board = board.with_row(Row("Now"))
    board = board.with_panel(
        number(
            "Engine, an hour",
            "US dollars an hour for the engine: rows, overhead and idle time.",
            MONEY,
            [at_the_end("engine", "3600 * sum(rate(weir_engine_cost_usd_total[$__rate_interval]))")],
            [LEDGER],
        )
    )
    board = board.with_panel(
        number(
            "Idle share of the GPU",
            "Share of the engine's time in which it had nothing of ours, in the dashboard's time. What a smaller GPU "
            "or fewer of them would save.",
            "percentunit",
            [
                at_the_end(
                    "idle",
                    'sum(increase(weir_engine_seconds_total{use="idle"}[$__range])) '
                    "/ sum(increase(weir_engine_seconds_total[$__range]))",
                )
            ],
            [LEDGER],
        )
    )
    board = board.with_panel(
        number(
            "A thousand verdicts",
            "US dollars for rows, over verdicts, in the dashboard's time. Without overhead and idle time.",
            MONEY,
            [
                at_the_end(
                    "a thousand",
                    f"1000 * sum(increase(weir_cost_usd_total{{{STAGE}}}[$__range])) "
                    f"/ sum(increase(weir_verdicts_total{{{STAGE}}}[$__range]))",
                )
            ],
            [LEDGER],
        )
    )
    board = board.with_panel(
        number(
            "Cached input tokens",
            "Share of the input tokens that came from the engine's prefix cache, in the dashboard's time. Where it is "
            "low with long prompts, prefix caching may be off.",
            "percentunit",
            [
                at_the_end(
                    "cached",
                    f"sum(increase(weir_cached_tokens_total{{{STAGE}}}[$__range])) / sum(increase({_INPUT}[$__range]))",
                )
            ],
            ["engines.md"],
        )
    )
    board = board.with_panel(
        number(
            "Judgements reused",
            "Share of the verdicts taken from an earlier row with the same text, in the dashboard's time. They cost "
            "nothing.",
            "percentunit",
            [
                at_the_end(
                    "reused",
                    f"{grown('weir_judgements_reused_total', '$__range')} "
                    f"/ sum(increase(weir_verdicts_total{{{STAGE}}}[$__range]))",
                )
            ],
            ["pipelines.md"],
        )
    )
    board = board.with_panel(
        number(
            "Rows past a limit",
            "Rows in the dashboard's time that got a verdict without the model, or wait for another day, because of a "
            "budget or a rate.",
            "short",
            [
                at_the_end(
                    "without the model",
                    f"{grown('weir_rows_judged_by_prior_total', '$__range')} or vector(0)",
                ),
                at_the_end("deferred", f"{grown('weir_rows_deferred_total', '$__range')} or vector(0)"),
            ],
            [LIMITS, BUDGET],
        )
    )
    board = board.with_panel(
        graph(
            "What the engine's time is for",
            "Seconds of the engine a second: judged rows, overhead, idle. More than 1: several workers or GPUs.",
            "short",
            [over_time("{{use}}", "sum by (use) (rate(weir_engine_seconds_total[$__rate_interval]))")],
            [LEDGER],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "By tenant, an hour",
            "US dollars an hour for rows. Tenants that no pipeline file names are `other`.",
            MONEY,
            _spent("tenant", "{{tenant}}"),
            [LIMITS],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "By stage, an hour",
            "US dollars an hour for rows.",
            MONEY,
            _spent("pipeline, stage", "{{pipeline}}/{{stage}}"),
            [LEDGER],
            stacked=True,
        )
    )
    board = board.with_panel(
        bars(
            "Budgets of today",
            "Share of the day's budget (UTC) that each tenant has spent. Past 1 its rows wait, or get a verdict "
            "without the model.",
            "percentunit",
            [
                at_the_end(
                    "{{pipeline}} {{tenant}}",
                    'max by (pipeline, tenant) (weir_budget_spent_ratio{pipeline=~"$pipeline"})',
                )
            ],
            [BUDGET, LIMITS],
            ((None, "green"), (0.8, "orange"), (1, "red")),
        )
    )
    board = board.with_panel(
        graph(
            "Tokens by model",
            "Tokens a second: input and output by the model that was asked, and of the input what was cached.",
            "short",
            [
                over_time(
                    "{{gen_ai_request_model}} {{gen_ai_token_type}}",
                    "sum by (gen_ai_request_model, gen_ai_token_type) "
                    f"(rate(gen_ai_client_token_usage_sum{{{STAGE}}}[$__rate_interval]))",
                ),
                over_time("cached", f"sum(rate(weir_cached_tokens_total{{{STAGE}}}[$__rate_interval]))"),
            ],
            ["engines.md", LEDGER],
        )
    )
    board = board.with_panel(
        graph(
            "Held back by limits",
            "Rows that wait for a rate, and rows of the interval that were deferred or judged without the model.",
            "short",
            [
                over_time(
                    "{{pipeline}} waiting", 'sum by (pipeline) (weir_rows_waiting_for_rate{pipeline=~"$pipeline"})'
                ),
                over_time(
                    "{{pipeline}} {{reason}}, no model",
                    grown("weir_rows_judged_by_prior_total", "$__rate_interval", "pipeline, reason"),
                ),
                over_time(
                    "{{pipeline}} deferred",
                    grown("weir_rows_deferred_total", "$__rate_interval", "pipeline"),
                ),
            ],
            [LIMITS, BUDGET],
        )
    )
    board = board.with_panel(
        graph(
            "Words that no model saw",
            "Tokens a second of sentences and turns that were dropped before any model because they claim nothing.",
            "short",
            [
                over_time(
                    "{{pipeline}}/{{stage}}",
                    f"sum by (pipeline, stage) (rate(weir_tokens_saved_total{{{STAGE}}}[$__rate_interval]))",
                )
            ],
            ["calls.md"],
        )
    )

    board = board.with_row(Row("History, from ClickHouse"))
    board = board.with_panel(
        graph(
            "The ledger",
            "US dollars an interval for the engine, by use. In short intervals overhead may be below zero.",
            MONEY,
            [
                series(
                    f"""
SELECT $__timeInterval(period_start) AS time, use, sum(cost_usd) AS usd
FROM engine_usage WHERE {_PERIOD}
GROUP BY time, use ORDER BY time"""
                )
            ],
            [LEDGER, "tables.md"],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "Idle share by hour",
            "Share of the engine's time without work.",
            "percentunit",
            [
                series(
                    f"""
SELECT toStartOfHour(period_start) AS time, sumIf(seconds, use = 'idle') / sum(seconds) AS idle
FROM engine_usage WHERE {_PERIOD}
GROUP BY time ORDER BY time"""
                )
            ],
            [LEDGER],
        )
    )
    board = board.with_panel(
        graph(
            "By tenant",
            "US dollars an interval for judged rows.",
            MONEY,
            [
                series(
                    f"""
SELECT $__timeInterval(period_start) AS time, if(tenant = '', '(none)', tenant) AS of_tenant, sum(cost_usd) AS usd
FROM engine_usage WHERE {_PERIOD} AND use = 'judged' AND {SQL_STAGE}
GROUP BY time, of_tenant ORDER BY time"""
                )
            ],
            [LIMITS],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "By stage",
            "US dollars an interval for judged rows.",
            MONEY,
            [
                series(
                    f"""
SELECT $__timeInterval(period_start) AS time, concat(pipeline, '/', stage) AS of_stage, sum(cost_usd) AS usd
FROM engine_usage WHERE {_PERIOD} AND use = 'judged' AND {SQL_STAGE}
GROUP BY time, of_stage ORDER BY time"""
                )
            ],
            [LEDGER],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "By model",
            "US dollars an interval for verdicts, by the model, the screen or the prior that gave them.",
            MONEY,
            [
                series(
                    f"""
SELECT $__timeInterval(judged_at) AS time, model, sum(cost_usd) AS usd
FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE}
GROUP BY time, model ORDER BY time"""
                )
            ],
            [LEDGER],
            stacked=True,
        )
    )
    board = board.with_panel(
        graph(
            "Cached share of input tokens",
            "From the engine's prefix cache.",
            "percentunit",
            [
                series(
                    f"""
SELECT $__timeInterval(minute) AS time, concat(pipeline, '/', stage) AS of_stage,
    sum(cached_tokens) / sum(input_tokens) AS cached
FROM verdict_rollups WHERE $__timeFilter(minute) AND {SQL_STAGE}
GROUP BY time, of_stage HAVING sum(input_tokens) > 0 ORDER BY time"""
                )
            ],
            ["engines.md"],
        )
    )
    board = board.with_panel(
        sheet(
            "Who costs what",
            "Verdicts of the dashboard's time by tenant, stage and model; the dearest first.",
            [
                rows(
                    f"""
SELECT tenant, pipeline, stage, model, count() AS verdicts, countIf(reused_from != 0) AS reused,
    sum(input_tokens) AS input, sum(cached_tokens) AS cached, sum(output_tokens) AS output,
    sum(engine_seconds) AS engine, sum(cost_usd) AS usd, 1000 * sum(cost_usd) / count() AS usd_a_thousand
FROM verdicts_raw FINAL WHERE {_TIME} AND {SQL_STAGE}
GROUP BY tenant, pipeline, stage, model ORDER BY usd DESC LIMIT 200"""
                )
            ],
            [LEDGER, "tables.md"],
            {"engine": "s", "usd": MONEY, "usd_a_thousand": MONEY},
        )
    )
    return board.build()
