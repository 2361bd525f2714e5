"""Candidates for the screen before the model, on texts that they were not trained on.

    python -m bench.screens [--data FOLDER] [--others PYTHON] [--ship FILE] [--json FILE]

Reads `community_en.jsonl` and `community_pt.jsonl` of FOLDER. Prints AUROC by language, by category and under
disguises, of screens trained on both languages or on one, and messages a second a core. --others: a Python that has
alt-profanity-check and hatesonar, measured beside ours. --ship: train the screen that Weir ships, and write it there.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from bench.community import DATA
from inference.screen.compare import by_language, figures, flags
from inference.screen.model import Card, Features, Screen
from inference.screen.train import Example, Parts, fit, split

OWN = Path(__file__).parents[1] / "deploy" / "traffic" / "community.jsonl"
UNSEEN = [
    Path(__file__).parents[1] / "tests" / "data" / f"community_{name}.jsonl" for name in ("heldout", "calibration")
]

BATCH = 256
OWN_WEIGHT = 20.0  # our few messages must count beside forty thousand tweets

SHIPPED = Card(
    name="community",
    version="1",
    features=Features(),
    categories=("harassment", "hate", "threat", "sexual", "spam"),
    trained_on=(
        "t-davidson/hate-speech-and-offensive-language (English tweets), MIT",
        "JAugusto97/ToLD-Br (Brazilian Portuguese tweets), CC BY-SA 4.0",
        "deploy/traffic/community.jsonl of Weir (English, Portuguese, Spanish, French, German), Apache-2.0",
    ),
    licence="CC BY-SA 4.0",
)

Scorer = Callable[[Sequence[str]], Any]

_LOOK_ALIKE = str.maketrans("aceopxyis", "асеорхуіѕ")
_LEET = str.maketrans("oieastgOIEAST", "01345t90134$7")


def tweets(folder: Path) -> list[Example]:
    """Both community sets, flagged by the share of the annotators' votes."""
    found = []
    for row in rows(folder / "community_en.jsonl"):
        votes = row["votes"]
        found.append(Example(row["text"], 1 - votes["neither"] / sum(votes.values()), 1.0, "en", row["label"]))
    for row in rows(folder / "community_pt.jsonl"):
        votes = row["votes"]
        label = max(votes, key=votes.__getitem__) if row["label"] == "toxic" else "clean"
        found.append(Example(row["text"], min(1.0, max(votes.values()) / 3), 1.0, "pt", label))
    return found


def own(file: Path = OWN, weight: float = OWN_WEIGHT) -> list[Example]:
    """Messages that Weir ships."""
    return [
        Example(row["text"], float(row["label"] not in {"ok", "clean", "neither"}), weight, row["lang"], row["label"])
        for row in rows(file)
    ]


def rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        yield from map(orjson.loads, lines)


def _words(text: str, change: Callable[[str, random.Random], str]) -> str:
    """The text with every word of four letters or more changed; the same text is always changed alike."""
    chance = random.Random(text)
    return " ".join(change(word, chance) if len(word) >= 4 and word.isalpha() else word for word in text.split())


def _repeat(word: str, chance: random.Random) -> str:
    at = chance.randrange(len(word))
    return word[:at] + word[at] * 4 + word[at + 1 :]


def _unseen(word: str, chance: random.Random) -> str:
    at = chance.randrange(1, len(word))
    return word[:at] + chance.choice("\u200b\u2060\u00ad") + word[at:]


DISGUISES: Mapping[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "leet": partial(_words, change=lambda word, chance: word.translate(_LEET)),
    "dots": partial(_words, change=lambda word, chance: ".".join(word)),
    "spaces": partial(_words, change=lambda word, chance: "  " + " ".join(word) + "  "),
    "look-alikes": partial(_words, change=lambda word, chance: word.translate(_LOOK_ALIKE)),
    "zero-width": partial(_words, change=_unseen),
    "repeats": partial(_words, change=_repeat),
}


def auroc(examples: Sequence[Example], scores: Any) -> float:
    flagged = flags(examples)
    return float(roc_auc_score(flagged, scores)) if 0 < flagged.sum() < len(flagged) else float("nan")


def speed(scorer: Scorer, texts: Sequence[str]) -> float:
    """Messages a second of processor time, in batches."""
    begun = time.process_time()
    for start in range(0, len(texts), BATCH):
        scorer(texts[start : start + BATCH])
    return len(texts) / (time.process_time() - begun)


def other(python: Path, code: str) -> Scorer:
    """A library in a Python of its own, which reads texts and writes scores as JSON."""

    def ask(texts: Sequence[str]) -> Any:
        source = (
            f"import sys, json\ntexts = json.load(sys.stdin)\n{code}\njson.dump([float(s) for s in scores], sys.stdout)"
        )
        done = subprocess.run([python, "-c", source], input=orjson.dumps(list(texts)), capture_output=True, check=True)
        return np.array(orjson.loads(done.stdout))

    return ask


OTHERS = {
    "alt-profanity-check": "from profanity_check import predict_prob\nscores = predict_prob(texts)",
    "hatesonar": (
        "from hatesonar import Sonar\nask = Sonar()\n"
        "fine = lambda found: sum(c['confidence'] for c in found['classes'] if c['class_name'] == 'neither')\n"
        "scores = [1 - fine(ask.ping(text)) for text in texts]"
    ),
}


def only(parts: Parts, language: str) -> Parts:
    def chosen(examples: list[Example]) -> list[Example]:
        return [example for example in examples if example.language == language]

    return Parts(chosen(parts.fit), chosen(parts.calibration), parts.held_out)


def candidates(parts: Parts) -> Iterator[tuple[str, Screen]]:
    """Screens of ours: the sizes of n-grams and tables, without normalisation, and trained on one language."""
    card = SHIPPED
    for name, features in (
        ("n-grams 3 to 5, 2^18", Features()),
        ("the same, texts as they are", Features(normalization=0)),
        ("n-grams 2 to 5, 2^18", Features(low=2)),
        ("n-grams 3 to 5, 2^16", Features(bits=16)),
    ):
        yield name, fit(parts, card.model_copy(update={"features": features}))
    for language in ("en", "pt"):
        yield f"3 to 5, 2^18, {language} only", fit(only(parts, language), card)


def measure(name: str, scorer: Scorer, held_out: Sequence[Example], *, clock: bool = True) -> dict[str, Any]:
    """AUROC by language under each disguise, and by category: its rows beside those of its language that are fine."""
    found: dict[str, Any] = {"name": name, "auroc": {}, "categories": {}}
    if clock:  # first, while it remembers no word
        found["messages_per_second"] = speed(scorer, [example.text for example in held_out])
    for disguise, change in DISGUISES.items():
        scores = np.asarray(scorer([change(example.text) for example in held_out]))
        languages = np.array([example.language for example in held_out])
        for language in ("en", "pt"):
            chosen = [example for example in held_out if example.language == language]
            found["auroc"][f"{language} {disguise}"] = auroc(chosen, scores[languages == language])
        if disguise == "plain":
            found["passed"] = {
                language: figures(
                    flags([e for e in held_out if e.language == language]), scores[languages == language]
                ).passed
                for language in ("en", "pt")
            }
            for language, label in sorted({(e.language, e.label) for e in held_out if e.flagged >= 0.5}):
                which = [
                    number
                    for number, e in enumerate(held_out)
                    if e.language == language and (e.label == label or e.flagged < 0.5)
                ]
                some = [held_out[number] for number in which]
                if sum(e.flagged >= 0.5 for e in some) >= 10:
                    found["categories"][f"{language} {label}"] = auroc(some, scores[which])
    if clock:
        found["messages_per_second_again"] = speed(scorer, [example.text for example in held_out])
    return found


def show(found: Sequence[Mapping[str, Any]]) -> None:
    console = Console(width=200)
    table = Table(
        "AUROC",
        *(name.replace("look-alikes", "alike") for name in found[0]["auroc"]),
        "passed en",
        "passed pt",
        "msg/s, new words",
        "msg/s, known",
    )
    for each in found:
        passed = (f"{each['passed'][language] or 0:.2f}" for language in ("en", "pt"))
        rates = [each.get(f"messages_per_second{which}") for which in ("", "_again")]
        table.add_row(
            each["name"],
            *(f"{a:.3f}" for a in each["auroc"].values()),
            *passed,
            *(f"{rate:,.0f}" if rate else "-" for rate in rates),
        )
    console.print(table)
    table = Table("AUROC by category", *found[0]["categories"])
    for each in found:
        table.add_row(each["name"], *(f"{a:.3f}" for a in each["categories"].values()))
    console.print(table)


def ship(folder: Path, file: Path) -> None:
    """Train what Weir ships; print its figures on texts that were held out.

    The labels of the tweets are not the categories of our messages, so they teach none.
    """
    parts = split([replace(tweet, label="") for tweet in tweets(folder)] + own())
    screen = fit(parts, SHIPPED)
    file.write_bytes(screen.dump())
    console = Console(width=160)
    held = [example for example in parts.held_out if example.weight == 1]
    ours = [example for example in parts.held_out if example.weight != 1]
    seen = [example for example in own() if example not in ours]
    for title, examples in (
        ("tweets, held out", held),
        ("shipped messages, held out", ours),
        ("shipped messages, fitted to", seen),
        *((f"tests/data/{file.name}", own(file)) for file in UNSEEN),
    ):
        table = Table(
            "language", "rows", "to be flagged", "AUROC", "average precision", "passed at 95%", "Brier", title=title
        )
        risks = screen.risks([example.text for example in examples])
        for each in by_language(examples, risks):
            rates = ("-" if rate is None else f"{rate:.3f}" for rate in (each.auroc, each.precision, each.passed))
            table.add_row(each.language or "all", str(each.rows), str(each.flagged), *rates, f"{each.brier:.3f}")
        console.print(table)
        right = (risks >= 0.5) == flags(examples)
        console.print(f"agreement at 0.5: {right.mean():.3f}{_categories(screen, examples)}")
    console.print(f"{file}: {file.stat().st_size:,} bytes")


def _categories(screen: Screen, examples: Sequence[Example]) -> str:
    """How many flagged texts have the category that the screen gives the highest probability."""
    known = [example for example in examples if example.label in screen.card.categories]
    if not known:
        return ""
    best = screen.scores([example.text for example in known])[:, 1:].argmax(axis=1)
    right = sum(screen.card.categories[i] == example.label for i, example in zip(best, known, strict=True))
    return f"; category right of {right} of {len(known)} flagged texts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--others", type=Path, help="a Python with alt-profanity-check and hatesonar")
    parser.add_argument("--ship", type=Path, help="write the shipped screen to this file, and nothing else")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    if not (options.data / "community_en.jsonl").exists():
        sys.exit(f"no community sets in {options.data}: nothing to measure on")
    if options.ship:
        ship(options.data, options.ship)
        return
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    parts = split(tweets(options.data))
    found = []
    for name, screen in candidates(parts):
        found.append(measure(name, screen.risks, parts.held_out))
        show(found[-1:])
    if options.others:
        for name, code in OTHERS.items():
            try:
                found.append(measure(name, other(options.others, code), parts.held_out, clock=False))
            except subprocess.CalledProcessError as error:
                print(f"{name} did not run: {error.stderr.decode().strip().splitlines()[-1:]}", file=sys.stderr)
    show(found)
    if options.json:
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
