"""What the model of the service says: beside what was measured on one machine, near saturation, and when a part fails.

    python -m bench.scaling_cases [--only one_machine|saturation|gpu|worker]

Service times are from bench/results.json; see docs/scaling.md.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.results import FILE
from bench.scaling import Numbers, prompts_per_gpu
from bench.scaling_model import (
    Broker,
    Engine,
    Fault,
    Machine,
    Store,
    System,
    Traffic,
    Worker,
    simulate,
)

_STEP_TOKENS = 8192  # vLLM's --max-num-batched-tokens
_STEP = 0.005  # seconds of a step beside its tokens: weights are read (2.4 ms for 8 GB), kernels start
_SLA = 30.0  # of the shipped pipeline
_BURST = 1.25
_MERGES = 0.5  # of the store's time, after its answer: inserts alone take about half of it, in one thread
_TABLES = 4  # that a message has rows for: each merges by itself
_WARM = 5.0  # seconds that do not count


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor seconds that the parts take. message: of the worker, without requests and inserts. fetch: on top where
    messages come one by one.
    """

    message: float
    request: float
    insert: float
    insert_message: float
    store_insert: float
    fetch: float
    engine: float

    @property
    def worker(self) -> Worker:
        """A worker with these."""
        return Worker(self.message, self.request, self.insert, self.insert_message, self.fetch)

    @property
    def store(self) -> Store:
        """A store with these."""
        return Store(insert=self.store_insert * (1 - _MERGES), merge=self.store_insert * _MERGES, mergers=_TABLES)


def costs(results: dict[str, Any]) -> Costs:
    """What was measured, taken apart: what a request takes, from requests of two sizes; an insert likewise.

    Scaled to the processor time of the throughput benchmark, which was measured on a quieter machine.
    """
    figures = results["footprint"]["figures"]
    ms = {name: figure["value"] / 1000 for name, figure in figures.items() if figure["unit"].startswith("ms")}
    counts = {name: figure["value"] for name, figure in figures.items()}
    few, many = 10, 500

    own_each = (ms[f"insert of {many}, worker"] - ms[f"insert of {few}, worker"]) / (many - few)
    own = ms[f"insert of {few}, worker"] - few * own_each
    store = (ms[f"insert of {few}, store"] + ms[f"insert of {many}, store"]) / 2  # as much for few rows as for many
    requests = {kind: 1 / counts[f"prompts a request, {kind}"] for kind in ("as it is", "small requests")}
    inserts = {kind: 1 / counts[f"messages an insert, {kind}"] for kind in requests}
    rest = {kind: ms[f"worker, {kind}"] - own * inserts[kind] - own_each for kind in requests}
    request = (rest["small requests"] - rest["as it is"]) / (requests["small requests"] - requests["as it is"])
    times = results["pipeline_vs_floor"]["context"]["processor_ms_a_message"]["weir"]
    scale = sorted(times)[len(times) // 2] / 1000 / ms["worker, as it is"]
    message = rest["as it is"] - request * requests["as it is"]
    slow = request / counts["prompts a request, slow"] + own / counts["messages an insert, slow"] + own_each
    return Costs(
        message=scale * message,
        request=scale * request,
        insert=scale * own,
        insert_message=scale * own_each,
        store_insert=scale * store,
        fetch=scale * max(0.0, ms["worker, slow"] - message - slow),
        engine=scale * ms["engine, as it is"] / requests["as it is"],
    )


def one_machine(console: Console) -> None:
    """The benchmarks of one machine with two cores, and what the model makes of them."""
    results = orjson.loads(FILE.read_bytes())
    taken = costs(results)
    console.print(taken)
    throughput = results["pipeline_vs_floor"]
    latency = results["added_latency"]
    system = System(
        worker=taken.worker,
        store=taken.store,
        machine=Machine(2, 0.0, taken.engine),
    )
    table = Table("figure", "measured", "model", "error")

    def compare(name: str, measured: float, found: float, unit: str) -> None:
        table.add_row(name, f"{measured:,.1f} {unit}", f"{found:,.1f} {unit}", f"{found / measured - 1:+.0%}")

    rows = throughput["context"]["messages"]
    run = simulate(system, Traffic(0, at_once=round(1.1 * rows)), 0.1, drain=True)
    compare("backlog, engine answers at once", throughput["figures"]["weir"]["value"], run.rate(0.1 / 1.1), "/s")
    delay = latency["context"]["engine_ms"] / 1000
    late = replace(
        system, engine=Engine(step=delay), broker=Broker(latency["figures"]["kafka alone, p50"]["value"] / 1000)
    )
    run = simulate(late, Traffic(0, at_once=3000), 0.1, drain=True)
    published = sorted(run.arrived + run.latency)[300:]
    full = (len(published) - 1) / (published[-1] - published[0])
    compare("backlog, engine takes 50 ms", latency["context"]["full_load_per_second"], full, "/s")
    rate = latency["context"]["arrivals_per_second"]
    # What broker, producer and reader take is what was busy and is not of worker and store.
    alone = simulate(late, Traffic(rate), 30)
    own = alone.busy["cores"]
    other = (2 * latency["context"]["processors_busy"] - own) / rate
    console.print(
        f"worker and store take {own:.2f} of two cores at {rate:.0f}/s, all others {other * 1000:.2f} ms a message"
    )
    shared = replace(late, machine=Machine(2, other, taken.engine))
    run = simulate(shared, Traffic(rate), 33)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        found = 1000 * (run.quantile(share, since=3) - delay)
        compare(f"added latency at {rate:.0f}/s, {name}", latency["figures"][name]["value"], found, "ms")
    console.print(table)


def fleet(gpus: int, busy: float, workers: int | None = None) -> tuple[System, float]:
    """GPUs with a model of 8 billion parameters, workers for them, and the rate at which the GPUs are so busy."""
    numbers = Numbers()
    prompt = 1 / prompts_per_gpu(numbers)
    step = int(_STEP_TOKENS / numbers.tokens)
    full = gpus / (prompt + _STEP / step)
    taken = costs(orjson.loads(FILE.read_bytes()))
    rate = full * busy
    count = workers or max(2, round(rate / (numbers.worker * numbers.worker_busy)))
    system = System(
        workers=count,
        partitions=4 * count,
        worker=taken.worker,
        engine=Engine(gpus, _STEP, prompt, step),
        store=taken.store,
        broker=Broker(0.001),
    )
    return system, rate


def saturation(console: Console) -> None:
    """Latency over how busy the GPUs are."""
    table = Table(
        "GPUs busy", "1 GPU: p50, p99", *(f"{gpus} GPUs: p50, p99" for gpus in (4, 16)), "4 GPUs, bursts: p50, p99"
    )
    for busy in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98):
        cells = []
        for gpus, burst, seconds in ((1, 1.0, 60.0), (4, 1.0, 25.0), (16, 1.0, 12.0), (4, _BURST, 60.0)):
            system, rate = fleet(gpus, busy)
            run = simulate(system, Traffic(rate, burst, share=0.1, seconds=2.0), seconds)
            p50, p99 = (run.quantile(share, since=3) for share in (0.5, 0.99))
            cells.append(f"{p50:.2f}, {p99:.2f}")
        table.add_row(f"{busy:.0%}", *cells)
    console.print(table)


def gpu(console: Console) -> None:
    """A GPU fails, and another is there after a minute."""
    back = 60.0
    table = Table("GPUs", "busy", "busy without one", "worst", "late", "over after", "by the formula")
    for gpus, busy in ((2, 0.45), (2, 0.7), (3, 0.8), (4, 0.7), (4, 0.85)):
        system, rate = fleet(gpus, busy)
        run = simulate(replace(system, faults=[Fault("gpu", _WARM, back)]), Traffic(rate), _WARM + back + 30)
        left = busy * gpus / (gpus - 1)
        worst = f"{back * max(0.0, 1 - 1 / left):.1f} s"
        table.add_row(str(gpus), f"{busy:.0%}", f"{left:.0%}", *_after(run.arrived, run.latency), worst)
    console.print(table)


def worker(console: Console) -> None:
    """A worker is killed, and another is there after half a minute."""
    table = Table("workers", "busy", "partitions a worker", "worst", "late", "over after", "judged again")
    for busy, each in ((0.6, 1), (0.6, 2), (0.6, 4), (0.8, 1), (0.8, 2), (0.8, 4), (0.8, 8)):
        system, _rate = fleet(8, 0.5, 4)
        numbers = Numbers()
        rate = 4 * busy * numbers.worker
        engine = replace(system.engine, gpus=0, step=0.1, prompt=0.0)
        killed = replace(system, engine=engine, partitions=4 * each, faults=[Fault("worker", _WARM, 30)])
        run = simulate(killed, Traffic(rate), 90)
        table.add_row("4", f"{busy:.0%}", str(each), *_after(run.arrived, run.latency), f"{run.again:,}")
    console.print(table)


def _after(arrived: Any, latency: Any) -> tuple[str, str, str]:
    """The longest latency, the share of rows beyond the SLA, and when the last row came that took over a second."""
    slow = arrived[latency > 1.0]
    over = f"{slow.max() - _WARM:.0f} s" if len(slow) else "at once"
    return f"{latency.max():.1f} s", f"{(latency > _SLA).mean():.1%}", over


CASES: dict[str, Callable[[Console], None]] = {
    "one_machine": one_machine,
    "saturation": saturation,
    "gpu": gpu,
    "worker": worker,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES), help="may be given more than once")
    options = parser.parse_args(arguments)
    console = Console(width=120)
    for name in options.only or CASES:
        console.rule(name)
        CASES[name](console)


if __name__ == "__main__":
    main()
