"""Every metric of a worker: one registry, from which docs/metrics.md is generated.

Names follow Prometheus' rules (base units, `_total` for counters) and OpenTelemetry's GenAI conventions where those
have a name. Labels are bounded: pipelines, stages, decisions, never a row or a text.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

_STAGE = ("pipeline", "stage")
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 10800)
_DELAY = (60, 300, 900, 3600, 14_400, 43_200, 86_400, 259_200, 604_800, 2_592_000)
_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKENS = (1, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


class CascadeMetrics:
    """Those of the screen before a model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter(
            "weir_screened_total",
            "Rows by what the screen before the model says of them, and whether the model judges them in any case.",
            (*_STAGE, "route", "audited"),
            registry=registry,
        )
        self.open = Gauge(
            "weir_cascade_open",
            "1 while the model judges every row, because nothing can be promised for the screen.",
            _STAGE,
            registry=registry,
        )
        self.evidence = Gauge(
            "weir_cascade_doubt",
            "Evidence against the promise for the screen, in rows, since the fit; 10,000 opens the cascade.",
            _STAGE,
            registry=registry,
        )
        self.target = Gauge(
            "weir_cascade_target_ratio",
            "Of what the model flags, the share that the screen is promised not to let pass.",
            _STAGE,
            registry=registry,
        )
        self.recall = Gauge(
            "weir_cascade_recall_ratio",
            "Of what the model flags among audited rows, the share that the screen does not let pass, since the fit; "
            "bound is low, estimate or high, NaN for no such row.",
            (*_STAGE, "bound"),
            registry=registry,
        )
        self.saved = Gauge(
            "weir_cascade_saved_ratio",
            "Of audited rows, the share that the screen would decide, since the fit; NaN for no row.",
            (*_STAGE, "bound"),
            registry=registry,
        )
        self.precision = Gauge(
            "weir_cascade_precision_ratio",
            "Of audited rows that the screen would flag by itself, the share that the model flags, since the fit; NaN "
            "for no such row.",
            (*_STAGE, "bound"),
            registry=registry,
        )


class Metrics:
    """The metrics, as attributes. One object a worker."""

    def __init__(self) -> None:  # noqa: PLR0915  a statement each
        self.registry = r = CollectorRegistry()
        self.received = Counter("weir_messages_received_total", "Messages taken from Kafka.", _STAGE, registry=r)
        self.repeated = Counter(
            "weir_messages_repeated_total",
            "Messages whose event was judged or in flight already.",
            _STAGE,
            registry=r,
        )
        self.recalled = Counter(
            "weir_judgements_recalled_total",
            "Judgements found in the store after a restart and published without asking the model again.",
            _STAGE,
            registry=r,
        )
        self.rerun = Counter(
            "weir_judgements_rerun_total",
            "Verdicts given anew for `weir rerun`; their latency is not among that of the others.",
            _STAGE,
            registry=r,
        )
        self.cascade = CascadeMetrics(r)
        self.reused = Counter(
            "weir_judgements_reused_total",
            "Judgements taken from an earlier row with the same text and context.",
            _STAGE,
            registry=r,
        )
        self.verdicts = Counter(
            "weir_verdicts_total", "Verdicts that Kafka acknowledged.", (*_STAGE, "decision"), registry=r
        )
        self.dead_letters = Counter(
            "weir_dead_letters_total",
            "Messages that went to the dead-letter topic.",
            (*_STAGE, "reason"),
            registry=r,
        )
        self.in_flight = Gauge("weir_rows_in_flight", "Rows taken from Kafka and not finished.", _STAGE, registry=r)
        self.event_latency = Histogram(
            "weir_event_latency_seconds",
            "From the time of the event to the acknowledgement of its verdict.",
            _STAGE,
            buckets=_LATENCY,
            registry=r,
        )
        self.broker_latency = Histogram(
            "weir_broker_latency_seconds",
            "From Kafka's timestamp of the message to the acknowledgement of its verdict.",
            _STAGE,
            buckets=_LATENCY,
            registry=r,
        )
        self.stage_duration = Histogram(
            "weir_stage_duration_seconds",
            "From taking a message to the acknowledgement of its verdict and rows.",
            _STAGE,
            buckets=_DURATION,
            registry=r,
        )
        self.escalated = Counter(
            "weir_escalations_total", "Verdicts that went to a person.", (*_STAGE, "decision"), registry=r
        )
        self.reviews = Counter(
            "weir_reviews_total",
            "People's reviews that were stored; decision is the model's, agrees is yes if the person decides the same.",
            (*_STAGE, "decision", "agrees"),
            registry=r,
        )
        self.corrections = Counter(
            "weir_corrections_total",
            "Reviews that changed a decision; was is the decision that held before, now the one that holds.",
            (*_STAGE, "was", "now"),
            registry=r,
        )
        self.review_delay = Histogram(
            "weir_review_delay_seconds", "From the verdict to its review.", _STAGE, buckets=_DELAY, registry=r
        )
        self.pieces = Counter("weir_pieces_total", "Messages that others were cut into.", _STAGE, registry=r)
        self.pieces_dropped = Counter(
            "weir_pieces_dropped_total",
            "Sentences and turns that claim nothing; they go no further.",
            _STAGE,
            registry=r,
        )
        self.tokens_saved = Counter(
            "weir_tokens_saved_total",
            "Tokens, about, of what was dropped before any model saw it: of its words alone, without a prompt.",
            _STAGE,
            registry=r,
        )
        self.calls_open = Gauge("weir_calls_open", "Calls that wait for more turns.", _STAGE, registry=r)
        self.calls_closed = Counter(
            "weir_calls_closed_total",
            "Calls put together; closed_by is final, silence, or correction for one that was published before.",
            (*_STAGE, "closed_by"),
            registry=r,
        )
        self.sla = Gauge(
            "weir_sla_seconds",
            "Time that the pipeline file gives from event to verdict.",
            _STAGE,
            registry=r,
        )
        self.sla_oldest = Gauge(
            "weir_sla_oldest_age_seconds",
            "Age, from the time of the event, of the oldest row that was taken and is not finished; 0 for none.",
            _STAGE,
            registry=r,
        )
        self.sla_age = Gauge(
            "weir_sla_age_seconds",
            "Age at which rows were finished in the last ten minutes; quantile is 0.5, 0.95 or 0.99, NaN for no rows.",
            (*_STAGE, "quantile"),
            registry=r,
        )
        self.sla_inside = Gauge(
            "weir_sla_met_ratio",
            "Share of the rows of the last ten minutes that were finished within the SLA; NaN for no rows.",
            _STAGE,
            registry=r,
        )
        self.sla_rows = Counter(
            "weir_sla_rows_total",
            "Rows finished; outcome is met or missed. Dead letters, repeats and rows that wait for another day are not "
            "among them.",
            (*_STAGE, "outcome"),
            registry=r,
        )
        self.sla_backlog = Gauge(
            "weir_sla_backlog_messages",
            "Messages that are in the stage's topic, in partitions of this worker, and not taken; NaN if not known.",
            _STAGE,
            registry=r,
        )
        self.sla_rate = Gauge(
            "weir_sla_rows_per_second",
            "Rows finished a second in the last two minutes, of the time in which there were any to finish.",
            _STAGE,
            registry=r,
        )
        self.sla_forecast = Gauge(
            "weir_sla_forecast_seconds",
            "Age that rows in the topic and in flight will have at worst when they are finished, at this rate.",
            _STAGE,
            registry=r,
        )
        self.sla_will_be_missed = Gauge(
            "weir_sla_will_be_missed", "1 if the forecast is beyond the SLA, otherwise 0.", _STAGE, registry=r
        )
        self.operation_duration = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Time of one request to the engine, for each prompt that it carried.",
            (*_STAGE, "gen_ai_request_model"),
            buckets=_DURATION,
            registry=r,
        )
        self.token_usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of one prompt; gen_ai_token_type is input or output.",
            (*_STAGE, "gen_ai_request_model", "gen_ai_token_type"),
            buckets=_TOKENS,
            registry=r,
        )
        self.cached_tokens = Counter(
            "weir_cached_tokens_total",
            "Input tokens that came from the engine's prefix cache.",
            _STAGE,
            registry=r,
        )
        self.cost = Counter(
            "weir_cost_usd_total",
            "US dollars for rows, by the prices set; tenant is `other` if the pipeline file does not name it.",
            (*_STAGE, "tenant"),
            registry=r,
        )
        self.engine_seconds = Counter(
            "weir_engine_seconds_total",
            "Time of the engine since it was connected; use is judged, overhead or idle.",
            ("use",),
            registry=r,
        )
        self.engine_cost = Counter(
            "weir_engine_cost_usd_total",
            "US dollars for the engine, by the prices set; use is judged, overhead or idle.",
            ("use",),
            registry=r,
        )
        self.rate_waiting = Gauge(
            "weir_rows_waiting_for_rate",
            "Rows that wait because of a rate in the pipeline's limits.",
            ("pipeline",),
            registry=r,
        )
        self.budget_spent = Gauge(
            "weir_budget_spent_ratio",
            "Share of its daily budget that a tenant has spent, of each tenant that the pipeline file names.",
            ("pipeline", "tenant"),
            registry=r,
        )
        self.by_prior = Counter(
            "weir_rows_judged_by_prior_total",
            "Rows for which the model was not asked because of a limit; reason is budget or rate.",
            (*_STAGE, "reason"),
            registry=r,
        )
        self.deferred = Counter(
            "weir_rows_deferred_total",
            "Rows that wait for another day because their tenant's budget is spent.",
            _STAGE,
            registry=r,
        )
        self.engine_limit = Gauge(
            "weir_engine_prompts_limit", "Prompts that the engine is given at once, at most, at the moment.", registry=r
        )
        self.engine_in_flight = Gauge(
            "weir_engine_prompts_in_flight",
            "Prompts that the engine has, or that wait for another attempt.",
            registry=r,
        )
        self.engine_waiting = Gauge(
            "weir_engine_prompts_waiting",
            "Prompts that are not sent yet because the engine has as many as it takes.",
            registry=r,
        )
        self.engine_retries = Counter(
            "weir_engine_retries_total",
            "Requests to the engine that failed and were tried again.",
            ("reason",),
            registry=r,
        )
        self.engine_breaker = Gauge(
            "weir_engine_breaker_open",
            "1 while no request is sent because the engine failed too often, otherwise 0.",
            registry=r,
        )
        self.parts = Counter("weir_parts_total", "Parts that texts were judged in; one for most.", _STAGE, registry=r)
        self.sink_rows = Counter("weir_sink_rows_total", "Rows that ClickHouse acknowledged.", registry=r)
        self.sink_waiting = Gauge(
            "weir_sink_rows_waiting",
            "Rows that were given to the writer and that ClickHouse has not acknowledged.",
            registry=r,
        )
        self.sink_flush = Histogram(
            "weir_sink_flush_duration_seconds",
            "Time of one batch to ClickHouse.",
            buckets=_DURATION,
            registry=r,
        )
        self.committed = Gauge(
            "weir_committed_offset",
            "Next offset to read after a restart.",
            ("topic", "partition"),
            registry=r,
        )
        self.consumer_restarts = Counter(
            "weir_consumer_restarts_total",
            "Times that the consumer of the worker ended by itself and was started anew.",
            registry=r,
        )
        self.up = Gauge(
            "weir_dependency_up",
            "1 if the dependency answered the last check, otherwise 0.",
            ("dependency",),
            registry=r,
        )

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def all(self) -> Iterable[MetricWrapperBase]:
        """Every metric."""
        values = [*vars(self).values(), *vars(self.cascade).values()]
        return (value for value in values if isinstance(value, MetricWrapperBase))


def document() -> str:
    """docs/metrics.md: name, type, labels and meaning of every metric."""
    lines = [
        "# Metrics",
        "",
        "A worker serves these at `/metrics`. This page is generated: `make docs`.",
        "",
        "| metric | type | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in Metrics().all():
        described = next(iter(metric.describe()))
        name = described.name + ("_total" if described.type == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        lines.append(f"| `{name}` | {described.type} | {labels} | {described.documentation} |")
    return "\n".join(lines) + "\n"
