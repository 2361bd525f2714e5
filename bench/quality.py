"""The shipped screen alone: on community rows that it has never seen, and on the shipped prompt injections.

    python -m bench.quality [--verdicts FILE] [--json FILE]

Community: whether a row is flagged by the annotators, with intervals as `weir eval` has them. Injection: the screen was
not made for it; every text of the set is against the rules, so the share that it flags is its recall there, and the
share that it would let pass is what a cascade would lose, with thresholds fitted to Portuguese rows, whose share of
flagged ones is like that of a community. --verdicts: what `python -m bench.injection --json` printed, to tell how many
of the attacks that the model allows the screen flags.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.attacks import shipped
from bench.community import ABSENT, DATA, SCREEN, SETS, Scored, scored
from inference.cascade.guarantee import Goal, fit
from inference.evaluation.answers import Binary
from inference.evaluation.intervals import Measured, bootstrapped, f1, share
from inference.evaluation.page import figure
from inference.evaluation.statistics import of_binary
from inference.screen.model import load

FLAGGED_FROM = 0.5
GOAL = Goal(0.95)


def community(rows: Scored) -> dict[str, Measured]:
    """Figures of the screen where it flags each risk of a half or more."""
    said = rows.risk >= FLAGGED_FROM
    hits, chosen, true = int((said & rows.flagged).sum()), int(said.sum()), int(rows.flagged.sum())
    areas = {name: each for name, each in of_binary(Binary(rows.risk, said, rows.flagged)).items() if "au" in name}
    return {
        "precision": share(hits, chosen),
        "recall": share(hits, true),
        "f1": f1(hits, chosen + true - 2 * hits),
        **bootstrapped(areas, len(rows), min(true, len(rows) - true)),
    }


def injection(pass_below: float, verdicts: Sequence[dict[str, Any]]) -> dict[str, Measured]:
    """Shares of the attacks and of their hosts."""
    attacks, screen = shipped(), load(SCREEN)
    hosts = list(dict.fromkeys(attack.host for attack in attacks))
    risks: dict[str, NDArray[np.float64]] = {
        "hosts": screen.risks(hosts),
        "attacks": screen.risks([attack.text for attack in attacks]),
    }
    found = {}
    for name, each in risks.items():
        found[f"{name} flagged by the screen"] = share(int((each >= FLAGGED_FROM).sum()), len(each))
        found[f"{name} that it would let pass"] = share(int((each < pass_below).sum()), len(each))
    of_host = dict(zip(hosts, risks["hosts"] >= FLAGGED_FROM, strict=True))
    able = np.array([of_host[attack.host] for attack in attacks])
    found["attacks not flagged whose host is"] = share(
        int((risks["attacks"][able] < FLAGGED_FROM).sum()), int(able.sum())
    )
    if verdicts:
        said = {row["id"]: row["with"] for row in verdicts}
        allowed = np.array([said[attack.id] == "allow" for attack in attacks])
        flagged = risks["attacks"] >= FLAGGED_FROM
        found["attacks flagged by the model"] = share(int((~allowed).sum()), len(attacks))
        found["attacks flagged by either"] = share(int((~allowed | flagged).sum()), len(attacks))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=Path, help="JSON of bench.injection")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    if not DATA.is_dir():
        parser.exit(1, ABSENT)
    sets = {language: scored(language) for language in SETS}
    found: dict[str, Any] = {language: community(rows) for language, rows in sets.items()}
    fitted = fit(sets["pt"].risk, sets["pt"].flagged, GOAL).pass_below
    verdicts = json.loads(options.verdicts.read_text(encoding="utf-8"))["rows"] if options.verdicts else []
    found["injection"] = injection(fitted or 0.0, verdicts)
    table = Table("", "", "figure [95% interval]", "of", title=f"the screen alone; lets pass below {fitted}")
    for name, figures in found.items():
        for metric, each in figures.items():
            table.add_row(name, metric, figure(each).replace("[", r"\["), f"{each.rows:,}")
        table.add_section()
    Console(width=100).print(table)
    if options.json:
        values = {name: {m: [e.value, e.low, e.high] for m, e in figures.items()} for name, figures in found.items()}
        options.json.write_text(json.dumps({"pass_below": fitted, **values}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
