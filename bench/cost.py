"""`cost_vs_json`: what a verdict costs the engine, ours over one JSON-answer chat request a message.

Ours is a label token after a prompt whose beginning all rows share. The other is what semantic-operator libraries send:
instruction, definitions and examples in the system message, the text in the user message, and an answer that a JSON
schema holds to label, confidence and a short reason. Same model, same server, same texts in distribution, as many
prompts in flight, taking turns (ABBA), both with prefix caching. Engine seconds are the time of a full engine divided
by the verdicts that it gave.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from statistics import median

from rich.console import Console

from bench.client import Client, Done, Shape, drive, steady
from bench.results import Figure, Section
from bench.saturation import alone
from bench.scrape import scrape
from bench.stand import SHIPPED
from streams import pipeline

NAME = "cost_vs_json"

_IN_FLIGHT = 16
_PROMPTS = 4
_PREFILL = "vllm:request_prefill_time_seconds_sum"
_DECODE = "vllm:request_decode_time_seconds_sum"

Ask = Callable[[Sequence[str]], Awaitable[Done]]


@dataclass(frozen=True, slots=True)
class Turn:
    """Means of one turn, a verdict. cut: the share of answers that were cut at the limit of tokens.

    prefill_seconds, decode_seconds: by vLLM's own histograms; prompts that run together all count the same time.
    """

    engine_seconds: float
    output_tokens: float
    cut: float
    prefill_seconds: float
    decode_seconds: float


def measure(url: str, device: str, seconds: float, pairs: int, console: Console) -> Section:
    """Take turns. device: what the engine runs on. seconds: of one turn, about."""
    return asyncio.run(_measure(url, device, seconds, pairs, console))


async def _measure(url: str, device: str, seconds: float, pairs: int, console: Console) -> Section:
    salts = (f"c{number:03}-" for number in count())
    found: dict[str, list[Turn]] = {"label": [], "json": []}
    async with Client(url, pipeline.load(SHIPPED).stages[0]) as client:
        ways = {
            "label": (client.labels, Shape(_IN_FLIGHT // _PROMPTS, _PROMPTS)),
            "json": (client.json, Shape(_IN_FLIGHT, 1)),
        }
        texts: dict[str, int] = {}
        for name, (ask, shape) in ways.items():  # fills the cache with what is shared, and tells how long a turn takes
            trial = await _turn(url, ask, shape, 2 * _IN_FLIGHT, next(salts))
            texts[name] = max(2 * _IN_FLIGHT, round(seconds / trial.engine_seconds))
        for pair in range(pairs):
            for name in ("label", "json") if pair % 2 == 0 else ("json", "label"):
                turn = await _turn(url, *ways[name], texts[name], next(salts))
                found[name].append(turn)
                console.print(f"  {name}: {turn.engine_seconds * 1000:.1f} ms and {turn.output_tokens:.1f} tokens each")
    label, other = found["label"], found["json"]
    return Section(
        NAME,
        [
            Figure("engine seconds", _ratio(label, other, lambda turn: turn.engine_seconds), "times", at_most=0.35),
            Figure("output tokens", _ratio(label, other, lambda turn: turn.output_tokens), "times"),
            Figure("label, engine time", 1000 * median(turn.engine_seconds for turn in label), "ms"),
            Figure("json, engine time", 1000 * median(turn.engine_seconds for turn in other), "ms"),
            Figure("label, output", median(turn.output_tokens for turn in label), "tokens"),
            Figure("json, output", median(turn.output_tokens for turn in other), "tokens"),
        ],
        {
            "engine": f"vLLM {client.version}",
            "model": client.model,
            "device": device,
            "prompts_in_flight": _IN_FLIGHT,
            "turns": {name: [asdict(turn) for turn in turns] for name, turns in found.items()},
        },
    )


async def _turn(url: str, ask: Ask, shape: Shape, texts: int, salt: str) -> Turn:
    before = await asyncio.to_thread(scrape, url)
    done = await drive(ask, [row["text"] for row in alone(texts, salt)], shape)
    after = await asyncio.to_thread(scrape, url)
    return Turn(
        engine_seconds=1 / steady((answer.at, answer.prompts) for answer in done),
        output_tokens=sum(answer.output_tokens for answer in done) / texts,
        cut=sum(answer.cut for answer in done) / texts,
        prefill_seconds=(after[_PREFILL] - before[_PREFILL]) / texts,
        decode_seconds=(after[_DECODE] - before[_DECODE]) / texts,
    )


def _ratio(ours: Sequence[Turn], theirs: Sequence[Turn], value: Callable[[Turn], float]) -> float:
    return median(value(a) / value(b) for a, b in zip(ours, theirs, strict=True))
