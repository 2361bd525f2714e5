"""What the embedded model's judgements are worth on rows that no prompt has seen, with and without calibration.

    python bench/heldout.py FILE.jsonl [--pipeline NAME] [--rows N]

FILE has `text` and `label`, and `thread` where there is one. Prints a table; figures of SmolLM2-135M show the plumbing.
"""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from deploy.embedded.engine import LlamaEngine
from inference import operators
from inference.cost import Prices
from inference.judgement import Judgement, Passage
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.labels import CalibrationSettings
from streams import pipeline
from streams.cli.main import PIPELINES
from streams.demo.traffic import FINE

Row = dict[str, Any]


async def judge(settings: Any, engine: OpenAiEngine, stage: pipeline.Stage, rows: Sequence[Row]) -> list[Judgement]:
    operator = operators.create(settings, engine, Prices())
    await operator.scorer.prepare()
    before: dict[str, list[str]] = {}
    found = []
    for row in track(rows, description="judging"):
        earlier = before.setdefault(row.get("thread") or row["id"], [])
        count = stage.context.messages
        found.append(await operator.judge(Passage(row["text"], earlier[-count:] if count else [])))
        earlier.append(row["text"][-stage.context.characters :])
    return found


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under the ROC curve: the share of pairs in the right order (Mann and Whitney, 1947)."""
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return sum(pairs) / len(pairs) if pairs else float("nan")


def report(name: str, rows: Sequence[Row], found: Sequence[Judgement], labels: Sequence[str]) -> list[str]:
    """One line of the table."""
    exact = sum(j.label == row["label"] for j, row in zip(found, rows, strict=True)) / len(rows)
    if labels[0] not in FINE:
        return [name, f"{exact:.3f}", "", "", "", ""]
    bad = [row["label"] not in FINE for row in rows]
    risk = [1 - j.scores[labels[0]] for j in found]
    flagged = [j.decision != "allow" for j in found]
    caught = sum(f for f, b in zip(flagged, bad, strict=True) if b) / max(1, sum(bad))
    false = sum(f for f, b in zip(flagged, bad, strict=True) if not b) / max(1, len(bad) - sum(bad))
    area = auc([r for r, b in zip(risk, bad, strict=True) if b], [r for r, b in zip(risk, bad, strict=True) if not b])
    agree = sum(f == b for f, b in zip(flagged, bad, strict=True)) / len(rows)
    return [name, f"{exact:.3f}", f"{area:.3f}", f"{caught:.2f}", f"{false:.2f}", f"{agree:.3f}"]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--pipeline", default="community-moderation")
    parser.add_argument("--rows", type=int, default=0, help="a sample of so many, all labels alike; 0: all in order")
    options = parser.parse_args()
    rows = [orjson.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    if options.rows:
        by_label: dict[str, list[Row]] = {}
        for row in random.Random(1).sample(rows, len(rows)):
            by_label.setdefault(row["label"], []).append(row)
        rows = [row for group in by_label.values() for row in group[: options.rows // len(by_label)]]
    stage = pipeline.load(PIPELINES / f"{options.pipeline}.yaml").stages[0]
    plain = stage.judge.model_copy(update={"calibration": CalibrationSettings(content_free=[])})
    table = Table("judged", "same label", "AUC", "caught", "false alarms", "agreement", title=f"{len(rows)} rows")
    with tempfile.TemporaryDirectory() as folder, LlamaEngine(Path(folder)) as server:
        engine = OpenAiEngine(EngineSettings(server.url, prompts_in_flight=1))
        await engine.connect()
        for name, settings in (("as the model says", plain), ("calibrated", stage.judge)):
            found = await judge(settings, engine, stage, rows)
            table.add_row(*report(name, rows, found, list(stage.judge.labels())))
        await engine.close()
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
