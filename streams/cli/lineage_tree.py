"""A lineage tree for a terminal."""

from rich.tree import Tree

from sinks.lineage import LineageNode
from streams.cli.terminal import inert

_TEXT_CHARACTERS = 160


def render(node: LineageNode) -> Tree:
    """The node and its parents as a tree."""
    tree = Tree(_label(node), guide_style="dim")
    _grow(tree, node)
    return tree


def _grow(tree: Tree, node: LineageNode) -> None:
    for parent in node.parents:
        _grow(tree.add(_label(parent)), parent)


def _label(node: LineageNode) -> str:
    role = f"[dim]{node.role}[/] " if node.role else ""
    facts = {name: inert(str(value)) for name, value in node.facts.items()}
    if node.kind == "verdict":
        return (
            f"{role}[bold]{facts['decision']}[/] {facts['label']} ({float(facts['confidence']):.2f})  "
            f"[dim]{node.row_id}[/]\n"
            f"{facts['pipeline']} {facts['pipeline_version']} / {facts['stage']} ({facts['operator']})\n"
            f"{facts['model']}, prompt {facts['prompt_hash']}\n"
            f"{facts['input_tokens']} tokens in ({facts['cached_tokens']} cached), {facts['output_tokens']} out, "
            f"{float(facts['cost_usd']):.8f} USD, {facts['latency_ms']} ms"
        )
    if node.kind == "source":
        text = node.facts["text"]
        shown = inert(text if len(text) <= _TEXT_CHARACTERS else text[:_TEXT_CHARACTERS] + "…")
        return (
            f"{role}“{shown}”  [dim]{node.row_id}[/]\n"
            f"{facts['topic']}\\[{facts['partition']}]@{facts['offset']}, {facts['source']} {facts['event_id']}, "
            f"{node.facts['event_time']:%Y-%m-%d %H:%M:%S} UTC"
        )
    return f"{role}[red]not in the store[/]  [dim]{node.row_id}[/]"
