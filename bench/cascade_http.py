"""The cascade on the real path: `moderate` asks the oracle over HTTP, and thresholds are fitted to what it decides.

    python -m bench.cascade_http [--rows N] [--json FILE]

Of each community set the operator judges N rows that the shipped screen has never seen through the ordinary engine
client, thresholds are fitted to its decisions on one half of them and measured on the other, where only rows that the
screen does not decide would have been asked about. The oracle answers with the annotators' votes; it is no model.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.cascade import measure
from bench.community import ABSENT, DATA, SETS, Scored, scored
from bench.oracle import Oracle
from inference import operators
from inference.cascade.audit import Audit, Route
from inference.cascade.guarantee import Fit, Goal, fit
from inference.cost import Prices
from inference.judgement import Passage
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.moderate import Category, ModerateSettings

GOALS = (Goal(0.95), Goal(0.95, 0.95), Goal(0.95, 0.8))
WRONG = {
    "en": ("hate", "offensive"),
    "pt": ("homophobia", "obscene", "insult", "racism", "misogyny", "xenophobia"),
}


async def decisions(url: str, language: str, texts: Sequence[str]) -> tuple[str, list[str]]:
    """The model's name, and what `moderate` decides about each text."""
    engine = OpenAiEngine(EngineSettings(url))
    await engine.connect()
    categories = [Category(name=name, definition=name) for name in WRONG[language]]
    operator = operators.create(ModerateSettings(operator="moderate", categories=categories), engine, Prices())
    await operator.prepare()
    judged = await asyncio.gather(*(operator.judge(Passage(text)) for text in texts))
    await engine.close()
    return engine.model, [judgement.decision for judgement in judged]


def route(found: Fit, risk: float) -> Route:
    """What the screen says of a row."""
    if found.pass_below is not None and risk < found.pass_below:
        return "pass"
    return "flag" if found.flag_from is not None and risk >= found.flag_from else "ask"


def run(language: str, url: str, count: int) -> list[dict[str, Any]]:
    """What each goal gives for a set."""
    rows = scored(language).take(slice(count))
    start = time.perf_counter()
    model, said = asyncio.run(decisions(url, language, rows.texts.tolist()))
    seconds = time.perf_counter() - start
    judged = Scored(rows.texts, rows.risk, np.array([decision != "allow" for decision in said]))
    first, rest = judged.take(slice(len(rows) // 2)), judged.take(slice(len(rows) // 2, None))
    results = []
    for goal in GOALS:
        fitted = fit(first.risk, first.flagged, goal)
        measured = measure(fitted, rest)
        pairs = zip(rest.risk.tolist(), rest.flagged.tolist(), strict=True)
        audit = Audit.of([(route(fitted, risk), flag) for risk, flag in pairs], goal)
        results.append(
            {
                "language": language,
                "model": model,
                "recall_target": goal.recall,
                "precision_target": goal.precision,
                "rows": len(rows),
                "judged_per_second": round(len(rows) / seconds),
                "agrees_with_labels": float(np.mean(judged.flagged == rows.flagged)),
                "recall": measured.recall,
                "precision": measured.precision,
                "saved": measured.saved,
                "recall_interval": audit.estimates().recall,
                "doubt": audit.doubt and str(audit.doubt),
                "claims": [str(claim) for claim in fitted.claims],
                "notes": fitted.notes,
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(1, ABSENT)
    files = [DATA / name for name in SETS.values()]
    with tempfile.TemporaryDirectory() as folder, Oracle(Path(folder), files) as oracle:
        results = [each for language in SETS for each in run(language, oracle.url, options.rows)]
    table = Table("set", "model", "recall from", "precision from", "recall", "precision", "calls saved", "like labels")
    for each in results:
        table.add_row(
            each["language"],
            each["model"],
            f"{each['recall_target']:.0%}",
            "" if each["precision_target"] is None else f"{each['precision_target']:.0%}",
            f"{each['recall']:.2%}",
            "" if each["precision"] is None else f"{each['precision']:.2%}",
            f"{each['saved']:.1%}",
            f"{each['agrees_with_labels']:.2%}",
        )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
