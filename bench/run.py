"""`make bench`: what the service costs, side by side with other ways to do the same.

    python -m bench.run [--only NAME] [--broker tansu|apache] [--engine-url URL] [--no-save] ...

Prints a table, and writes bench/results.json and the table of docs/performance.md; what did not run stays there as it
was. Exit status 1 if a bound is not met. What needs a real vLLM is skipped without the URL of one.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from bench import cost, duplicates, latency, lineage, results, saturation, throughput
from bench.results import Section
from deploy.embedded import kafka
from deploy.vllm.server import VllmServer, default_home
from streams.demo.servers import forget_surroundings

ENGINE_VARIABLE = "WEIR_BENCH_ENGINE_URL"

_FLAGS = ("--max-num-queued-reqs=2048",)  # a client at its limit is to wait, not to be sent away


def main() -> int:
    """Read the command line, measure, report."""
    options = _options()
    console = Console(stderr=True)
    forget_surroundings()
    sections: list[Section] = []
    skipped: dict[str, str] = {}

    def run(name: str, benchmark: Callable[[], Section]) -> None:
        if not options.only or name in options.only:
            console.print(f"[bold]{name}")
            sections.append(benchmark())
            if not options.no_save:
                results.save(sections[-1:])

    with tempfile.TemporaryDirectory(prefix="weir-bench-") as place:
        folder = Path(place)
        broker = options.broker or "tansu"
        run(throughput.NAME, lambda: throughput.measure(broker, folder, options.events, options.rounds, console))
        run(
            latency.NAME,
            lambda: latency.measure(
                options.broker or _prompt_broker(console),
                folder,
                options.latency_seconds,
                options.delay_ms / 1000,
                options.latency_rate,
                console,
            ),
        )
        run(duplicates.NAME, lambda: duplicates.measure(broker, folder, options.duplicates_events, console))
        if lineage.NAME in options.only:  # it takes minutes and gigabytes: only where it is asked for
            edges, events, rounds = options.edges, options.lineage_events, options.lineage_rounds
            run(lineage.NAME, lambda: lineage.measure(broker, folder, edges, events, rounds, console))
        needy = [name for name in (saturation.NAME, cost.NAME) if not options.only or name in options.only]
        if needy:
            with _vllm(options.engine_url, console) as url:
                if url is None:
                    reason = f"no vLLM; `make test-vllm` builds one, {ENGINE_VARIABLE} names another"
                    skipped |= dict.fromkeys(needy, reason)
                else:
                    device, seconds, pairs = options.device, options.turn_seconds, options.pairs
                    run(
                        saturation.NAME,
                        lambda: saturation.measure(broker, folder, url, device, seconds, pairs, console),
                    )
                    run(cost.NAME, lambda: cost.measure(url, device, seconds, pairs, console))
    Console().print(results.table(sections, skipped))
    return int(any(figure.met is False for section in sections for figure in section.figures))


def _prompt_broker(console: Console) -> str:
    """Tansu answers a waiting fetch only after half of the time that it may wait, whether messages come or not."""
    reason = kafka.unavailable(kafka.default_jars())
    if reason is not None:
        console.print(f"  on Tansu, which holds messages back by itself; Apache Kafka cannot be had: {reason}")
    return "tansu" if reason else "apache"


@contextmanager
def _vllm(url: str, console: Console) -> Iterator[str | None]:
    """A real vLLM: the one named, else the one that `make test-vllm` has built, else none."""
    if url:
        yield url.rstrip("/").removesuffix("/v1")
    elif (default_home() / "bin" / "python").exists():
        console.print("starting vLLM")
        with VllmServer(default_home(), flags=_FLAGS) as server:
            yield server.url
    else:
        yield None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [throughput.NAME, latency.NAME, duplicates.NAME, lineage.NAME, saturation.NAME, cost.NAME]
    add = parser.add_argument
    add("--only", action="append", default=[], choices=names, help="may be given more than once")
    add("--broker", choices=["tansu", "apache"], help=f"tansu, but apache for {latency.NAME} where Java is")
    add("--events", type=int, default=30_000, help=f"messages of {throughput.NAME} (%(default)s)")
    add("--rounds", type=int, default=3, help=f"rounds of {throughput.NAME} (%(default)s)")
    add("--delay-ms", type=float, default=50, help=f"engine's time in {latency.NAME} (%(default)s)")
    add("--latency-seconds", type=float, default=30, help="how long messages arrive (%(default)s)")
    add("--latency-rate", type=float, default=200, help="messages a second, at most (%(default)s)")
    add("--duplicates-events", type=int, default=5000, help=f"messages of {duplicates.NAME} (%(default)s)")
    add("--edges", type=int, default=5_000_000, help=f"of {lineage.NAME}, which must be named (%(default)s)")
    add("--lineage-events", type=int, default=20_000, help=f"messages of a turn of {lineage.NAME} (%(default)s)")
    add("--lineage-rounds", type=int, default=5, help="turns of each side there (%(default)s)")
    add("--engine-url", default=os.environ.get(ENGINE_VARIABLE, ""), help=f"a real vLLM ({ENGINE_VARIABLE})")
    add("--device", default="this machine's processor", help="what that vLLM runs on, for the record (%(default)s)")
    add("--turn-seconds", type=float, default=30, help=f"of {saturation.NAME} and {cost.NAME} (%(default)s)")
    add("--pairs", type=int, default=4, help="turns of each side there (%(default)s)")
    add("--no-save", action="store_true", help="leave the files alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
