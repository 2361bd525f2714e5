"""`duplicates`: the share of engine calls that is saved where texts repeat.

Three of ten messages repeat an earlier text, which is drawn by Zipf's law. Once each message stands alone, as comments
and reviews do; once in the threads of the shipped traffic, where the model also reads what was said before, and the
same words after other words are another question. The engine's own count of prompts says what was saved.
"""

import asyncio
from pathlib import Path

from rich.console import Console

from bench import traffic
from bench.instant_engine import InstantEngine
from bench.results import Figure, Section
from bench.scrape import scrape
from bench.stand import stand

NAME = "duplicates"
SHARE = 0.3

_ASKED = "vllm:request_success_total"
_REUSED = "weir_judgements_reused_total"


def measure(broker: str, folder: Path, events: int, console: Console) -> Section:
    """Judge so many messages of each kind."""
    figures = []
    for threads, kind in ((False, "messages alone"), (True, "messages in threads")):
        saved, reused, repeats = _saved(broker, folder, events, threads=threads)
        console.print(f"  {kind}: {repeats:,} of {events:,} repeat a text; {saved:,} engine calls saved")
        if saved != reused:
            raise RuntimeError(f"the engine had {saved} calls less than messages, the worker says {reused}")
        figures += [
            Figure(f"calls saved, {kind}", saved / events, "of all"),
            Figure(f"repeats saved, {kind}", saved / repeats, "of repeats"),
        ]
    return Section(NAME, figures, {"broker": broker, "messages": events, "repeating": SHARE, "law": "Zipf, exponent 1"})


def _saved(broker: str, folder: Path, events: int, *, threads: bool) -> tuple[int, int, int]:
    """Calls that the engine did not get, judgements that the worker reused, and messages that repeat a text."""
    rows, repeats = traffic.repeating(events, SHARE, threads=threads)
    with InstantEngine(folder) as engine, stand(broker, engine.url, folder) as place, place.worker() as worker:
        before = scrape(engine.url)[_ASKED]
        asyncio.run(traffic.publish(place.settings, place.source, rows))
        place.stored(worker, events)
        asked = scrape(engine.url)[_ASKED] - before
        reused = scrape(f"http://127.0.0.1:{place.settings.web_port}")[_REUSED]
    return events - round(asked), round(reused), repeats
