"""`weir lineage`, on a real store."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, connect
from sinks.rows import LineageEdgeRow, ReviewRow, SourceRow, VerdictRow
from streams.identity import event_row_id, time_ms, uuid_text
from tests.streams.cli.conftest import Weir

pytestmark = pytest.mark.usefixtures("logging_as_before")

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SOURCE, VERDICT = (event_row_id(time_ms(NOW), "test", name) for name in ("source", "verdict"))


@pytest.fixture
def weir(weir: Weir, clickhouse: None) -> Weir:
    return partial(weir, "lineage")


@pytest.fixture(scope="module")
def filled(store: StoreSettings) -> Iterator[Client]:
    """An event and its verdict, of which there is an older version."""
    client = connect(store)
    source = SourceRow(SOURCE, NOW, NOW, "/forum", "e-1", "messages", 3, 41, "", "t", "ann", "en", "hello", NOW)
    client.insert("source_rows_raw", [source], column_names=SourceRow._fields)
    client.insert(
        "lineage_edges_raw",
        [LineageEdgeRow(VERDICT, SOURCE, "input", NOW)],
        column_names=LineageEdgeRow._fields,
    )
    for table, change in (
        ("verdicts_raw", {"decision": "block\x1b[2J", "prompt_hash": "h4", "prompt_version": "v4"}),
        ("verdict_versions_raw", {"decision": "allow", "prompt_hash": "h3", "prompt_version": "v3"}),
    ):
        client.insert(table, [_verdict(**change)], column_names=VerdictRow._fields)
    yield client
    client.close()


def _verdict(**change: Any) -> VerdictRow:
    row = VerdictRow(
        row_id=VERDICT,
        source_row_id=SOURCE,
        pipeline="watch",
        pipeline_version="7",
        stage="moderate",
        operator="moderate",
        tenant="",
        lang="en",
        event_time=NOW,
        broker_time=NOW,
        judged_at=NOW,
        topic="messages",
        partition=3,
        offset=41,
        decision="",
        label="spam",
        scores=[0.75],
        confidence=0.75,
        model="m-1",
        prompt_hash="",
        parts=1,
        input_tokens=30,
        cached_tokens=20,
        output_tokens=1,
        cost_usd=0.001,
        latency_ms=5,
    )
    return row._replace(**change)


@pytest.mark.usefixtures("filled")
def test_up_and_down_as_trees(weir: Weir) -> None:
    status, out, _ = weir(uuid_text(VERDICT))
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == rf"block\x1b[2J spam (0.75)  {uuid_text(VERDICT)}"
    assert "before: allow spam (0.75), m-1, prompt v3, 2026-03-04 05:06:07 UTC" in lines
    assert lines[-1].split()[:5] == ["total", "1", "30", "20", "1"]
    status, out, _ = weir("--down", uuid_text(SOURCE))
    assert status == 0
    assert out.splitlines()[0] == f"message, ann: “hello”  {uuid_text(SOURCE)}"
    assert rf"└── input of block\x1b[2J spam (0.75)  {uuid_text(VERDICT)}" in out


@pytest.mark.usefixtures("filled")
def test_up_and_down_as_json(weir: Weir) -> None:
    found = json.loads(weir(uuid_text(VERDICT), "--json")[1])
    assert set(found) == {"row_id", "kind", "role", "facts", "parents", "stages", "total"}
    told = ("prompt_version", "prompt_hash", "model", "operator", "confidence", "cost_usd", "engine_seconds")
    assert [found["facts"][name] for name in told] == ["v4", "h4", "m-1", "moderate", 0.75, 0.001, 0]
    (version,) = found["facts"]["versions"]
    assert (version["prompt_version"], version["decision"]) == ("v3", "allow")
    assert found["total"]["input_tokens"] == found["stages"][0]["input_tokens"] == 30
    found = json.loads(weir(uuid_text(SOURCE), "--down", "--json")[1])
    assert (found["facts"]["what"], found["children"][0]["facts"]["label"]) == ("message", "spam")


def test_what_people_said_is_shown(weir: Weir, filled: Client) -> None:
    review = ReviewRow(
        row_id=VERDICT,
        review_id=VERDICT + 1,
        source_row_id=SOURCE,
        pipeline="watch",
        stage="moderate",
        operator="moderate",
        tenant="",
        lang="en",
        event_time=NOW,
        judged_at=NOW,
        reviewed_at=NOW,
        reviewer="bob",
        decision="allow",
        label="ok",
        model_decision="block",
        model_label="spam",
        was_decision="block",
        was_label="spam",
        was_by="model",
        comment="a joke",
        source="",
        event_id="",
        topic="reviews",
        partition=0,
        offset=1,
        written_at=NOW,
    )
    filled.insert("reviews_raw", [review], column_names=ReviewRow._fields)
    line = "review: allow ok by bob, 2026-03-04 05:06:07 UTC: “a joke”"
    assert line in weir(uuid_text(VERDICT))[1].splitlines()
    assert line in weir("--down", uuid_text(SOURCE))[1]
    found = json.loads(weir(uuid_text(VERDICT), "--json")[1])
    (told,) = found["facts"]["reviews"]
    assert (told["reviewer"], told["decision"], told["reviewed_at"]) == ("bob", "allow", NOW.isoformat())


@pytest.mark.usefixtures("filled")
def test_what_a_prompt_or_a_model_decided(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = weir("--down", "--prompt", "v3")
    assert status == 0
    counts, row = (line.split() for line in out.splitlines() if "moderate" in line)
    assert [cell for cell in counts if cell != "│"] == [
        "watch",
        "moderate",
        "v3",
        "h3",
        "m-1",
        "allow",
        *"110",
        "0.001000",
    ]
    assert (row[1], row[-2]) == (uuid_text(VERDICT), "replaced")
    found = json.loads(weir("--down", "--model", "m-1", "--stage", "watch/moderate", "--limit", 1, "--json")[1])
    assert [count["verdicts"] for count in found["counts"]] == [1, 1]
    assert len(found["rows"]) == 1
    monkeypatch.setenv("COLUMNS", "80")
    assert uuid_text(VERDICT) in weir("--down", "--prompt", "v3")[1]
    status, out, err = weir("--down", "--prompt", "v9", "--model", "m-1")
    assert (status, out, err) == (1, "", "weir: no verdict of prompt v9 and m-1\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--down"],
        ["--prompt", "v3"],
        ["--down", "--model", "m-1", uuid_text(VERDICT)],
        ["--down", "--stage", "s", uuid_text(VERDICT)],
    ],
)
def test_what_makes_no_sense(weir: Weir, arguments: list[str]) -> None:
    status, out, err = weir(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("weir: ")
    assert "Traceback" not in err


def test_a_row_that_is_not_there(weir: Weir) -> None:
    row = uuid4()
    for arguments in ([row], [row, "--down"]):
        assert weir(*arguments) == (1, "", f"weir: no row {UUID(str(row))}\n")
