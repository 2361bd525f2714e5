"""A lineage tree as a terminal shows it."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from sinks.lineage import LineageNode
from streams.cli.lineage_tree import render, shown

AT = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)
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
    "prompt_version": "v4",
    "input_tokens": 30,
    "cached_tokens": 20,
    "output_tokens": 1,
    "cost_usd": 0.000014,
    "engine_seconds": 0.25,
    "latency_ms": 5,
    "event_time": AT - timedelta(milliseconds=5),
    "judged_at": AT,
    "output": {},
}
SOURCE = {
    "what": "message",
    "made_by": "",
    "turn": None,
    "author": "ann",
    "text": "buy coins",
    "topic": "messages",
    "partition": 3,
    "offset": 41,
    "source": "/forum",
    "event_id": "e-1",
    "event_time": AT,
    "broker_time": AT + timedelta(milliseconds=300),
}
CALL = {"call": "c-1", "turns": 12, "missing": 1, "closed_by": "final", "closed_at": AT}


def source(row_id: str = "s-1", role: str = "input", **facts: Any) -> LineageNode:
    return LineageNode(row_id, "source", role, SOURCE | facts)


def turns(count: int, role: str = "input") -> list[LineageNode]:
    return [source(f"t-{n}", role, what="turn", turn=n, text=f"words {n}") for n in range(count)]


def lines_of(node: LineageNode, whole: bool = False) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=400, color_system=None).print(shown(node) if whole else render(node))
    return [line.strip() for line in file.getvalue().splitlines()]


def text_of(node: LineageNode) -> str:
    return "\n".join(lines_of(node))


def test_a_verdict_stands_above_its_words_and_their_context() -> None:
    facts = VERDICT | {"output": {"evidence": "no  coins\nhere"}}
    tree = LineageNode("v-1", "verdict", "", facts, [source(), source("s-0", "context", text="hello", offset=40)])
    assert lines_of(tree) == [
        "block spam (0.88)  v-1",
        "watch 7 / moderate (moderate), 2026-03-04 05:06:07 UTC",
        "m-1, prompt v4 a1",
        "30 tokens in (20 cached), 1 out, 0.00001400 USD, engine 0.250 s, 5 ms after the event",
        "evidence: “no coins here”",
        "├── input message, ann: “buy coins”  s-1",
        "│   messages[3]@41, /forum e-1, 2026-03-04 05:06:07 UTC",
        "└── context message, ann: “hello”  s-0",
        "messages[3]@40, /forum e-1, 2026-03-04 05:06:07 UTC",
    ]


def test_older_versions_stand_below_the_verdict() -> None:
    old = VERDICT | {"decision": "allow", "prompt_version": "v3", "confidence": 0.5}
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT | {"versions": [old]}))
    assert lines[-1] == "before: allow spam (0.50), m-1, prompt v3, 2026-03-04 05:06:07 UTC"


def test_a_verdict_that_was_given_anew_says_so() -> None:
    anew = VERDICT | {"event_time": AT - timedelta(hours=1)}
    assert lines_of(LineageNode("v-1", "verdict", "", anew))[-1].endswith(" 5 ms after it was asked for anew")


def test_each_kind_of_row_says_what_it_is() -> None:
    document = {"document": "policy-7", "withdrawn": True, "held_from": AT, "topic": "d", "partition": 0, "offset": 3}
    linked = [
        source("s-1", what="claim", made_by="review/claims", turn=4),
        source("s-2", what="transcript", made_by="review/assemble", author="", call=CALL),
        LineageNode("d-1", "document", "document", document),
        LineageNode("c-1", "call", "input", CALL | {"missing": 0}),
    ]
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT, linked))[4:]
    assert lines == [
        "├── input claim of turn 4, ann: “buy coins”  s-1",
        "│   messages[3]@41, made by review/claims, 2026-03-04 05:06:07 UTC",
        "├── input transcript: “buy coins”  s-2",
        "│   messages[3]@41, made by review/assemble, 2026-03-04 05:06:07 UTC",
        "│   12 turns, 1 missing, closed by final, 2026-03-04 05:06:07 UTC",
        "├── document policy-7, withdrawn  d-1",
        "│   held from 2026-03-04 05:06:07 UTC, d[0]@3",
        "└── input transcript of c-1, not read yet  c-1",
        "12 turns, closed by final, 2026-03-04 05:06:07 UTC",
    ]


def test_long_lists_are_cut_and_counted() -> None:
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT, turns(50)))
    assert sum("turn " in line for line in lines) == 12
    assert lines[-1] == "└── input … 38 more, turns 12 to 49"
    assert "more" not in text_of(LineageNode("v-1", "verdict", "", VERDICT, turns(13)))  # one fits in that line's place


def test_what_people_said_stands_below_the_verdict() -> None:
    said = {"reviewer": "ann\x1b[2J", "reviewed_at": AT, "decision": "allow", "label": "ok", "comment": "a [red]joke"}
    reviews = [said | {"reviewer": f"r-{number}", "comment": ""} for number in range(20)] + [said]
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT | {"reviews": reviews}))
    assert lines[-1] == rf"review: allow ok by ann\x1b[2J, {AT:%Y-%m-%d %H:%M:%S} UTC: “a [red]joke”"
    assert lines[-2] == f"review: allow ok by r-19, {AT:%Y-%m-%d %H:%M:%S} UTC"
    assert len([line for line in lines if line.startswith("review")]) == 12


def test_a_large_tree_has_an_end() -> None:
    exchanges = [LineageNode(f"x-{n}", "source", "input", SOURCE, turns(12)) for n in range(12)]
    calls = [LineageNode(f"c-{n}", "source", "input", SOURCE, exchanges) for n in range(12)]
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT, calls))
    assert sum("“" in line for line in lines) == 400
    assert [line for line in lines if line.startswith("├── input message")][-1].endswith("c-10")
    assert sum("more" in line for line in lines) > 10


def test_a_row_that_was_told_is_only_named() -> None:
    again = LineageNode("s-1", "source", "context", SOURCE, repeated=True)
    lines = lines_of(LineageNode("v-1", "verdict", "", VERDICT, [source(), again]))
    assert lines[-1] == "└── context message  s-1, as above"


def test_downwards_the_role_is_that_of_the_row_above() -> None:
    verdict = LineageNode("v-1", "verdict", "document", VERDICT, direction="children")
    assert any(
        line.startswith("└── document of block spam")
        for line in lines_of(LineageNode("x-1", "missing", "", {}, [verdict], "children"))
    )


def test_what_each_stage_took_stands_below() -> None:
    claim = source("s-1", what="claim", made_by="review/claims", turn=4)
    later = {"latency_ms": 7, "judged_at": AT + timedelta(seconds=90)}  # it was judged anew
    second = VERDICT | {"stage": "again", "input_tokens": 1000} | later
    tree = LineageNode("v-2", "verdict", "", second, [LineageNode("v-1", "verdict", "input", VERDICT, [claim])])
    table = [" ".join(line.split()) for line in lines_of(tree, whole=True)[-5:]]
    assert table == [
        "stage rows tokens in cached out USD engine after the event",
        "watch/moderate 1 30 20 1 0.00001400 0.250 s 5 ms",
        "review/claims 1 300 ms",
        "watch/again 1 1,000 20 1 0.00001400 0.250 s 90 s",
        "total 3 1,030 40 2 0.00002800 0.500 s 90 s",
    ]


def test_a_tree_that_was_not_read_to_its_end_says_so() -> None:
    assert "too large" in "".join(lines_of(LineageNode("v-1", "verdict", "", VERDICT, cut=True), whole=True))


def test_a_row_that_is_missing() -> None:
    assert text_of(LineageNode("x-1", "missing", "input", {})) == "input not in the store  x-1"


def test_parents_of_parents() -> None:
    inner = LineageNode("v-1", "verdict", "input", VERDICT, [source()])
    tree = LineageNode("v-2", "verdict", "", VERDICT, [inner])
    assert "└── input message, ann: “buy coins”  s-1" in lines_of(tree)


@pytest.mark.parametrize(("length", "expected"), [(160, "x" * 160), (161, "x" * 160 + "…")])
def test_long_words_are_cut(length: int, expected: str) -> None:
    assert f"“{expected}”" in text_of(source(text="x" * length))


@pytest.mark.parametrize("text", ["[bold]loud[/]", "[/]", "\\[red]", "[link=http://a]b[/link]"])
def test_words_are_no_markup(text: str) -> None:
    assert f"“{text}”" in text_of(source(text=text))


@pytest.mark.parametrize("field", ["text", "source", "event_id", "topic", "author", "made_by"])
def test_words_do_not_command_the_terminal(field: str) -> None:
    tree = text_of(source(**{field: "\x1b]0;title\x07\x1b[2J\x9b31m\r\n\0"}))
    assert r"\x1b]0;title\x07\x1b[2J\x9b31m" in tree
    assert not set(tree) & {"\x1b", "\x07", "\x9b", "\r", "\0"}
