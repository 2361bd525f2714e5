"""The demo's calls: what is published of them, and everything that came back."""

import importlib.resources
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from inference.dialogue import SmallTalk, Turn, exchanges
from streams.pipeline import Cut, Pipeline
from streams.produce import read_rows
from streams.topics import dead_letters
from streams.turns import turns_of

_A_LANGUAGE = 1
_AGO = timedelta(minutes=10)
CONTRADICTED = "contradicted"

Call = dict[str, Any]


def shipped(a_language: int = _A_LANGUAGE) -> tuple[list[Call], list[dict[str, Any]]]:
    """Calls that Weir ships, so many of each language, and all documents."""
    folder = importlib.resources.files("deploy") / "traffic"
    calls = list(read_rows((folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()))
    documents = list(read_rows((folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()))
    seen: Counter[str] = Counter()
    chosen = []
    for call in calls:
        seen[call["lang"]] += 1
        if seen[call["lang"]] <= a_language:
            chosen.append(call)
    return chosen, documents


@dataclass(slots=True)
class Calls:
    """What a producer of turns and a reader of the results know.

    transcripts: by call and row; findings, summaries, escalations: by row id. copies: how often each row came.
    """

    pipeline: Pipeline
    calls: Sequence[Call]
    documents: Sequence[dict[str, Any]]
    transcripts: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    escalations: dict[str, dict[str, Any]] = field(default_factory=dict)
    copies: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: int = 0

    def messages(self, chance: random.Random) -> list[dict[str, Any]]:
        """The turns of all calls, in any order."""
        began = datetime.now(UTC) - _AGO
        messages = [message for call in self.calls for message in turns_of(call, began)]
        chance.shuffle(messages)
        return messages

    @property
    def topics(self) -> list[str]:
        """Where results come from."""
        return [
            *self._kinds(),
            *dict.fromkeys(dead_letters(self.pipeline.reads(stage)) for stage in self.pipeline.stages),
        ]

    def forget(self) -> None:
        """Begin anew to receive."""
        for kept in (self.transcripts, self.findings, self.summaries, self.escalations, self.copies):
            kept.clear()
        self.dead = 0

    def receive(self, message: Any) -> None:
        """A message of one of the topics."""
        kind = self._kinds().get(message.topic)
        if kind is None:
            self.dead += 1
            return
        body = orjson.loads(message.value)
        self.copies[kind, body.get("row_id") or body["id"]] += 1
        match kind:
            case "assemble":
                self.transcripts.setdefault(body["thread"], {})[body["id"]] = body["turns"]
            case "check":
                self.findings[body["row_id"]] = body
            case "summarize":
                self.summaries[body["row_id"]] = body
            case "escalate":
                self.escalations[body["row_id"]] = body

    @property
    def turns(self) -> int:
        """Turns in all calls."""
        return sum(len(call["turns"]) for call in self.calls)

    @property
    def claims(self) -> int:
        """Claims that the pipeline should find in them."""
        return sum(1 for call in self.calls for _ in self.claims_of(call))

    @property
    def lost(self) -> int:
        """Turns that no transcript has, claims without a finding, calls without a summary."""
        turns = sum((_said(call) - self._assembled(call)).total() for call in self.calls)
        return turns + max(0, self.claims - len(self.findings)) + max(0, len(self.calls) - len(self.summaries))

    @property
    def duplicated(self) -> int:
        """Rows that came more than once, and turns that stand in a call twice."""
        twice = sum(self.copies.values()) - len(self.copies)
        return twice + sum((self._assembled(call) - _said(call)).total() for call in self.calls)

    def agreement(self) -> dict[str, int]:
        """How many misstatements were planted and how many claims were called so, rightly and wrongly."""
        said = {(f["thread"], f["output"]["claim"]) for f in self.findings.values() if f["label"] == CONTRADICTED}
        planted = {(call["call"], claim["text"]) for call in self.calls for claim in call["claims"] if claim["planted"]}
        return {"planted": len(planted), "found": len(said & planted), "wrongly": len(said - planted)}

    def total(self, name: str) -> float:
        """Sum of a number of the usage over findings and summaries."""
        return sum(float(v["usage"][name]) for v in (*self.findings.values(), *self.summaries.values()))

    @property
    def cost_usd(self) -> float:
        """US dollars of findings and summaries."""
        return sum(float(v["cost_usd"]) for v in (*self.findings.values(), *self.summaries.values()))

    def as_dict(self) -> dict[str, Any]:
        """The account as plain values, for JSON."""
        return {
            "calls": len(self.calls),
            "turns": self.turns,
            "assembled": len(self.transcripts),
            "findings": len(self.findings),
            "escalations": len(self.escalations),
            "summaries": len(self.summaries),
            "misstatements": self.agreement(),
            "tokens_in": int(self.total("input_tokens")),
            "tokens_out": int(self.total("output_tokens")),
            "cost_usd": round(self.cost_usd, 8),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "dead_lettered": self.dead,
        }

    def _kinds(self) -> dict[str, str]:
        kinds = {stage.writes: stage.task for stage in self.pipeline.stages if stage.cut is None}
        return kinds | {stage.escalate.writes: "escalate" for stage in self.pipeline.stages if stage.escalate}

    def _assembled(self, call: Call) -> Counter[tuple[int, str]]:
        versions = self.transcripts.get(call["call"], {}).values()
        return Counter((turn["turn"], turn["text"]) for turn in max(versions, key=len, default=[]))

    def claims_of(self, call: Call) -> Iterator[str]:
        """The claims that the pipeline should find in a call."""
        cut = next(stage.cut for stage in self.pipeline.stages if stage.cut is not None)
        small_talk = SmallTalk(cut.small_talk)
        turns = [Turn(number, turn["speaker"], turn["text"]) for number, turn in enumerate(call["turns"])]
        for exchange in exchanges(turns, cut.answers):
            yield from _answers(exchange.turns, cut, small_talk)


def _answers(turns: Iterable[Turn], cut: Cut, small_talk: SmallTalk) -> Iterator[str]:
    for turn in turns:
        if turn.speaker in cut.answers:
            yield from small_talk.divide(turn.text)[0]


def _said(call: Call) -> Counter[tuple[int, str]]:
    return Counter((number, turn["text"]) for number, turn in enumerate(call["turns"]))
