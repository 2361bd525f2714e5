"""`weir calibrate`, against a server whose mistakes are known."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from ruamel.yaml import YAML

from inference.calibration import interpolated
from streams.pipeline import load
from tests.inference.conftest import ScriptedEngine, each
from tests.streams.cli.conftest import Weir, Write

pytestmark = pytest.mark.usefixtures("logging_as_before")

PIPELINE = """
name: chat
version: "1"
source: chat.messages
sla: 10s
stages:
  - name: guard
    writes: chat.verdicts
    context: {messages: 1}
    judge:
      operator: moderate
      instruction: Judge.
      categories: [{name: spam, definition: advertising}]
      calibration: {content_free: []}
"""
SECOND = """
  - name: sort
    writes: chat.sorted
    judge:
      operator: classify
      instruction: Sort.
      classes: [{name: ok, definition: fine}, {name: spam, definition: advertising}]
      calibration: {content_free: []}
"""
HOSTILE = "\x1b[31mred [bold]loud[/]"
TOLD = {0.1: 3, 0.9: 7}  # the risk that the model sees in a text, and in how many of ten it is there


class Overconfident(ScriptedEngine):
    """Finds the risk that stands at the beginning of a text; takes no text with the word poison."""

    def __init__(self) -> None:
        super().__init__()
        self.probabilities = self._stated

    def _stated(self, message: str) -> Mapping[str, float]:
        risk = float(message.split(maxsplit=1)[0])
        return {"ok": 1 - risk, "spam": risk}

    def complete(self, body: Mapping[str, Any]) -> web.Response:
        if any("poison" in prompt for prompt in each(body["prompt"])):
            return web.json_response({"error": {"message": "not this"}}, status=400)
        return super().complete(body)


@pytest.fixture
def scripted() -> Iterator[Overconfident]:
    loop = asyncio.new_event_loop()  # a command has a loop of its own
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = Overconfident()
    asyncio.run_coroutine_threadsafe(server.up(), loop).result()
    yield server
    asyncio.run_coroutine_threadsafe(server.down(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def weir(weir: Weir) -> Weir:
    return partial(weir, "calibrate")


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    file = tmp_path / "chat.yaml"
    file.write_text(PIPELINE, encoding="utf-8")
    return file


def labelled(names: tuple[str, str] = ("ok", "spam"), times: int = 5) -> list[dict[str, Any]]:
    return [
        {"text": f"{risk} number {number}", "label": names[number % 10 < true]}
        for number in range(10 * times)
        for risk, true in TOLD.items()
    ]


def report(weir: Weir, *arguments: object) -> dict[str, Any]:
    status, out, err = weir(*arguments, "--json")
    assert status == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def test_temperature_is_found(weir: Weir, scripted: Overconfident, pipeline: Path, write: Write) -> None:
    """Odds of 9 to 1 that should be 7 to 3: log 9 / log (7 / 3)."""
    told = report(weir, pipeline, "--data", write(labelled()), "--engine-url", scripted.url, "--method", "temperature")

    assert (told["chosen"], told["rows"], told["left_out"]) == ("temperature", 100, 0)
    assert (told["stage"], told["model"], told["probability_of"]) == ("guard", "scripted", "against the rules")
    assert told["calibration"]["temperature"] == pytest.approx(2.593, abs=0.01)
    before, after = told["quality"]["none"], told["quality"]["temperature"]
    assert before["ece"] == pytest.approx(0.2)
    assert after["ece"] < 0.08
    assert [found["share"] for found in before["reliability"]] == pytest.approx([0.3, 0.7])
    assert set(told["quality"]) == {"none", "temperature"}


def test_expected_shares_count_once(weir: Weir, scripted: Overconfident, pipeline: Path, write: Write) -> None:
    shares = "{content_free: [], prior: {ok: 3, spam: 1}}"
    pipeline.write_text(PIPELINE.replace("{content_free: []}", shares), encoding="utf-8")
    told = report(weir, pipeline, "--data", write(labelled()), "--engine-url", scripted.url)
    assert [found["score"] for found in told["quality"]["none"]["reliability"]] == pytest.approx([1 / 28, 3 / 4])


def test_lines_for_the_file_do_what_the_report_says(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    arguments = (pipeline, "--data", write(labelled()), "--engine-url", scripted.url, "--method")
    first = report(weir, *arguments, "isotonic")
    _, out, _ = weir(*arguments, "isotonic")
    printed = YAML(typ="safe").load(out[out.index("\ncalibration:") :])
    lines = json.dumps({"content_free": [], **printed["calibration"]})
    pipeline.write_text(PIPELINE.replace("{content_free: []}", lines), encoding="utf-8")

    points = load(pipeline).stages[0].judge.calibration.isotonic  # type: ignore[union-attr]
    assert [interpolated(points, risk) for risk in TOLD] == pytest.approx([16 / 52, 36 / 52], abs=1e-5)
    again = report(weir, *arguments, "isotonic")
    assert again["quality"]["none"] == first["quality"]["none"]
    assert again["quality"]["file"]["ece"] == pytest.approx(16 / 52 - 0.3, abs=1e-5)
    assert "as in the file" in weir(*arguments, "temperature")[1]


@pytest.mark.usefixtures("scripted")
class TestChoice:
    def test_is_the_lower_log_loss(self, weir: Weir, scripted: Overconfident, pipeline: Path, write: Write) -> None:
        told = report(weir, pipeline, "--data", write(labelled()), "--engine-url", scripted.url)
        losses = {name: found["log_loss"] for name, found in told["quality"].items()}
        assert set(losses) == {"none", "temperature", "isotonic"}
        assert losses[told["chosen"]] == min(losses.values()) < losses["none"]

    def test_is_none_where_nothing_is_better(
        self, weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
    ) -> None:
        data = write(labelled())
        scripted.probabilities = lambda message: (
            {"ok": 0.7, "spam": 0.3} if message[2] == "1" else {"ok": 0.3, "spam": 0.7}
        )
        status, out, _ = weir(pipeline, "--data", data, "--engine-url", scripted.url)
        assert status == 0
        assert "No fit is better than none" in out
        assert "calibration:" not in out


def test_stage_of_several_is_named_and_top_label_is_fitted(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    pipeline.write_text(PIPELINE + SECOND.removeprefix("\n"), encoding="utf-8")
    arguments = (pipeline, "--data", write(labelled()), "--engine-url", scripted.url)

    assert "name one with --stage: guard, sort" in weir(*arguments)[2]
    assert "no stage 'srt'; there are: guard, sort" in weir(*arguments, "--stage", "srt")[2]
    told = report(weir, *arguments, "--stage", "sort")
    assert told["probability_of"] == "rows whose most probable label is right"
    (found,) = told["quality"]["none"]["reliability"]
    assert (found["rows"], found["score"], found["share"]) == (100, pytest.approx(0.9), pytest.approx(0.7))


def test_rows_of_other_people_are_mapped_and_sampled(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    rows = [{"body": row["text"], "class": row["label"]} for row in labelled(("neither", "ad"))]
    arguments = ["--engine-url", scripted.url, "--text-field", "body", "--label-field", "class", "--rows", 60]
    told = report(weir, pipeline, "--data", write(rows), *arguments, "--map", "neither=ok,ad=spam")
    assert told["rows"] == 60
    assert len(scripted.prompts) == 60


def test_rows_are_judged_with_what_came_before_in_their_thread(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    rows = [{**row, "thread": f"t{index % 2}"} for index, row in enumerate(labelled())]
    report(weir, pipeline, "--data", write(rows), "--engine-url", scripted.url)
    earlier = [prompt for prompt in scripted.prompts if "Earlier: " in prompt]
    assert len(earlier) == 98
    assert any(prompt.endswith("Earlier: 0.9 number 3\nMessage: 0.9 number 4\nLabel:") for prompt in earlier)


def test_rows_without_one_piece_of_evidence_are_left_out(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    odd = [{"text": "0.5 " * 400, "label": "ok"}, {"text": "0.5 poison", "label": "spam"}]
    status, out, _ = weir(pipeline, "--data", write([*labelled(), *odd]), "--engine-url", scripted.url)
    assert status == 0
    assert "100 rows of stage guard" in out
    assert "2 rows are left out" in out


def test_name_of_a_model_is_no_command_to_the_terminal(
    weir: Weir, scripted: Overconfident, pipeline: Path, write: Write
) -> None:
    scripted.models["data"][0]["id"] = HOSTILE
    for extra in ([], ["--json"]):
        _, out, _ = weir(pipeline, "--data", write(labelled()), "--engine-url", scripted.url, *extra)
        assert "\x1b[31m" not in out
        assert "[bold]loud[/]" in out


def test_a_few_rows_are_refused(weir: Weir, scripted: Overconfident, pipeline: Path, write: Write) -> None:
    rows = [row for row in labelled() if row["label"] == "ok"] + [{"text": "0.9", "label": "spam"}] * 4
    status, _, err = weir(pipeline, "--data", write(rows), "--engine-url", scripted.url)
    assert status == 2
    assert "too few rows: of 54, 4 are against the rules; a fit needs 5 that are and 5 that are not" in err


@pytest.mark.parametrize(
    ("rows", "arguments", "told"),
    [
        (
            [{"text": "a", "label": "hate"}] * 2 + [{"text": "a", "label": "\x1b[31m"}],
            [],
            "not labels of stage 'guard': 'hate' (2 rows), '\\x1b[31m' (1 rows); its labels are: ok, spam; --map",
        ),
        ([{"text": "a", "label": "ok"}, {"text": "a"}], [], "row 2 has no text in the field 'label'"),
        ([{"text": " ", "label": "ok"}], [], "row 1 has no text in the field 'text'"),
        ([{"text": 3, "label": "ok"}], [], "row 1 has no text in the field 'text'"),
        ([], ["--map", "hate"], "--map 'hate' is not of the form theirs=ours"),
        ([], ["--embedded", "--engine-url", "http://127.0.0.1:1"], "leave out --engine-url, or --embedded"),
        ([{"text": "a", "label": "ok"}], [], "WEIR_ENGINE_URL"),
    ],
)
def test_mistakes_are_told(
    rows: list[Mapping[str, Any]], arguments: list[str], told: str, weir: Weir, pipeline: Path, write: Write
) -> None:
    status, out, err = weir(pipeline, "--data", write(rows), *arguments)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_stage_of_another_operator_is_refused(weir: Weir, pipeline: Path, write: Write) -> None:
    judge = "{operator: extract, instruction: Find., fields: [{name: name, definition: who}]}"
    text = PIPELINE[: PIPELINE.index("    judge:")] + f"    judge: {judge}\n"
    pipeline.write_text(text, encoding="utf-8")
    status, _, err = weir(pipeline, "--data", write([]))
    assert status == 2
    assert "stage 'guard' is of extract; moderate and classify can be calibrated" in err


def test_file_that_is_not_there_is_told(weir: Weir, pipeline: Path, tmp_path: Path) -> None:
    status, _, err = weir(pipeline, "--data", tmp_path / "none.jsonl")
    assert status == 2
    assert f"{tmp_path / 'none.jsonl'}: [Errno 2]" in err


def test_missing_extra_is_told(weir: Weir, pipeline: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inference.fit", None)
    status, _, err = weir(pipeline, "--data", write(labelled()))
    assert status == 2
    assert "needs the extra `eval`: pip install 'weir[eval]'" in err


def test_embedded_engine_is_started(weir: Weir, pipeline: Path, write: Write) -> None:
    told = report(weir, pipeline, "--data", write(labelled(times=1)), "--embedded", "--method", "temperature")
    assert told["model"].startswith("smollm2")
    assert told["rows"] == 20
