"""Ways to ask a model about many categories at once: what each takes, and whether they say the same.

    python -m bench.designs [--rows N] [--engine-url URL] [--file FILE.jsonl] [--json]

All ways have the same instruction, definitions and examples, as the shipped community pipeline has them, and the same
rows, in turns, so that a busy machine slows all of them alike. FILE has `text` and `label`; default: what Weir ships.
"""

import argparse
import asyncio
import json
import math
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.heldout import auc
from deploy.embedded.engine import LlamaEngine
from inference.calibration import Calibration
from inference.engine import Completion, LabelToken, Prompt, Score, Usage, Writing
from inference.openai import EngineSettings, OpenAiEngine
from inference.operators.moderate import ModerateSettings
from inference.prompt import Example
from inference.text import one_line
from streams import pipeline
from streams.cli.main import PIPELINES
from streams.demo.traffic import FINE

SHIPPED = PIPELINES / "community-moderation.yaml"
TRAFFIC = PIPELINES.parent / "traffic" / "community.jsonl"
CONTENT_FREE = ("N/A", "[MASK]", "...")

Row = dict[str, Any]


@dataclass(slots=True)
class Verdict:
    """risk: probability that any rule is broken. label: the most probable category, or the allowed label."""

    risk: float
    label: str


@dataclass(slots=True)
class Taken:
    """What a way took for its rows."""

    verdicts: list[Verdict] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, verdict: Verdict, answers: Sequence[Score | Completion]) -> None:
        self.verdicts.append(verdict)
        self.requests += len(answers)
        for answer in answers:
            self.usage += answer.usage
        self.seconds.append(sum(answer.engine_seconds for answer in answers))


class Designs:
    """The ways, as methods from a text to a verdict and the answers that it took."""

    def __init__(self, settings: ModerateSettings, engine: OpenAiEngine) -> None:
        self._engine = engine
        self._allowed = settings.allowed.name
        self._labels = list(settings.labels())
        self._words = settings.words()
        self._categories = self._labels[1:]
        head = [settings.instruction, *(f"{self._words[n]}: {d}" for n, d in settings.labels().items())]
        self._one = self._shared(head, settings.examples, lambda shot: f" {self._words[shot.label]}")
        self._json = self._shared(head, settings.examples, lambda shot: " " + self._answer(shot.label))
        self._each = self._shared(head, settings.examples, self._lines)
        self._tokens: dict[str, LabelToken] = {}
        self._bias: dict[str, Calibration] = {}
        self._object = self._shared(head, settings.examples, lambda shot: " " + self._flags(shot.label))
        self._label_schema = _schema({"label": [self._words[name] for name in self._labels]})
        self._flag_schema = _schema({self._words[name]: ["yes", "no"] for name in self._categories})

    def _shared(self, head: Sequence[str], shots: Sequence[Example], answer: Callable[[Example], str]) -> str:
        lines = [f"Message: {one_line(shot.text)}\nLabel:{answer(shot)}\n\n" for shot in shots]
        return "\n".join(map(one_line, head)) + "\n\n" + "".join(lines)

    def _answer(self, label: str) -> str:
        return json.dumps({"label": self._words[label]})

    def _flags(self, label: str) -> str:
        return json.dumps({self._words[n]: "yes" if n == label else "no" for n in self._categories})

    def _lines(self, shot: Example) -> str:
        return "".join(f"\n{self._words[n]}: {'yes' if n == shot.label else 'no'}" for n in self._categories)

    async def prepare(self) -> None:
        """Token ids, and the bias of each way that has one."""
        for word in (*self._words.values(), "yes", "no"):
            (token,) = await self._engine.tokenize(f" {word}") or [None]
            self._tokens[word] = LabelToken(f" {word}", token)
        one = [(await self._softmax(text)).logprobs for text in CONTENT_FREE]
        self._bias["one"] = Calibration(one, [1.0] * len(self._labels))
        for name in self._categories:
            rows = [(await self._yes(text, name)).logprobs for text in CONTENT_FREE]
            self._bias[name] = Calibration(rows, [1.0, 1.0])

    async def _softmax(self, text: str) -> Score:
        labels = [self._tokens[self._words[name]] for name in self._labels]
        return await self._engine.score(Prompt(self._one, f"Message: {one_line(text)}\nLabel:"), labels)

    async def _yes(self, text: str, category: str) -> Score:
        """The message comes before the question, so that it is evaluated for the first category only."""
        shared = f"{self._each}Message: {one_line(text)}\nLabel:"
        asked = Prompt(shared, f"\n{self._words[category]}:")
        return await self._engine.score(asked, [self._tokens["yes"], self._tokens["no"]])

    async def one_token(self, text: str) -> tuple[Verdict, list[Score | Completion]]:
        """One token that names the category: probabilities of all of them at that place."""
        score = await self._softmax(text)
        shares = self._bias["one"](score.logprobs)
        return Verdict(1 - shares[0], self._labels[shares.index(max(shares))]), [score]

    async def prompt_a_category(self, text: str) -> tuple[Verdict, list[Score | Completion]]:
        """A yes or no for each category, each a prompt of its own over a cached beginning."""
        scores = [await self._yes(text, name) for name in self._categories]
        shares = [self._bias[n](s.logprobs)[0] for n, s in zip(self._categories, scores, strict=True)]
        return self._most(shares), list(scores)

    async def token_a_category(self, text: str) -> tuple[Verdict, list[Score | Completion]]:
        """One JSON object with a yes or no for each category: a free token each, and those around it."""
        writing = Writing(max_tokens=128, schema=self._flag_schema)
        written = await self._engine.generate(Prompt(self._object, f"Message: {one_line(text)}\nLabel:"), writing)
        chances = [t for t in written.tokens if t.text.strip(' "') in {"yes", "no"}]
        shares = [math.exp(t.logprob) if "yes" in t.text else 1 - math.exp(t.logprob) for t in chances]
        return self._most((shares + [0.5] * len(self._categories))[: len(self._categories)]), [written]

    async def json_answer(self, text: str) -> tuple[Verdict, list[Score | Completion]]:
        """A JSON object that names the category, held to a schema."""
        writing = Writing(max_tokens=32, schema=self._label_schema)
        written = await self._engine.generate(Prompt(self._json, f"Message: {one_line(text)}\nLabel:"), writing)
        try:
            word = orjson.loads(written.text)["label"]
        except (ValueError, KeyError):
            word = self._words[self._allowed]
        label = next(name for name, each in self._words.items() if each == word)
        sure = math.exp(sum(t.logprob for t in written.tokens if t.text.strip(' "') and t.text.strip(' "') in word))
        return Verdict(1 - sure if label == self._allowed else sure, label), [written]

    def _most(self, shares: Sequence[float]) -> Verdict:
        risk = 1 - math.prod(1 - share for share in shares)
        top = max(shares)
        return Verdict(risk, self._categories[shares.index(top)] if top >= 0.5 else self._allowed)


def _schema(fields: dict[str, list[str]]) -> str:
    """JSON schema of an object with these fields, each one of its values."""
    return json.dumps(
        {
            "type": "object",
            "properties": {name: {"enum": values} for name, values in fields.items()},
            "required": list(fields),
            "additionalProperties": False,
        }
    )


def report(rows: Sequence[Row], found: dict[str, Taken]) -> list[dict[str, Any]]:
    """One line for each way. agrees: share of rows with the same label as the first way."""
    bad = [row["label"] not in FINE for row in rows]
    first = next(iter(found.values()))
    lines = []
    for name, taken in found.items():
        risks = [verdict.risk for verdict in taken.verdicts]
        labels = [verdict.label for verdict in taken.verdicts]
        pairs = list(zip(risks, bad, strict=True))
        lines.append(
            {
                "design": name,
                "requests": taken.requests / len(rows),
                "input_tokens": taken.usage.input_tokens / len(rows),
                "new_tokens": (taken.usage.input_tokens - taken.usage.cached_tokens) / len(rows),
                "output_tokens": taken.usage.output_tokens / len(rows),
                "time": statistics.fmean(taken.seconds) / statistics.fmean(first.seconds),
                "auc": auc([r for r, b in pairs if b], [r for r, b in pairs if not b]),
                "same_label_as_people": sum(a == row["label"] for a, row in zip(labels, rows, strict=True)) / len(rows),
                "agrees": sum(a == v.label for a, v in zip(labels, first.verdicts, strict=True)) / len(rows),
            }
        )
    return lines


async def measure(engine: OpenAiEngine, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every way for every row, the ways in random order for each row."""
    settings = pipeline.load(SHIPPED).stages[0].judge
    assert isinstance(settings, ModerateSettings)
    designs = Designs(settings, engine)
    await designs.prepare()
    ways: dict[str, Callable[[str], Awaitable[tuple[Verdict, list[Score | Completion]]]]] = {
        "one token names the category": designs.one_token,
        "one prompt a category": designs.prompt_a_category,
        "one answer, a token a category": designs.token_a_category,
        "one JSON answer": designs.json_answer,
    }
    found = {name: Taken() for name in ways}
    order = list(ways)
    chance = random.Random(1)
    for way in ways.values():  # what all rows share is in the cache before anything counts
        await way("hello")
    for row in track(rows, description="asking", console=Console(stderr=True)):
        chance.shuffle(order)
        for name in order:
            found[name].add(*await ways[name](row["text"]))
    return report(rows, found)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--file", type=Path, default=TRAFFIC)
    parser.add_argument("--engine-url", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [orjson.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    rows = random.Random(1).sample(rows, min(options.rows, len(rows)))
    with ExitStack() as stack:
        url = options.engine_url
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(LlamaEngine(folder)).url
        engine = OpenAiEngine(EngineSettings(url, prompts_in_flight=1))
        await engine.connect()
        lines = await measure(engine, rows)
        await engine.close()
    if options.json:
        print(orjson.dumps(lines, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table(*lines[0], title=f"{len(rows)} rows, {engine.model}")
    for line in lines:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in line.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    asyncio.run(main())
