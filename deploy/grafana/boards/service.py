"""Service: is what comes in judged in time, and if not, which part is at fault?"""

from grafana_foundation_sdk.builders.dashboard import Row
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards.panels import GOOD_BAD, SHARE_WITHIN, dashboard, graph, number, with_stages
from deploy.grafana.boards.queries import STAGE, at_the_end, grown, over_time, quantile, quantiles

NAME = "{{pipeline}}/{{stage}}"
BY = "by (pipeline, stage)"
BURN = "runbooks/sla-burn.md"
LATE = "runbooks/sla-will-be-missed.md"
STOPPED = "runbooks/nothing-is-finished.md"
LETTERS = "runbooks/dead-letters.md"
ENGINE = "runbooks/engine-sick.md"
SINK = "runbooks/sink-stuck.md"
WORKER = "runbooks/worker-down.md"
RESTARTS = "runbooks/consumer-restarts.md"
DEPENDENCY = "runbooks/dependency-down.md"


def _rows(outcome: str, window: str, function: str = "rate") -> str:
    label = f', outcome="{outcome}"' if outcome else ""
    return f"sum {BY} ({function}(weir_sla_rows_total{{{STAGE}{label}}}[{window}]))"


def _of_sla(seconds: str, labels: str = "") -> str:
    return f"max {BY} ({seconds}{{{STAGE}{labels}}}) / max {BY} (weir_sla_seconds{{{STAGE}}})"


def board(docs: str) -> Dashboard:
    """The dashboard. docs: address of the folder docs/."""
    about = "Whether rows are judged within their SLA, what waits, and which part is at fault if they are not."
    board = with_stages(dashboard("weir-service", "Weir: service", about, docs))

    board = board.with_row(Row("Is it well?"))
    board = board.with_panel(
        number(
            "Rows within the SLA",
            "Share of the rows finished in the dashboard's time that were finished within the SLA of their pipeline.",
            "percentunit",
            [at_the_end(NAME, f"{_rows('met', '$__range', 'increase')} / {_rows('', '$__range', 'increase')}")],
            ["sla.md", BURN],
            SHARE_WITHIN,
            6,
        )
    )
    board = board.with_panel(
        number(
            "Error budget left",
            "Of the 1% of rows that may be late (objective 99%), the share that was not late yet in the dashboard's "
            "time. Below 0 the objective is missed. Look at 30 days.",
            "percentunit",
            [
                at_the_end(
                    NAME,
                    f"1 - {_rows('missed', '$__range', 'increase')} / {_rows('', '$__range', 'increase')} "
                    "/ scalar(weir:sla_error_budget:ratio)",
                )
            ],
            [BURN],
            ((None, "red"), (0, "orange"), (0.25, "green")),
            6,
        )
    )
    board = board.with_panel(
        number(
            "Forecast of the SLA",
            "Age that rows at hand will have at worst when they are finished, as a share of the SLA. Above 1 they will "
            "be late.",
            "percentunit",
            [at_the_end(NAME, _of_sla("weir_sla_forecast_seconds"))],
            [LATE, "sla.md"],
            ((None, "green"), (0.75, "orange"), (1, "red")),
            4,
        )
    )
    board = board.with_panel(
        number(
            "Dead letters",
            "Messages that went to a dead-letter topic in the dashboard's time.",
            "short",
            [at_the_end("dead letters", f"{grown('weir_dead_letters_total', '$__range')} or vector(0)")],
            [LETTERS],
            GOOD_BAD,
            4,
        )
    )
    board = board.with_panel(
        number(
            "Dependencies down",
            "Brokers, engines and stores that did not answer some worker at its last check.",
            "short",
            [at_the_end("down", "sum(1 - weir_dependency_up)")],
            [DEPENDENCY, ENGINE, SINK],
            GOOD_BAD,
            4,
        )
    )

    board = board.with_row(Row("SLA"))
    board = board.with_panel(
        graph(
            "Share within the SLA",
            "Share of the rows that were finished within the SLA of their pipeline.",
            "percentunit",
            [over_time(NAME, f"{_rows('met', '$__rate_interval')} / {_rows('', '$__rate_interval')}")],
            ["sla.md", BURN],
        )
    )
    board = board.with_panel(
        graph(
            "How fast the error budget burns",
            "1: the budget of 30 days lasts 30 days. 14.4 over an hour takes 2% of it and wakes somebody.",
            "short",
            [
                over_time(f"{NAME} 1h", f"weir:sla_burn_rate:1h{{{STAGE}}}"),
                over_time(f"{NAME} 6h", f"weir:sla_burn_rate:6h{{{STAGE}}}"),
            ],
            [BURN],
        )
    )
    board = board.with_panel(
        graph(
            "Age of finished rows, of the SLA",
            "p95 of the age, from the time of the event, at which rows were finished in the last ten minutes, as a "
            "share of the SLA; of the worker that is worst. Above 1 they are late.",
            "percentunit",
            [over_time(NAME, _of_sla("weir_sla_age_seconds", ', quantile="0.95"'))],
            ["sla.md", BURN],
        )
    )
    board = board.with_panel(
        graph(
            "Oldest row in flight, of the SLA",
            "Age of the oldest row that was taken from Kafka and is not finished, as a share of the SLA.",
            "percentunit",
            [over_time(NAME, _of_sla("weir_sla_oldest_age_seconds"))],
            ["sla.md", STOPPED],
        )
    )
    board = board.with_panel(
        graph(
            "Latency from the event",
            "From the time of the event to the acknowledged verdict, of all workers. Bounds of the histogram's buckets "
            "limit how exact this is.",
            "s",
            quantiles("weir_event_latency_seconds"),
            ["sla.md", BURN],
        )
    )
    board = board.with_panel(
        graph(
            "Where the time goes (p95)",
            "From Kafka's timestamp to the verdict; from taking a message to its end; one request to the engine; one "
            "batch to ClickHouse.",
            "s",
            [
                over_time(f"{NAME} since Kafka", quantile("weir_broker_latency_seconds", 0.95)),
                over_time(f"{NAME} in the worker", quantile("weir_stage_duration_seconds", 0.95)),
                over_time(f"{NAME} engine", quantile("gen_ai_client_operation_duration_seconds", 0.95)),
                over_time(
                    "ClickHouse",
                    "histogram_quantile(0.95, sum by (le) "
                    "(rate(weir_sink_flush_duration_seconds_bucket[$__rate_interval])))",
                ),
            ],
            [LATE, ENGINE, SINK],
        )
    )

    board = board.with_row(Row("Work at hand"))
    board = board.with_panel(
        graph(
            "Messages that wait in Kafka",
            "Lag: messages in the topics of the stages that no worker has taken.",
            "short",
            [over_time(NAME, f"sum {BY} (weir_sla_backlog_messages{{{STAGE}}})")],
            [LATE, STOPPED],
        )
    )
    board = board.with_panel(
        graph(
            "Forecast, of the SLA",
            "Age that rows at hand will have at worst when they are finished, as a share of the SLA. Above 1 they will "
            "be late; endless while nothing is finished.",
            "percentunit",
            [over_time(NAME, _of_sla("weir_sla_forecast_seconds"))],
            [LATE, "sla.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Rows taken and finished",
            "Messages taken from Kafka and rows finished, a second. Taken and not finished: repeats, dead letters, "
            "rows in flight.",
            "ops",
            [
                over_time(
                    f"{NAME} taken", f"sum {BY} (rate(weir_messages_received_total{{{STAGE}}}[$__rate_interval]))"
                ),
                over_time(f"{NAME} finished", _rows("", "$__rate_interval")),
            ],
            [STOPPED, "architecture.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Rows in flight",
            "Rows taken from Kafka and not finished. At WEIR_ROWS_IN_FLIGHT a worker's stage stops reading.",
            "short",
            [over_time(NAME, f"sum {BY} (weir_rows_in_flight{{{STAGE}}})")],
            ["architecture.md", STOPPED],
        )
    )
    board = board.with_panel(
        graph(
            "Committed",
            "Messages a second that would not be read again after a restart, by topic.",
            "ops",
            [
                over_time(
                    "{{topic}}",
                    "sum by (topic) (clamp_min(deriv(weir_committed_offset[$__rate_interval]), 0))",
                )
            ],
            ["reliability.md", RESTARTS],
        )
    )
    board = board.with_panel(
        graph(
            "Calls",
            "Calls that wait for more turns, and calls put together in the interval, by what closed them.",
            "short",
            [
                over_time(f"{NAME} open", f"sum {BY} (weir_calls_open{{{STAGE}}})"),
                over_time(
                    f"{NAME} {{{{closed_by}}}}",
                    grown("weir_calls_closed_total", "$__rate_interval", "pipeline, stage, closed_by"),
                ),
            ],
            ["calls.md"],
        )
    )

    board = board.with_row(Row("Bad input and faults"))
    board = board.with_panel(
        graph(
            "Dead letters by reason",
            "Messages in the interval that could not be judged. `weir dlq list` shows them.",
            "short",
            [
                over_time(
                    f"{NAME} {{{{reason}}}}",
                    grown("weir_dead_letters_total", "$__rate_interval", "pipeline, stage, reason"),
                )
            ],
            [LETTERS, "messages.md#a-dead-letter"],
        )
    )
    board = board.with_panel(
        graph(
            "Share of dead letters",
            "Of the messages of the last 15 minutes. Above 1% there is an alert; above WEIR_DEAD_LETTER_SHARE of the "
            "last 200 rows a worker stops.",
            "percentunit",
            [over_time(NAME, f"weir:dead_letters:ratio_rate15m{{{STAGE}}}")],
            [LETTERS, "reliability.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Do dependencies answer?",
            "1: answered every worker at its last check.",
            "bool_yes_no",
            [over_time("{{dependency}}", "min by (dependency) (weir_dependency_up)")],
            [DEPENDENCY, ENGINE, SINK],
        )
    )
    board = board.with_panel(
        graph(
            "Prompts",
            "What the engine has, what it is given at most, and what waits in the workers. Waiting with the limit far "
            "from WEIR_ENGINE_PROMPTS_IN_FLIGHT: the engine is full.",
            "short",
            [
                over_time("limit", "sum(weir_engine_prompts_limit)"),
                over_time("in flight", "sum(weir_engine_prompts_in_flight)"),
                over_time("waiting", "sum(weir_engine_prompts_waiting)"),
            ],
            ["engines.md", LATE],
        )
    )
    board = board.with_panel(
        graph(
            "Engine failures",
            "Requests to the engine that failed and were tried again, a second, by reason, and their share of all; "
            "breaker: workers that send none.",
            "short",
            [
                over_time("{{reason}} a second", "sum by (reason) (rate(weir_engine_retries_total[$__rate_interval]))"),
                over_time("share", "weir:engine_failures:ratio_rate5m"),
                over_time("breaker open", "sum(weir_engine_breaker_open)"),
            ],
            [ENGINE, "engines.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Rows to ClickHouse",
            "Rows acknowledged a second, and rows that wait for it.",
            "short",
            [
                over_time("acknowledged a second", "sum(rate(weir_sink_rows_total[$__rate_interval]))"),
                over_time("waiting", "sum(weir_sink_rows_waiting)"),
            ],
            [SINK, "tables.md"],
        )
    )
    board = board.with_panel(
        graph(
            "Workers",
            "Workers that Prometheus reaches, and times that a consumer ended by itself and was started anew in the "
            "interval.",
            "short",
            [
                over_time("workers", "count(group by (instance) (weir_sink_rows_total))"),
                over_time("restarts", "sum(increase(weir_consumer_restarts_total[$__rate_interval]))"),
            ],
            [WORKER, RESTARTS],
        )
    )
    return board.build()
