"""A lineage tree as a terminal shows it."""

import io
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from sinks.lineage import LineageNode
from streams.cli.lineage_tree import render

VERDICT = {
    "decision": "block",
    "label": "spam",
    "confidence": 0.875,
    "pipeline": "watch",
    "pipeline_version": "7",
    "stage": "moderate",
    "operator": "moderate",
    "model": "m-1",
    "prompt_hash": "a1",
    "input_tokens": 30,
    "cached_tokens": 20,
    "output_tokens": 1,
    "cost_usd": 0.000014,
    "latency_ms": 5,
}
SOURCE = {
    "text": "buy coins",
    "topic": "messages",
    "partition": 3,
    "offset": 41,
    "source": "/forum",
    "event_id": "e-1",
    "event_time": datetime(2026, 3, 4, 5, 6, 7, 89_000),  # noqa: DTZ001  as the store gives it
}


def source(row_id: str = "s-1", role: str = "input", **facts: Any) -> LineageNode:
    return LineageNode(row_id, "source", role, SOURCE | facts)


def shown(node: LineageNode) -> str:
    file = io.StringIO()
    Console(file=file, width=400, color_system=None).print(render(node))
    return file.getvalue()


def test_a_verdict_stands_above_its_words_and_their_context() -> None:
    tree = LineageNode("v-1", "verdict", "", VERDICT, [source(), source("s-0", "context", text="hello", offset=40)])
    lines = [line.strip() for line in shown(tree).splitlines()]
    assert lines == [
        "block spam (0.88)  v-1",
        "watch 7 / moderate (moderate)",
        "m-1, prompt a1",
        "30 tokens in (20 cached), 1 out, 0.00001400 USD, 5 ms",
        "├── input “buy coins”  s-1",
        "│   messages[3]@41, /forum e-1, 2026-03-04 05:06:07 UTC",
        "└── context “hello”  s-0",
        "messages[3]@40, /forum e-1, 2026-03-04 05:06:07 UTC",
    ]


def test_a_row_that_is_missing() -> None:
    assert shown(LineageNode("x-1", "missing", "input", {})).strip() == "input not in the store  x-1"


def test_parents_of_parents() -> None:
    inner = LineageNode("v-1", "verdict", "input", VERDICT, [source()])
    lines = shown(LineageNode("v-2", "verdict", "", VERDICT, [inner])).splitlines()
    assert any(line.startswith("    └── input “buy coins”") for line in lines)


@pytest.mark.parametrize(("length", "expected"), [(160, "x" * 160), (161, "x" * 160 + "…")])
def test_long_words_are_cut(length: int, expected: str) -> None:
    assert f"“{expected}”" in shown(source(text="x" * length))


@pytest.mark.parametrize("text", ["[bold]loud[/]", "[/]", "\\[red]", "[link=http://a]b[/link]"])
def test_words_are_no_markup(text: str) -> None:
    assert f"“{text}”" in shown(source(text=text))


@pytest.mark.parametrize("field", ["text", "source", "event_id", "topic"])
def test_words_do_not_command_the_terminal(field: str) -> None:
    tree = shown(source(**{field: "\x1b]0;title\x07\x1b[2J\x9b31m\r\n\0"}))
    assert r"\x1b]0;title\x07\x1b[2J\x9b31m\r\n\x00" in tree
    assert not set(tree) & {"\x1b", "\x07", "\x9b", "\r", "\0"}
