"""Metrics have names that Prometheus expects, bounded labels, and a page that lists them all."""

import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from streams.errors import Reason
from streams.metrics import Metrics, document

BOUNDED = {
    "audited",
    "bound",
    "route",
    "pipeline",
    "stage",
    "decision",
    "reason",
    "gen_ai_request_model",
    "gen_ai_token_type",
    "topic",
    "partition",
    "dependency",
    "tenant",  # those that a pipeline file names, and `other`
    "use",
    "closed_by",
    "outcome",
    "agrees",
    "was",
    "now",
    "quantile",
    "kind",
}
GAUGES = {
    "weir_cascade_doubt",
    "weir_cascade_open",
    "weir_cascade_precision_ratio",
    "weir_cascade_recall_ratio",
    "weir_cascade_saved_ratio",
    "weir_cascade_target_ratio",
    "weir_rows_in_flight",
    "weir_sink_rows_waiting",
    "weir_sla_seconds",
    "weir_sla_oldest_age_seconds",
    "weir_sla_age_seconds",
    "weir_sla_met_ratio",
    "weir_sla_backlog_messages",
    "weir_sla_rows_per_second",
    "weir_sla_forecast_seconds",
    "weir_sla_will_be_missed",
    "weir_calls_open",
    "weir_committed_offset",
    "weir_dependency_up",
    "weir_engine_breaker_open",
    "weir_rows_waiting_for_rate",
    "weir_budget_spent_ratio",
    "weir_engine_prompts_limit",
    "weir_engine_prompts_in_flight",
    "weir_engine_prompts_waiting",
}


def names() -> dict[str, str]:
    """Name as it is served to type."""
    described = [next(iter(metric.describe())) for metric in Metrics().all()]
    return {found.name + ("_total" if found.type == "counter" else ""): found.type for found in described}


def test_names_say_the_unit() -> None:
    for name, kind in names().items():
        assert re.fullmatch(r"(weir|gen_ai)_[a-z_]+", name)
        if kind == "counter":
            assert name.endswith("_total")
        elif kind == "histogram":
            assert name.endswith(("_seconds", "_token_usage"))  # the latter is OpenTelemetry's name
        else:
            assert name in GAUGES


def test_labels_are_bounded() -> None:
    assert {label for metric in Metrics().all() for label in metric._labelnames} == BOUNDED


def test_the_page_lists_every_metric_once() -> None:
    lines = [line for line in document().splitlines() if line.startswith("| `")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    assert {row[0]: row[1] for row in rows} == names()
    assert len(rows) == len(names())
    assert all(row[3].endswith(".") for row in rows)
    assert document().endswith("|\n")


def test_every_metric_is_an_attribute_that_is_registered() -> None:
    metrics = Metrics()
    registered = {next(iter(collector.describe())).name for collector in metrics.registry._collector_to_names}
    assert registered == {next(iter(metric.describe())).name for metric in metrics.all()}
    assert all(isinstance(metric, Counter | Gauge | Histogram) for metric in metrics.all())


def test_what_is_counted_is_served() -> None:
    metrics = Metrics()
    metrics.received.labels("p", "s").inc()
    metrics.dead_letters.labels("p", "s", Reason.NOT_JSON).inc(2)
    metrics.event_latency.labels("p", "s").observe(3)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }
    assert samples["weir_messages_received_total", "p", "s"] == 1
    assert samples["weir_dead_letters_total", "not_json", "p", "s"] == 2
    assert samples["weir_event_latency_seconds_sum", "p", "s"] == 3


def test_workers_do_not_share_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.sink_rows.inc()
    assert b"weir_sink_rows_total 0.0" in other.render()


@pytest.mark.parametrize("seconds", [0.01, 10_800])
def test_latencies_of_hours_have_a_bucket(seconds: float) -> None:
    metrics = Metrics()
    metrics.event_latency.labels("p", "s").observe(seconds)
    assert b'weir_event_latency_seconds_bucket{le="10800.0",pipeline="p",stage="s"} 1.0' in metrics.render()


@pytest.mark.parametrize("page", ["sla.md", "limits.md", "reliability.md"])
def test_pages_name_metrics_that_there_are(root: Path, page: str) -> None:
    told = set(re.findall(r"\bweir_(?:sla|engine|cost|budget|rows)_[a-z_]+", (root / "docs" / page).read_text("utf-8")))
    assert told
    assert told - set(names()) - {f"{name}_" for name in names()} == set()


def test_the_page_in_the_repository_is_the_generated_one(root: Path) -> None:
    page = root / "docs" / "metrics.md"
    if not page.exists():
        pytest.skip("not generated yet: make docs")
    assert page.read_text(encoding="utf-8") == document()
