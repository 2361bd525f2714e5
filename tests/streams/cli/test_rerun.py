"""`weir rerun`, on a real broker and store; tests/streams/test_rerun.py has a worker too."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sinks.clickhouse import StoreSettings, connect
from sinks.rows import PromptRow, SourceRow, VerdictRow
from streams import topics
from streams.identity import event_row_id, stage_row_id, time_ms
from streams.pipeline import load
from streams.settings import Settings
from tests.streams.cli.conftest import Weir

pytestmark = pytest.mark.usefixtures("logging_as_before")

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTILE = "\x1b[2J"


@pytest.fixture
def weir(weir: Weir, clickhouse: None, kafka: None) -> Weir:
    return partial(weir, "rerun")


@pytest.fixture
def file(tmp_path: Path, settings: Settings, new_topic: Callable[..., Awaitable[str]]) -> Path:
    """A pipeline of one stage, whose topics are there."""

    async def create() -> str:
        source = await new_topic()
        made = tmp_path / "watch.yaml"
        made.write_text(
            f"""
name: {source}
version: "7"
source: {source}
sla: 10s
stages:
  - name: judge
    writes: {source}.out
    prompt: v4
    judge: {{operator: moderate, categories: [{{name: spam, definition: advertising}}]}}
"""
        )
        await topics.create(settings, topics.topics_of([load(made)]), 1, 1)
        return source

    asyncio.run(create())  # the commands have loops of their own
    return tmp_path / "watch.yaml"


@pytest.fixture
def judged(file: Path, store: StoreSettings) -> str:
    """Two events that prompt v3 judged, of a stage that has v4 now. The pipeline's name."""
    name = load(file).name
    client = connect(store)
    prompts = [PromptRow("h3", "m-1", name, "7", "judge", "moderate", ["ok", "spam"], "", NOW.replace(year=2025), "v3")]
    prompts.append(prompts[0]._replace(prompt_hash="h4", prompt_version="v4", used_at=NOW))
    client.insert("prompts_raw", prompts, column_names=PromptRow._fields)
    for offset in range(2):
        row = event_row_id(time_ms(NOW), "/forum", f"e-{offset}")
        place: Any = (name, 0, offset)
        source = SourceRow(row, NOW, NOW, "/forum", f"e-{offset}", *place, "", "t", "ann", "en", "hello", NOW)
        verdict = VerdictRow(
            stage_row_id(time_ms(NOW), name, "judge", 0, [row]),
            *(row, name, "7", "judge", "moderate", "", "en", NOW, NOW, NOW),
            *place,
            *("allow", "ok", [0.9, 0.1], 0.9, f"m{HOSTILE}", "h3", 1, 30, 20, 1, 0.001, 5),
            prompt_version="v3",
        )
        client.insert("source_rows_raw", [source], column_names=SourceRow._fields)
        client.insert("verdicts_raw", [verdict], column_names=VerdictRow._fields)
    client.close()
    return name


def options(file: Path, name: str, prompt: str = "v4") -> list[object]:
    return ["--pipelines", file, "--stage", f"{name}/judge", "--prompt", prompt, "--since", "1h"]


def test_what_would_be_done(weir: Weir, file: Path, judged: str) -> None:
    status, out, err = weir(*options(file, judged), "--dry-run")
    assert (status, err) == (0, "")
    assert f"{judged}/judge, prompt v4 (h4): 2 verdicts of other prompts, judged from " in out
    (row,) = [line.split() for line in out.splitlines() if "v3" in line]
    assert [cell for cell in row if cell != "│"] == ["v3", "h3", r"m\x1b[2J", "2", "60", "2", "0.002000", "0.0", "s"]
    report = json.loads(weir(*options(file, judged), "--dry-run", "--json")[1])
    assert (report["chosen"], report["done"], report["left"], report["dry_run"]) == (2, 0, 0, True)
    assert (report["prompt_hash"], report["replaced"][0]["prompt_hash"]) == ("h4", "h3")
    out = weir(*options(file, judged), "--until", "30m", "--dry-run")[1]
    assert ": 0 verdicts of other prompts" in out
    assert out.splitlines()[-1] == "nothing to do"


def test_rows_that_nobody_judges(weir: Weir, file: Path, judged: str, settings: Settings) -> None:
    status, out, err = weir(*options(file, judged), "--patience", "0s")
    assert status == 1
    assert out.splitlines()[-1] == "0 of 2 judged anew"
    assert (
        f"weir: 2 have no new verdict, and none came for 0s. Does every worker have prompt v4? Are there dead letters "
        f"(weir dlq list {judged})? Is a tenant past its limits? Run it again to go on" in err
    )


def test_nothing_is_left_to_do(weir: Weir, file: Path, judged: str, store: StoreSettings) -> None:
    client = connect(store)
    client.command(
        "INSERT INTO verdicts_raw SELECT * REPLACE ('h4' AS prompt_hash, now64(3) AS judged_at) FROM verdicts_raw "
        f"WHERE pipeline = '{judged}'"
    )
    client.close()
    status, out, err = weir(*options(file, judged))
    assert (status, out.splitlines()[-1], err) == (0, "nothing to do", "")
    status, out, _ = weir(*options(file, judged), "--json")
    assert status == 0
    assert (json.loads(out)["chosen"], json.loads(out)["left"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--prompt", "v5"], "has the prompt 'v4', not 'v5': change the prompt in the pipeline file and deploy it"),
        (["--stage", "juge"], "no stage 'juge' asks a model; in these pipelines there are: "),
        (["--since", "yesterday"], "--since 'yesterday' is neither a time"),
        (["--patience", "long"], "--patience 'long': "),
        (["--since", (NOW + timedelta(days=1)).isoformat()], "--since is not before --until, or not past"),
        (["--until", "2h"], "--since is not before --until, or not past"),
    ],
)
def test_mistakes(weir: Weir, file: Path, change: list[str], says: str) -> None:
    status, out, err = weir(*options(file, load(file).name), *change)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_prompt_that_is_not_deployed(weir: Weir, file: Path) -> None:
    name = load(file).name
    status, _, err = weir(*options(file, name))
    assert status == 2
    assert err == (
        f"weir: no worker has worked on {name}/judge; deploy the file first: start workers with it, and then run this "
        "again\n"
    )
