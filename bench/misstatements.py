"""How many planted misstatements the check of claims finds: precision and recall over the calls that Weir ships.

    python -m bench.misstatements [--engine-url URL] [--calls N] [--json]

Every claim is made as the pipeline makes it, with the words before it, and checked against the document of its call by
the operator of deploy/pipelines/call-review.yaml. Sentences that people gave no label are left out.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.heldout import auc
from deploy.embedded.engine import LlamaEngine
from inference import operators
from inference.cost import Prices
from inference.dialogue import SmallTalk
from inference.judgement import Passage
from inference.openai import EngineSettings, OpenAiEngine
from streams import pipeline
from streams.cli.main import PIPELINES
from streams.cut import cut
from streams.decode import Event, decode
from streams.demo.calls import CONTRADICTED, Call, shipped
from streams.records import TextMessage, TurnText

REVIEW = PIPELINES / "call-review.yaml"

_ALL = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """A labelled claim, ready to be checked."""

    lang: str
    label: str
    passage: Passage


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said of a claim. risk: probability that it is contradicted."""

    claim: Claim
    label: str
    risk: float


@dataclass(slots=True)
class _Message:
    """A call as one message, as it would come from Kafka."""

    value: bytes
    topic: str = "calls.transcripts"
    partition: int = 0
    offset: int = 0
    timestamp: float | None = 1_700_000_000.0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


def claims(calls: Iterable[Call], documents: Iterable[dict[str, Any]]) -> Iterator[Claim]:
    """The labelled claims of calls, as the pipeline's stages cut them."""
    texts = {(row["tenant"], row["id"]): row["text"] for row in documents}
    into, parts = (stage.cut for stage in pipeline.load(REVIEW).stages if stage.cut is not None)
    for call in calls:
        labels = {(claim["turn"], claim["text"]): claim["label"] for claim in call["claims"]}
        document = "\n\n".join(texts[call["tenant"], name] for name in call["documents"])
        for exchange in cut(into, SmallTalk(into.small_talk), _event(_message(call))).kept:
            for piece in cut(parts, SmallTalk(parts.small_talk), _event(exchange.message)).kept:
                found = piece.message
                if (found.turn, found.text) in labels:
                    passage = Passage(found.text, found.context, document=document)
                    yield Claim(call["lang"], labels[found.turn or 0, found.text], passage)


def _message(call: Call) -> TextMessage:
    turns = tuple(TurnText(text=turn["text"], speaker=turn["speaker"]) for turn in call["turns"])
    return TextMessage(id=call["call"], thread=call["call"], turns=turns)


def _event(message: TextMessage) -> Event:
    return decode(_Message(message.encode()))


async def check(url: str, wanted: Sequence[Claim]) -> tuple[str, list[Said]]:
    """The engine's model, and what it says of the claims."""
    engine = OpenAiEngine(EngineSettings(url=url))
    await engine.connect()
    stage = next(stage for stage in pipeline.load(REVIEW).stages if stage.task == "check")
    assert stage.judge is not None
    operator = operators.create(stage.judge, engine, Prices())
    try:
        await operator.prepare()
        said = []
        for claim in track(wanted, "checking", console=Console(stderr=True)):
            judgement = await operator.judge(claim.passage)
            said.append(Said(claim, judgement.label, judgement.scores[CONTRADICTED]))
        return engine.model, said
    finally:
        await engine.close()


def measures(said: Sequence[Said]) -> dict[str, Any]:
    """Of `contradicted`: precision, recall and the area under the ROC curve; and the share of labels that agree."""
    planted = [one.claim.label == CONTRADICTED for one in said]
    risks = [
        [one.risk for one, is_planted in zip(said, planted, strict=True) if is_planted is kind]
        for kind in (True, False)
    ]
    called = [one.label == CONTRADICTED for one in said]
    right = sum(a and b for a, b in zip(planted, called, strict=True))
    return {
        "claims": len(said),
        "planted": sum(planted),
        "called": sum(called),
        "precision": round(right / sum(called), 3) if any(called) else None,
        "recall": round(right / sum(planted), 3) if any(planted) else None,
        "auc": round(auc(*risks), 3),
        "same_label": round(sum(one.label == one.claim.label for one in said) / len(said), 3),
        "always_most_frequent": round(Counter(one.claim.label for one in said).most_common(1)[0][1] / len(said), 3),
    }


def main() -> None:
    """Check the claims and print the measures, of all languages and of each."""
    options = argparse.ArgumentParser(prog="misstatements")
    options.add_argument("--engine-url", default="")
    options.add_argument("--calls", type=int, default=_ALL, help="so many of each language")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args()
    wanted = list(claims(*shipped(chosen.calls)))
    with ExitStack() as stack:
        url = chosen.engine_url
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-")))
            url = stack.enter_context(LlamaEngine(folder)).url
        model, said = asyncio.run(check(url, wanted))
    found = {"all": measures(said)}
    found |= {
        lang: measures([s for s in said if s.claim.lang == lang]) for lang in dict.fromkeys(c.lang for c in wanted)
    }
    if chosen.json:
        print(orjson.dumps({"model": model, **found}).decode())
        return
    table = Table(title=f"{model}, claims of shipped calls")
    for name in ("language", *found["all"]):
        table.add_column(name)
    for lang, values in found.items():
        table.add_row(lang, *(str(value) for value in values.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
