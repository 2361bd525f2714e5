"""Queries of panels: PromQL for now, SQL for history."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import Dataquery as PrometheusQuery

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${prometheus}")
CLICKHOUSE = DataSourceRef(type_val="grafana-clickhouse-datasource", uid="${clickhouse}")

STAGE = 'pipeline=~"$pipeline", stage=~"$stage"'
SQL_STAGE = "pipeline IN (${pipeline:singlequote}) AND stage IN (${stage:singlequote})"


class ClickHouseQuery(Dataquery):
    """A query of the plugin grafana-clickhouse-datasource, version 4, for which the SDK has no type."""

    def __init__(self, sql: str, series: bool) -> None:
        """series: columns are a time, labels and values; otherwise a table."""
        self.ref_id = "A"
        self.sql = sql.strip()
        self.series = series

    def to_json(self) -> dict[str, object]:
        """As the plugin keeps it."""
        return {
            "datasource": CLICKHOUSE,
            "editorType": "sql",
            "format": 0 if self.series else 1,
            "pluginVersion": "4.0.0",
            "queryType": "timeseries" if self.series else "table",
            "rawSql": self.sql,
            "refId": self.ref_id,
        }


Query = PrometheusQuery | ClickHouseQuery


class Lettered(Builder[Dataquery]):
    """A query with the name that it has in its panel: the first is A."""

    def __init__(self, number: int, query: Query) -> None:
        query.ref_id = chr(ord("A") + number)
        self._query = query

    def build(self) -> Dataquery:
        """The query."""
        return self._query


def over_time(legend: str, expr: str) -> Query:
    """PromQL, evaluated at each step of the dashboard's time."""
    return PrometheusQuery(datasource=PROMETHEUS, expr=expr, legend_format=legend, range_val=True)


def at_the_end(legend: str, expr: str) -> Query:
    """PromQL, evaluated once, at the end of the dashboard's time."""
    return PrometheusQuery(datasource=PROMETHEUS, expr=expr, legend_format=legend, instant=True)


def series(sql: str) -> Query:
    """SQL that gives `time`, texts that name the series, and a number; sorted by time."""
    return ClickHouseQuery(sql, series=True)


def rows(sql: str) -> Query:
    """SQL that gives a table."""
    return ClickHouseQuery(sql, series=False)


def quantiles(metric: str, by: str = "pipeline, stage") -> list[Query]:
    """The median, p95 and p99 of a histogram of a stage."""
    name = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [over_time(f"{name} p{share * 100:g}", quantile(metric, share, by)) for share in (0.5, 0.95, 0.99)]


def quantile(metric: str, share: float, by: str = "pipeline, stage", labels: str = STAGE) -> str:
    """PromQL for a quantile of a histogram."""
    return f"histogram_quantile({share:g}, sum by ({by}, le) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))"


def grown(counter: str, window: str, by: str = "", labels: str = STAGE) -> str:
    """PromQL for how much a counter grew, for one whose series begin with the first thing that they count.

    `increase` does not see what made a series. One that was not there before the window counts in full.
    """
    series = f"{counter}{{{labels}}}"
    return (
        f"sum {f'by ({by}) ' if by else ''}(({series} unless {series} offset {window}) or increase({series}[{window}]))"
    )
