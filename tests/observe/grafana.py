"""What Grafana does with a panel's queries: it puts variables and macros in, and asks the data source."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
STEP = 2


@dataclass(frozen=True)
class Query:
    """One query of a panel."""

    board: str
    panel: str
    ref: str
    target: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.board} / {self.panel} / {self.ref}"

    @property
    def sql(self) -> bool:
        return "rawSql" in self.target

    @property
    def text(self) -> str:
        found: str = self.target["rawSql" if self.sql else "expr"]
        return found


@dataclass(frozen=True)
class Around:
    """The dashboard's time, in Unix seconds, and the values of its variables."""

    start: float
    end: float
    variables: Mapping[str, Sequence[str]]


def boards() -> dict[str, Any]:
    """The dashboards that are checked in, by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, without headings."""
    for panel in board["panels"]:
        yield from panel.get("panels", ())
        if panel["type"] != "row":
            yield panel


def queries() -> list[Query]:
    """Every query of every dashboard."""
    return [
        Query(name, panel["title"], target["refId"], target)
        for name, board in boards().items()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def substituted(query: Query, around: Around) -> str:
    """The query as the data source gets it. Raises ValueError where something is left that looks like a variable."""
    seconds = int(around.end - around.start)
    text = query.text
    for name, value in {"__rate_interval": f"{STEP * 4}s", "__range": f"{seconds}s"}.items():
        text = text.replace(f"${name}", value)
    for macro, put in _MACROS.items():
        text = re.sub(rf"\$__{macro}\((\w+)\)", lambda found, put=put: put(found[1], around), text)
    text = text.replace("${__from}", str(int(around.start * 1000))).replace("${__to}", str(int(around.end * 1000)))
    for name, values in around.variables.items():
        quoted = ["'" + value.replace("'", "''") + "'" for value in values]
        text = text.replace(f"${{{name}:singlequote}}", ",".join(quoted)).replace(
            f"${{{name}:sqlstring}}", ",".join(quoted)
        )
        text = text.replace(f'"${name}"', '"(' + "|".join(map(_escaped, values)) + ')"')
    if found := re.search(r"\$\{?[A-Za-z_]\w*", text):
        raise ValueError(f"{query.name}: {found[0]} is no variable or macro that is known here")
    return text


def _escaped(value: str) -> str:
    """As Grafana writes a value into a regular expression of PromQL."""
    return re.sub(r"[\\^$*+?.()|{}\[\]]", lambda found: "\\\\" + found[0], value)


_MACROS = {
    "timeFilter": lambda column, a: f"{column} >= toDateTime({int(a.start)}) AND {column} <= toDateTime({int(a.end)})",
    "timeFilter_ms": lambda column, a: (
        f"{column} >= fromUnixTimestamp64Milli({int(a.start * 1000)}) "
        f"AND {column} <= fromUnixTimestamp64Milli({int(a.end * 1000)})"
    ),
    "timeInterval": lambda column, _: f"toStartOfInterval(toDateTime({column}), INTERVAL {STEP} second)",
}


@dataclass(frozen=True)
class Answer:
    """What came: numbers and texts by series or row, without NaN and empty cells."""

    values: Sequence[Any]

    @property
    def empty(self) -> bool:
        return not self.values

    @property
    def all_zero(self) -> bool:
        numbers = [value for value in self.values if isinstance(value, int | float)]
        return bool(numbers) and len(numbers) == len(self.values) and not any(numbers)


def ask(query: Query, around: Around, prometheus: str, client: Client) -> Answer:
    """Ask the data source. Raises its errors."""
    text = substituted(query, around)
    if query.sql:
        return _rows(query, client, text)
    if query.target.get("instant"):
        found = get(prometheus, "query", query=text, time=around.end)["result"]
        return Answer([number for one in found if not isnan(number := float(one["value"][1]))])
    found = get(prometheus, "query_range", query=text, start=around.start, end=around.end, step=STEP)["result"]
    numbers = [float(value) for one in found for _, value in one["values"]]
    return Answer([number for number in numbers if not isnan(number)])


def _rows(query: Query, client: Client, text: str) -> Answer:
    found = client.query(text)
    if query.target["queryType"] == "timeseries":
        assert found.column_names[0] == "time", query.name
        assert all(isinstance(row[0], datetime) for row in found.result_rows), query.name
        return Answer([row[-1] for row in found.result_rows if row[-1] is not None and not isnan(row[-1])])
    return Answer([cell for row in found.result_rows for cell in row if cell not in (None, "")])


def get(prometheus: str, call: str, **parameters: Any) -> Any:
    """Prometheus' HTTP API. Raises ValueError with what it says of the query."""
    url = f"{prometheus}/api/v1/{call}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(f"{parameters.get('query')}: {error.read().decode()}") from error


def now() -> float:
    return datetime.now(UTC).timestamp()
