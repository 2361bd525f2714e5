"""`lineage`: how soon a tree is there, what an edge takes, and what keeping lineage costs.

Trees: findings drawn at random from five million edges of reviewed calls, each with 20 ancestors: its claim, the
exchange, 19 rows that this was made from or is judged against. Timed is what `weir lineage` asks the store, over
ClickHouse's protocol, with all that it shows of each row; no finding is asked for twice, and the first few, which find
the store cold, do not count.

Size: all files of the table of edges after its merges, with the projection that leads down, over its edges.

Throughput: that of the worker, over that of one which writes no edges, in turns, as in `pipeline_vs_floor`.
"""

import time
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

from clickhouse_connect.driver.client import Client
from rich.console import Console

from bench import lineage_rows, throughput
from bench.lineage_rows import ANCESTORS
from bench.results import Figure, Section
from deploy.embedded.store import ChdbStore
from sinks import clickhouse
from sinks.clickhouse import StoreSettings
from sinks.lineage import ancestors, descendants
from sinks.migrate import migrate

NAME = "lineage"
WITHOUT = "without_lineage"

_TREES, _COLD = 500, 25
_MERGE_SECONDS = 600.0
_SIZE = """
SELECT sum(rows), sum(bytes_on_disk) FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'lineage_edges_raw'
"""
_FINDINGS = """
SELECT row_id FROM verdicts_raw WHERE stage = 'check' ORDER BY sipHash64(row_id, 'sample') LIMIT {limit:UInt32}
"""
_TURNS = """
SELECT DISTINCT parent FROM lineage_edges_raw WHERE kind = 'context'
ORDER BY sipHash64(parent, 'sample') LIMIT {limit:UInt32}
"""


def measure(broker: str, folder: Path, edges: int, events: int, rounds: int, console: Console) -> Section:
    """Trees and size with so many edges; throughput in so many rounds over so many messages."""
    with ChdbStore(folder) as store:
        settings = StoreSettings(store.url, timeout=_MERGE_SECONDS)
        migrate(settings)
        client = clickhouse.connect(settings)
        calls = lineage_rows.fill(client, edges)
        for table in ("lineage_edges_raw", "source_rows_raw", "verdicts_raw"):
            client.command(f"OPTIMIZE TABLE {table} FINAL")
        stored, size = client.query(_SIZE).result_rows[0]
        console.print(f"  {stored:,} edges of {calls:,} calls, {size / stored:.1f} bytes each")
        up, down = _up(client), _down(client)
        client.close()
    ratios, runs = _throughput(broker, folder, events, rounds, console)
    return Section(
        NAME,
        [
            Figure("tree upwards, p95", _p95(up), "ms", at_most=50),
            Figure("tree upwards, p50", median(up), "ms"),
            Figure("tree downwards, p95", _p95(down), "ms"),
            Figure("an edge", size / stored, "bytes", at_most=40),
            Figure("throughput, over none kept", median(ratios), "times", at_least=0.9),
        ],
        {
            "edges": stored,
            "ancestors": ANCESTORS,
            "trees": _TREES,
            "broker": broker,
            "messages": events,
            "ratios": [round(ratio, 3) for ratio in ratios],
            "rates": runs,
        },
    )


def _up(client: Client) -> list[float]:
    """Milliseconds for each tree."""
    times = []
    for (row,) in client.query(_FINDINGS, parameters={"limit": _TREES + _COLD}).result_rows:
        begun = time.perf_counter()
        found = ancestors(client, UUID(int=row))
        times.append(1000 * (time.perf_counter() - begun))
        if found is None or sum(1 for _ in found.walk()) != 1 + ANCESTORS:
            raise RuntimeError(f"row {UUID(int=row)} has not {ANCESTORS} ancestors")
    return times[_COLD:]


def _down(client: Client) -> list[float]:
    """The same from turns to what was made of them."""
    times = []
    for (row,) in client.query(_TURNS, parameters={"limit": _TREES + _COLD}).result_rows:
        begun = time.perf_counter()
        descendants(client, UUID(int=row))
        times.append(1000 * (time.perf_counter() - begun))
    return times[_COLD:]


def _p95(times: list[float]) -> float:
    return quantiles(times, n=20)[-1]


def _throughput(
    broker: str, folder: Path, events: int, rounds: int, console: Console
) -> tuple[list[float], dict[str, list[float]]]:
    rates: dict[str, list[float]] = {throughput.WEIR: [], WITHOUT: []}
    names = list(rates)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            rates[name].append(throughput.once(name, broker, folder, events).rate)
            console.print(f"  {name}: {rates[name][-1]:,.0f} messages/s")
    ratios = [ours / theirs for ours, theirs in zip(rates[throughput.WEIR], rates[WITHOUT], strict=True)]
    return ratios, {name: [round(rate, 1) for rate in found] for name, found in rates.items()}
