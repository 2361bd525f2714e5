"""A lineage tree for a terminal."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.tree import Tree

from sinks.lineage import LineageNode
from sinks.lineage_costs import StageCosts, costs, total
from streams.cli.terminal import inert

_TEXT_CHARACTERS = 160
_EVIDENCE_CHARACTERS = 240
_SIDE_BY_SIDE = 12  # rows of one role under one node; the rest is only counted
_COMMENT_CHARACTERS = 160
_REVIEWS = 12  # of one verdict; the last ones
_ROWS = 400  # in a tree
_ROUNDING_MS = 2  # of two times and the time between them


def shown(node: LineageNode) -> RenderableType:
    """The tree of a row, and below it what each stage took."""
    parts: list[RenderableType] = [render(node)]
    if node.cut:
        parts.append("[yellow]There is more: the tree is too large to be read to its end.[/]")
    if stages := costs(node):
        parts += ["", costs_table(stages)]
    return Group(*parts)


def render(node: LineageNode) -> Tree:
    """The node and what is linked to it, as a tree. Long lists of rows are cut, and say how many are left out."""
    tree = Tree(_label(node), guide_style="dim")
    _grow(tree, node, _ROWS)
    return tree


def costs_table(stages: Sequence[StageCosts]) -> Table:
    """What each stage took, and a last line with the sum."""
    table = Table("stage", box=None, header_style="dim", pad_edge=False)
    for title in ("rows", "tokens in", "cached", "out", "USD", "engine", "after the event"):
        table.add_column(title, justify="right")
    for stage in stages:
        table.add_row(*_costs(stage))
    table.add_row(*_costs(total(stages)), style="bold")
    return table


def _costs(stage: StageCosts) -> list[str]:
    tokens = (stage.input_tokens, stage.cached_tokens, stage.output_tokens)
    spent = [*(f"{count:,}" for count in tokens), f"{stage.cost_usd:.8f}", f"{stage.engine_seconds:.3f} s"]
    judged = stage.input_tokens or stage.cost_usd or stage.engine_seconds
    return [inert(stage.stage), f"{stage.rows:,}", *(spent if judged else [""] * len(spent)), _ms(stage.latency_ms)]


def _grow(tree: Tree, node: LineageNode, room: int) -> int:
    """Add what is linked to the node. room: how many rows may be added. Returns how many are left."""
    for _, group in groupby(node.linked, lambda linked: linked.role):
        rows = list(group)
        fit = len(rows) if len(rows) <= _SIDE_BY_SIDE + 1 else _SIDE_BY_SIDE  # "1 more" takes as much room as that one
        told = rows[: max(0, min(room, fit))]
        room -= len(told)
        for linked in told:
            room = _grow(tree.add(_label(linked)), linked, room)
        if rest := rows[len(told) :]:
            tree.add(f"[dim]{_role(rest[0])}… {len(rest):,} more{_turns(rest)}[/]")
    return room


def _turns(nodes: Sequence[LineageNode]) -> str:
    """From which turn to which they are, if all are turns."""
    numbers = [node.facts.get("turn") for node in nodes if node.kind == "source"]
    known = [number for number in numbers if number is not None]
    return f", turns {min(known)} to {max(known)}" if len(known) == len(nodes) else ""


def _role(node: LineageNode) -> str:
    if not node.role or (node.role == node.kind and node.direction == "parents"):
        return ""
    return f"{node.role} of " if node.direction == "children" else f"{node.role} "


def _label(node: LineageNode) -> str:
    role = f"[dim]{_role(node)}[/]"
    if node.repeated:
        return f"{role}{_name(node)}  [dim]{node.row_id}, as above[/]"
    lines = [f"{role}{_title(node)}  [dim]{node.row_id}[/]", *_details(node)]
    return "\n".join(filter(None, lines))


def _title(node: LineageNode) -> str:
    facts = node.facts
    if facts.get("erased_at"):
        return f"{_name(node)}: [yellow]erased on {facts['erased_at']:%Y-%m-%d} by request[/]"
    if node.kind == "source":
        who = ", ".join(filter(None, [_name(node), inert(facts["author"])]))
        return f"{who}: “{_cut(facts['text'], _TEXT_CHARACTERS)}”"
    return _name(node)


def _name(node: LineageNode) -> str:
    """What a row is, in a few words."""
    facts = node.facts
    if node.kind == "verdict":
        decision = " ".join(filter(None, [f"[bold]{inert(facts['decision'])}[/]", inert(facts["label"])]))
        return f"{decision} ({facts['confidence']:.2f})"
    if node.kind == "source":
        what = str(facts["what"])
        return what if facts["turn"] is None else f"{what}{' of turn' if what == 'claim' else ''} {facts['turn']}"
    if node.kind == "document":
        return f"document {inert(facts['document'])}" + (", withdrawn" if facts["withdrawn"] else "")
    if node.kind == "call":
        return f"transcript of {inert(facts['call'])}, not read yet"
    return "[red]not in the store[/]"


def _details(node: LineageNode) -> list[str]:
    facts = node.facts
    if node.kind == "verdict":
        reviews = [*map(_review, facts.get("reviews", ()))]
        return [*_verdict(facts), *map(_version, facts.get("versions", ())), *reviews[-_REVIEWS:]]
    if node.kind == "source":
        origin = (
            f"made by {facts['made_by']}" if facts["made_by"] else f"{facts['source']} {facts['event_id']}".rstrip()
        )
        line = f"{_place(facts)}, {inert(origin)}, {_time(facts['event_time'])}"
        return [line, *([_call(facts["call"])] if "call" in facts else [])]
    if node.kind == "document":
        return [f"held from {_time(facts['held_from'])}, {_place(facts)}"]
    return [_call(facts)] if node.kind == "call" else []


def _verdict(facts: Mapping[str, Any]) -> list[str]:
    stage = f"{facts['pipeline']} {facts['pipeline_version']} / {facts['stage']} ({facts['operator']})"
    prompt = f"{facts['prompt_version']} {facts['prompt_hash']}".lstrip()
    tokens = f"{facts['input_tokens']} tokens in ({facts['cached_tokens']} cached), {facts['output_tokens']} out"
    spent = f"{facts['cost_usd']:.8f} USD, engine {facts['engine_seconds']:.3f} s"
    lines = [
        f"{inert(stage)}, {_time(facts['judged_at'])}",
        f"{inert(facts['model'])}, prompt {inert(prompt)}",
        f"{tokens}, {spent}, {_ms(facts['latency_ms'])} after {_began(facts)}",
    ]
    if evidence := facts["output"].get("evidence"):
        lines.append(f"evidence: “{_cut(str(evidence), _EVIDENCE_CHARACTERS)}”")
    return lines


def _began(facts: Mapping[str, Any]) -> str:
    """From when on the latency of a verdict counts."""
    passed = int((facts["judged_at"] - facts["event_time"]).total_seconds() * 1000)
    return "the event" if passed <= facts["latency_ms"] + _ROUNDING_MS else "it was asked for anew"


def _version(old: Mapping[str, Any]) -> str:
    was = f"{old['decision']} {old['label']}".rstrip() + f" ({old['confidence']:.2f})"
    prompt = old["prompt_version"] or old["prompt_hash"]
    return f"[dim]before: {inert(was)}, {inert(old['model'])}, prompt {inert(prompt)}, {_time(old['judged_at'])}[/]"


def _review(review: Mapping[str, Any]) -> str:
    said = inert(f"{review['decision']} {review['label']}".rstrip())
    why = f": “{_cut(review['comment'], _COMMENT_CHARACTERS)}”" if review["comment"] else ""
    return f"[bold]review: {said}[/] by {inert(review['reviewer'])}, {_time(review['reviewed_at'])}{why}"


def _place(facts: Mapping[str, Any]) -> str:
    return inert(f"{facts['topic']}[{facts['partition']}]@{facts['offset']}")


def _call(facts: Mapping[str, Any]) -> str:
    missing = f", {facts['missing']} missing" if facts["missing"] else ""
    return f"{facts['turns']} turns{missing}, closed by {inert(facts['closed_by'])}, {_time(facts['closed_at'])}"


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _ms(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:,.0f} s"


def _cut(text: str, characters: int) -> str:
    """The text as one line of a limited length."""
    line = " ".join(text[: 4 * characters].split())
    return inert(line if len(line) <= characters and len(text) <= 4 * characters else line[:characters] + "…")
