"""Look at the dashboards without Grafana: python tests/observe/show.py [--pictures FOLDER] [--seconds N].

Starts what the tests start, prints what every query answers, and draws each dashboard roughly as its panels lie: lines
for time series, the first rows of tables. It is no Grafana; it shows whether there is something to see.
"""

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "observe")]

import grafana  # noqa: E402
from observed_service import Observed, observed, program  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

ROWS, CELL = 6, 22
Series = list[tuple[str, list[float], list[float]]]


def told(service: Observed) -> Table:
    """Every query with the number of values that it gives, and the last one."""
    table = Table("dashboard", "panel", "query", "values", "last")
    around = service.around(service.row)
    for query in grafana.queries():
        answer = grafana.ask(query, around, service.prometheus, service.client)
        last = str(answer.values[-1])[:40] if answer.values else ""
        table.add_row(query.board, query.panel, query.ref, str(len(answer.values)), last)
    return table


def draw(service: Observed, name: str, board: dict[str, Any], file: Path) -> None:
    """One dashboard as a picture."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    panels = list(grafana.panels(board))
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24, height * 0.42))
    around = service.around(service.row)
    for panel in panels:
        at = panel["gridPos"]
        left, width = at["x"] / 24 + 0.02, at["w"] / 24 - 0.03
        box = (left, 1 - (at["y"] + at["h"]) / height + 0.3 / height, width, (at["h"] - 1.6) / height)
        axes = figure.add_axes(box)
        axes.set_title(f"{panel['title']} [{panel['fieldConfig']['defaults']['unit']}]", fontsize=9, loc="left")
        axes.tick_params(labelsize=6)
        queries = [grafana.Query(name, panel["title"], target["refId"], target) for target in panel["targets"]]
        if panel["type"].lower() in {"table", "nodegraph"}:
            axes.axis("off")
            _cells(axes, service, around, queries[0])
        else:
            for query in queries:
                for label, times, values in _series(service, around, query):
                    axes.plot(times, values, label=label[:40], marker=".", linewidth=1)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=5, loc="best")
    figure.savefig(file, dpi=70)


def _cells(axes: Any, service: Observed, around: grafana.Around, query: grafana.Query) -> None:
    found = service.client.query(grafana.substituted(query, around))
    cells = [[str(cell)[:CELL] for cell in row] for row in found.result_rows[:ROWS]]
    drawn = axes.table(cellText=cells, colLabels=found.column_names, loc="upper left", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6)


def _series(service: Observed, around: grafana.Around, query: grafana.Query) -> Series:
    text = grafana.substituted(query, around)
    if query.sql:
        by: dict[str, tuple[list[float], list[float]]] = {}
        for row in service.client.query(text).result_rows:
            times, values = by.setdefault(" ".join(map(str, row[1:-1])), ([], []))
            times.append(row[0].replace(tzinfo=UTC).timestamp() - around.start)
            values.append(float(row[-1]))
        return [(label, times, values) for label, (times, values) in by.items()]
    span = {"start": around.start, "end": around.end, "step": grafana.STEP}
    found = grafana.get(service.prometheus, "query_range", query=text, **span)["result"]
    drawn = []
    for one in found:
        points = [(float(t) - around.start, float(v)) for t, v in one["values"] if isfinite(float(v))]
        label = (
            " ".join(value for key, value in one["metric"].items() if key != "__name__") or query.target["legendFormat"]
        )
        drawn.append((label, [t for t, _ in points], [v for _, v in points]))
    return drawn


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to go on before looking")
    options = parser.parse_args()
    prometheus = program("prometheus")
    if prometheus is None:
        parser.exit(1, "no prometheus: `make deploy-tools` fetches it, or put it on the PATH\n")
    with tempfile.TemporaryDirectory() as folder:
        async with observed(Path(folder), prometheus) as service:
            await asyncio.sleep(options.seconds)
            Console(width=140).print(told(service))
            for name, board in grafana.boards().items() if options.pictures else ():
                options.pictures.mkdir(parents=True, exist_ok=True)
                draw(service, name, board, options.pictures / f"{name}.png")
            Console().print(f"looked at {datetime.now(UTC):%H:%M:%S} UTC")


if __name__ == "__main__":
    asyncio.run(main())
