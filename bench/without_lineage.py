"""`weir worker` as it would be if it kept no lineage: it writes no edges. Run with the pipeline file."""

import sys
from collections.abc import Callable

from sinks.rows import AnyRow, LineageEdgeRow
from streams import judge
from streams.cli.main import app


def _without_edges(rows_of: Callable[..., list[AnyRow]]) -> Callable[..., list[AnyRow]]:
    return lambda *found: [row for row in rows_of(*found) if not isinstance(row, LineageEdgeRow)]


if __name__ == "__main__":
    judge.rows_of = _without_edges(judge.rows_of)
    app(["worker", "--pipelines", sys.argv[1]])
