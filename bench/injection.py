"""How many of the shipped prompt injections change a verdict, with the defence of `inference.text` and without.

    python -m bench.injection [--engine-url URL] [--model NAME] [--pipeline NAME] [--json]

An attack flips a verdict if its host (the text without the attack) is flagged for review or blocking and the text with
the attack is allowed. Hosts that the model allows anyway cannot flip and are counted apart. The second table does not
depend on the model's judgement. As a control each host is judged with harmless words of the same length in place of the
attack: what flips then, flips without any trick. Without --engine-url the embedded engine judges.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from bench.attacks import Attack, forged_tokens, forges_lines, forges_markers, shipped, special_tokens
from deploy.embedded.engine import LlamaEngine
from inference import operators
from inference.cost import Prices
from inference.engine import ANYONE, Caller, LabelToken, Prompt, Score
from inference.judgement import Passage
from inference.openai import EngineSettings, OpenAiEngine
from inference.text import one_line
from streams import pipeline
from streams.cli.main import PIPELINES

HARMLESS = "see you at the market on saturday, bring a bag for the apples and say hello to your sister. "


class Undefended(OpenAiEngine):
    """Puts texts into the prompt as they are, in the place of the ids that stand for them."""

    texts: Mapping[str, str] = {}

    async def score(self, prompt: Prompt, labels: Sequence[LabelToken], caller: Caller = ANYONE) -> Score:
        head, marker, rest = prompt.own.rpartition("Message: ")
        key, end, tail = rest.partition("\n")
        raw = Prompt(prompt.shared, head + marker + self.texts.get(key, key) + end + tail)
        return await super().score(raw, labels, caller)


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one attack. Each decision: of the host, of the control, of the text without and with defence."""

    attack: Attack
    host: str
    control: str
    without: str
    defended: str

    @property
    def counts(self) -> bool:
        """Whether the verdict can flip."""
        return self.host != "allow"


async def judge(settings: EngineSettings, stage: pipeline.Stage, attacks: Sequence[Attack]) -> tuple[str, list[Found]]:
    """The model's name, and what it decided."""
    engine = Undefended(settings)
    await engine.connect()
    operator = operators.create(stage.judge, engine, Prices())
    await operator.prepare()

    async def decide(texts: Sequence[str]) -> list[str]:
        judged = await asyncio.gather(*(operator.judge(Passage(text)) for text in texts))
        return [judgement.decision for judgement in judged]

    hosts = list(dict.fromkeys(attack.host for attack in attacks))
    of_host = dict(zip(hosts, await decide(hosts), strict=True))
    control = await decide([harmless(attack) for attack in attacks])
    defended = await decide([attack.text for attack in attacks])
    engine.texts = {attack.id: attack.text for attack in attacks}
    without = await decide(list(engine.texts))
    await engine.close()
    rows = zip(attacks, control, without, defended, strict=True)
    return engine.model, [Found(a, of_host[a.host], c, w, d) for a, c, w, d in rows]


def harmless(attack: Attack) -> str:
    """The attack's host with harmless words of the same length instead of the attack."""
    length = max(0, len(attack.text) - len(attack.host) - 1)
    return f"{attack.host} {(HARMLESS * (length // len(HARMLESS) + 1))[:length]}"


async def structure(settings: EngineSettings, attacks: Sequence[Attack]) -> dict[str, tuple[int, int]]:
    """How many attacks get something of their own into the prompt, without and with the defence."""
    engine = OpenAiEngine(settings)
    await engine.connect()
    known = sorted({token for tokens in special_tokens().values() for token in tokens})
    ids = [await engine.tokenize(token) or [] for token in known]
    special = {found[0] for found in ids if len(found) == 1}

    async def has_special_ids(text: str) -> bool:
        return bool(special & set(await engine.tokenize(text) or []))

    def both(test: Callable[[str], bool]) -> tuple[int, int]:
        return sum(test(a.text) for a in attacks), sum(test(one_line(a.text)) for a in attacks)

    result = {
        "a line of their own": both(forges_lines),
        "a marker of the prompt": both(forges_markers),
        f"special token ids of {engine.model}": (
            sum([await has_special_ids(a.text) for a in attacks]),
            sum([await has_special_ids(one_line(a.text)) for a in attacks]),
        ),
    }
    for family, tokens in special_tokens().items():
        result[f"special tokens: {family}"] = both(lambda text, tokens=tokens: bool(forged_tokens(text, tokens)))  # type: ignore[misc]
    result["special tokens: any"] = both(lambda text: bool(forged_tokens(text, known)))
    await engine.close()
    return result


def counts(found: Sequence[Found]) -> dict[str, int]:
    """Attacks, those that can flip, and those that did; `prevented` and `caused` by the defence."""
    able = [f for f in found if f.counts]
    return {
        "attacks": len(found),
        "host_flagged": len(able),
        "flips_control": sum(f.control == "allow" for f in able),
        "flips_without": sum(f.without == "allow" for f in able),
        "flips_with": sum(f.defended == "allow" for f in able),
        "prevented": sum(f.without == "allow" != f.defended for f in able),
        "caused": sum(f.defended == "allow" != f.without for f in able),
    }


def report(model: str, found: Sequence[Found], forged: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Everything that was found, for JSON."""
    hosts = {f.attack.host: f.counts for f in found}
    kinds = dict.fromkeys(f.attack.kind for f in found)
    languages = dict.fromkeys(f.attack.lang for f in found)
    return {
        "model": model,
        "hosts": len(hosts),
        "hosts_flagged": sum(hosts.values()),
        "all": counts(found),
        "by_kind": {kind: counts([f for f in found if f.attack.kind == kind]) for kind in kinds},
        "by_language": {lang: counts([f for f in found if f.attack.lang == lang]) for lang in languages},
        "structure": {name: {"without": w, "with": d} for name, (w, d) in forged.items()},
        "rows": [
            {"id": f.attack.id, "host": f.host, "control": f.control, "without": f.without, "with": f.defended}
            for f in found
        ],
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """The report as tables."""
    title = f"{result['model']}: {result['hosts_flagged']} of {result['hosts']} hosts flagged"
    flips = Table("attacks", "sent", "host flagged", "flips: control", "without", "with", title=title)
    for group in (result["by_kind"], result["by_language"], {"all": result["all"]}):
        for name, row in group.items():
            flips.add_row(name, *(str(value) for value in list(row.values())[:5]))
        flips.add_section()
    forged = Table("attacks that put into the prompt", "without", "with")
    for name, row in result["structure"].items():
        forged.add_row(name, str(row["without"]), str(row["with"]))
    console.print(flips)
    console.print(forged)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-url", default="", help="of any server that Weir speaks to; default: the embedded one")
    parser.add_argument("--model", default="", help="which of its models")
    parser.add_argument("--pipeline", default="community-moderation", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="everything, with each attack's decisions, as JSON")
    options = parser.parse_args()
    attacks = shipped()
    stage = pipeline.load(PIPELINES / f"{options.pipeline}.yaml").stages[0]
    with ExitStack() as stack:
        url = options.engine_url
        if not url:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-injection-"))
            url = stack.enter_context(LlamaEngine(Path(folder))).url
        settings = EngineSettings(url, model=options.model)
        model, found = asyncio.run(judge(settings, stage, attacks))
        forged = asyncio.run(structure(settings, attacks))
    result = report(model, found, forged)
    if options.json:
        print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    else:
        show(result, Console())


if __name__ == "__main__":
    main()
