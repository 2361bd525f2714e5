"""Panels and dashboards with what all of ours have: a unit, a description, links."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import (
    ConstantVariable,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.nodegraph import Panel as NodeGraph
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.boards.queries import PROMETHEUS, Lettered, Query

Queries = Sequence[Query]
Steps = Sequence[tuple[float | None, str]]

WIDTH = 24
LINEAGE = "weir-lineage"
GOOD_BAD: Steps = ((None, "green"), (1, "red"))
SHARE_WITHIN: Steps = ((None, "red"), (0.99, "orange"), (0.995, "green"))


def page(path: str) -> DashboardLink:
    """A link to a page of docs/, such as `sla.md` or `runbooks/sink-stuck.md`."""
    title = path.removesuffix(".md").partition("#")[0]
    kind = "Runbook: " if title.startswith("runbooks/") else "Docs: "
    link = DashboardLink(kind + title.removeprefix("runbooks/").replace("-", " ")).type(DashboardLinkType.LINK)
    return link.url(f"${{docs}}/{path}").target_blank(True)


def graph(
    title: str,
    description: str,
    unit: str,
    queries: Queries,
    links: Sequence[str],
    width: int = 8,
    stacked: bool = False,
) -> TimeSeries:
    """Values over time."""
    panel = TimeSeries().title(title).description(description).unit(unit).span(width).height(8)
    panel = panel.targets(_lettered(queries)).links([page(path) for path in links])
    panel = panel.line_width(1).fill_opacity(30 if stacked else 5).show_points(VisibilityMode.AUTO).min(0)
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = panel.legend(legend.show_legend(True))
    return panel.stacking(StackingConfig().mode(StackingMode.NORMAL)) if stacked else panel


def number(
    title: str,
    description: str,
    unit: str,
    queries: Queries,
    links: Sequence[str],
    steps: Steps = ((None, "blue"),),
    width: int = 4,
) -> Stat:
    """One value a series, the last one."""
    panel = Stat().title(title).description(description).unit(unit).span(width).height(4)
    panel = panel.targets(_lettered(queries)).links([page(path) for path in links]).thresholds(_steps(steps))
    panel = panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return panel.graph_mode(BigValueGraphMode.NONE)


def bars(
    title: str, description: str, unit: str, queries: Queries, links: Sequence[str], steps: Steps, width: int = 8
) -> BarGauge:
    """One bar a series, up to 1."""
    panel = BarGauge().title(title).description(description).unit(unit).span(width).height(8).min(0).max(1)
    panel = panel.targets(_lettered(queries)).links([page(path) for path in links]).thresholds(_steps(steps))
    return panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))


def sheet(
    title: str,
    description: str,
    queries: Queries,
    links: Sequence[str],
    units: dict[str, str] | None = None,
    ids: Sequence[str] = (),
    width: int = WIDTH,
    height: int = 8,
) -> Table:
    """A table. units: of columns, the others are plain. ids: columns of row ids, which lead to the lineage explorer."""
    panel = Table().title(title).description(description).unit("none").span(width).height(height).filterable(True)
    panel = panel.targets(_lettered(queries)).links([page(path) for path in links])
    for column, unit in (units or {}).items():
        panel = panel.override_by_name(column, [DynamicConfigValue(id_val="unit", value=unit)])
    for column in ids:
        to = {"title": "Lineage", "url": f"/d/{LINEAGE}?var-id=${{__value.raw}}&${{__url_time_range}}"}
        panel = panel.override_by_name(column, [DynamicConfigValue(id_val="links", value=[to])])
    return panel


def tree(title: str, description: str, queries: Queries, links: Sequence[str], height: int = 12) -> NodeGraph:
    """Nodes and edges; a click on a node makes it the row that is looked at."""
    panel = NodeGraph().title(title).description(description).unit("none").span(WIDTH).height(height)
    to = {"title": "Look at this row", "url": f"/d/{LINEAGE}?var-id=${{__data.fields.id}}&${{__url_time_range}}"}
    panel = panel.override_by_name("id", [DynamicConfigValue(id_val="links", value=[to])])
    return panel.targets(_lettered(queries)).links([page(path) for path in links])


def dashboard(uid: str, title: str, description: str, docs: str, time_from: str = "now-6h") -> Dashboard:
    """An empty dashboard with the variables and links of all. docs: address of the folder docs/."""
    board = Dashboard(title).uid(uid).description(description).tags(["weir"]).timezone("browser").readonly()
    board = board.refresh("30s").time(time_from, "now").tooltip(DashboardCursorSync.CROSSHAIR)
    others = DashboardLink("Weir").type(DashboardLinkType.DASHBOARDS).tags(["weir"]).as_dropdown(False)
    board = board.link(others.keep_time(True).include_vars(True))
    board = board.with_variable(DatasourceVariable("prometheus").label("Prometheus").type("prometheus"))
    board = board.with_variable(
        DatasourceVariable("clickhouse").label("ClickHouse").type("grafana-clickhouse-datasource")
    )
    constant = ConstantVariable("docs").label("Address of docs/").value(docs)
    return board.with_variable(constant)


def with_stages(board: Dashboard) -> Dashboard:
    """The dashboard with a choice of pipelines and stages: those that Prometheus knows in the dashboard's time."""
    for name, label, metric in (
        ("pipeline", "Pipeline", "weir_sla_seconds"),
        ("stage", "Stage", 'weir_sla_seconds{pipeline=~"$pipeline"}'),
    ):
        query = f"label_values({metric}, {name})"
        variable = QueryVariable(name).label(label).datasource(PROMETHEUS).query({"query": query, "refId": name})
        variable = variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
        variable = variable.multi(True).include_all(True).current(VariableOption(text="All", value="$__all"))
        board = board.with_variable(variable.definition(query))
    return board


def _steps(steps: Steps) -> ThresholdsConfig:
    found = [Threshold(value=value, color=color) for value, color in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def _lettered(queries: Queries) -> list[Builder[Dataquery]]:
    return [Lettered(number, query) for number, query in enumerate(queries)]
