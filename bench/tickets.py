"""Tickets of 77 intents: the embedded model, which was never trained for them, beside a model that was.

    python -m bench.tickets [--rows N] [--examples N] [--engine-url URL] [--json FILE]

Reads `tickets_en.jsonl` of ../shared/data (Banking77). N rows by chance are judged by `weir eval` with a pipeline of
one `classify` stage, which is made from the names of the labels and one example of each, taken from the other rows.
All other rows train the floor: logistic regression on character n-grams, which any large model should beat.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from bench.community import DATA

FILE = DATA / "tickets_en.jsonl"
AT_ONCE = 8  # rows; a prompt of so many labels takes the embedded engine long

Row = dict[str, Any]


def name(label: str) -> str:
    """The label as a pipeline may call it: in lower case, without other signs, of 40 characters at most."""
    return "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_")[:40]


def parts(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Rows to judge, and all others, both in an order by chance."""
    order = random.Random(1).sample(list(rows), len(rows))
    return order[:count], order[count:]


def made(others: Sequence[Row], examples: int) -> dict[str, Any]:
    """The pipeline file."""
    labels = sorted({row["label"] for row in others})
    shown = {label: [row["text"] for row in others if row["label"] == label][:examples] for label in labels}
    return {
        "name": "tickets-77",
        "version": "1",
        "description": "Questions of a bank's customers, by intent.",
        "source": "tickets.messages",
        "sla": "5m",
        "stages": [
            {
                "name": "intent",
                "writes": "tickets.intents",
                "judge": {
                    "operator": "classify",
                    "instruction": "A bank sorts its customers' questions. Give each message one label.",
                    "classes": [{"name": name(label), "definition": label.replace("_", " ")} for label in labels],
                    "examples": [
                        {"label": name(label), "text": shown[label][turn]}
                        for turn in range(examples)
                        for label in labels
                    ],
                },
            }
        ],
    }


def floor(others: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """What a model says that learned from the other rows."""
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    model = make_pipeline(grams, LogisticRegression(C=10, max_iter=300))
    model.fit([row["text"] for row in others], [name(row["label"]) for row in others])
    return [str(label) for label in model.predict([row["text"] for row in rows])]


def evaluated(rows: Sequence[Row], pipeline: dict[str, Any], url: str) -> dict[str, Any]:
    """What `weir eval` says of the stage."""
    with tempfile.TemporaryDirectory() as folder:
        file, data = Path(folder) / "tickets-77.yaml", Path(folder) / "rows.jsonl"
        file.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
        lines = [json.dumps({**row, "label": name(row["label"])}) for row in rows]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        engine = ["--engine", f"engine={url}"] if url else ["--embedded"]
        command = [sys.executable, "-m", "streams", "eval", "--data", str(data), "-p", str(file), *engine]
        command += ["--no-store", "--json", "--journal", str(Path(folder) / "journal"), "--at-once", str(AT_ONCE)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    subject: dict[str, Any] = json.loads(done.stdout)["subjects"][0]
    return subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--examples", type=int, default=1, help="of each label in the prompt (%(default)s)")
    parser.add_argument("--engine-url", default="", help="default: the embedded engine")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    if not FILE.exists():
        parser.exit(1, f"{FILE.name} is not beside this checkout (../shared/data): nothing to measure\n")
    rows, others = parts([json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()], options.rows)
    truth, said = [name(row["label"]) for row in rows], floor(others, rows)
    right = binomtest(sum(t == s for t, s in zip(truth, said, strict=True)), len(rows))
    low, high = right.proportion_ci(method="exact")
    found = {
        "rows": len(rows),
        "labels": len({row["label"] for row in others}),
        "floor": {
            "trained_on": len(others),
            "accuracy": {"value": right.statistic, "low": low, "high": high},
            "macro_f1": {"value": f1_score(truth, said, average="macro", labels=sorted(set(truth)))},
        },
    }
    subject = evaluated(rows, made(others, options.examples), options.engine_url)
    found["model"] = {"name": subject["model"], "given_up": subject["given_up"], **subject["overall"]["metrics"]}
    table = Table("", "accuracy", "macro F1", title=f"{found['labels']} intents, {len(rows)} rows")
    for title, each in ((subject["model"], found["model"]), ("character n-grams, trained", found["floor"])):
        accuracy = each["accuracy"]
        told = f"{accuracy['value']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})"
        table.add_row(title, told, f"{each['macro_f1']['value']:.3f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
