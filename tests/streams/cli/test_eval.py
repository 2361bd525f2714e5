"""`weir eval` and `weir leaderboard`, against an engine that answers at once, and a store."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.instant_engine import InstantEngine
from inference.screen.model import load as read_screen
from sinks.clickhouse import StoreSettings, connect
from streams.cascade import screen_file
from streams.cli.main import PIPELINES
from streams.pipeline import load
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
    judge:
      operator: moderate
      instruction: Judge.
      categories: [{name: insult, definition: attacks a person}, {name: spam, definition: advertising}]
      calibration: {content_free: []}
"""
SORTING = """
name: desk
version: "1"
source: desk.messages
sla: 10s
stages:
  - name: sort
    writes: desk.sorted
    judge:
      operator: classify
      instruction: Sort.
      classes: [{name: bill, definition: money}, {name: parcel, definition: delivery}]
      calibration: {content_free: []}
"""
LABELS = ("ok", "insult", "spam")
HOSTILE = "<script>alert(1)</script> \x1b[31m [bold]x[/]"
SOME = [
    {"text": f"words {number}", "label": LABELS[number % 3], "lang": ["en", "pt"][number % 2]} for number in range(60)
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstantEngine]:
    """It judges rightly what says so."""
    folder = tmp_path_factory.mktemp("engine")
    answers = folder / "answers.jsonl"
    lines = [{"text": f"surely {label} {number}", "word": label} for label in LABELS for number in range(40)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with InstantEngine(folder, answers=answers) as started:
        yield started


@pytest.fixture
def weir(weir: Weir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Weir:
    """In a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return weir


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    file = tmp_path / "chat.yaml"
    file.write_text(PIPELINE, encoding="utf-8")
    return file


@pytest.fixture
def evaluate(weir: Weir, engine: InstantEngine, pipeline: Path, write: Write) -> Callable[..., dict[str, Any]]:
    """`evaluate(rows, "--rows", 3)`: the report as JSON."""

    def run(
        rows: Iterable[Mapping[str, Any]], *arguments: object, engines: Sequence[str] = ("small",)
    ) -> dict[str, Any]:
        named = [each for name in engines for each in ("--engine", f"{name}={engine.url}")]
        status, out, err = weir("eval", "--data", write(rows), "-p", pipeline, *named, *arguments, "--json")
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    return run


Evaluate = Callable[..., dict[str, Any]]


def surely(wrong: int = 0) -> list[dict[str, Any]]:
    """40 of each label, judged rightly but for so many of the first, which are labelled as another."""
    rows = [{"text": f"surely {label} {number}", "label": label} for label in LABELS for number in range(40)]
    for row in rows[:wrong]:
        row["label"] = "spam"
    return rows


def test_a_screen_is_measured_before_the_model_and_alone(evaluate: Evaluate, pipeline: Path) -> None:
    shipped = load(PIPELINES / "community-moderation.yaml").stages[0].cascade
    assert shipped is not None
    cascade = json.dumps(shipped.model_dump(exclude_unset=True) | {"pass_below": 0.2, "flag_from": 0.8})
    pipeline.write_text(PIPELINE + f"    cascade: {cascade}\n", encoding="utf-8")
    plain = ("see you on friday, bring some apples", "thanks, that fixed my problem")
    rude = ("you are a fucking idiot, shut up bitch",)
    rows = [{"text": text, "label": "ok"} for text in plain] + [{"text": text, "label": "insult"} for text in rude]
    found = evaluate([*rows, *surely()])
    model, both, screen = found["subjects"]
    assert [each["name"] for each in found["subjects"]] == ["small", "small + community-1", "community-1"]
    assert [each["rows"] for each in found["subjects"]] == [123] * 3
    risks = read_screen(screen_file(shipped.screen), shipped.sha256).risks([row["text"] for row in [*rows, *surely()]])
    asked = sum(0.2 <= risk < 0.8 for risk in risks)
    assert [each["work"]["asked"] for each in found["subjects"]] == [123, asked, 0]
    assert 0 < asked < 123
    assert both["work"]["cost_usd"] == pytest.approx(model["work"]["cost_usd"] * asked / 123, rel=0.05)
    assert sum(map(sum, screen["confusion"]["counts"])) == 123


def test_figures_are_those_of_the_engine(evaluate: Evaluate) -> None:
    found = evaluate(surely(wrong=10))
    (subject,) = found["subjects"]
    overall = subject["overall"]["metrics"]
    assert (found["data"]["rows"], subject["rows"], subject["model"], found["fine"]) == (120, 120, "instant", "ok")
    assert overall["precision"]["value"] == 1
    assert overall["recall"]["value"] == pytest.approx(80 / 90)
    assert overall["recall"]["low"] < 80 / 90 < overall["recall"]["high"]
    assert overall["accuracy"]["value"] == pytest.approx(110 / 120)
    assert subject["by_label"]["insult"]["metrics"]["f1"]["value"] == 1
    assert subject["confusion"] == {"truths": list(LABELS), "counts": [[30, 0, 0], [0, 40, 0], [10, 0, 40]]}
    assert subject["work"]["tokens"] > 0
    assert subject["prompt_hash"]
    assert subject["settings_hash"]


def test_rows_of_other_people_are_mapped(evaluate: Evaluate) -> None:
    rows = [{"body": row["text"], "class": int(row["label"] != "ok"), "tongue": "en", "n": 7} for row in surely()]
    options = ["--text-field", "body", "--label-field", "class", "--lang-field", "tongue", "--id-field", "n"]
    found = evaluate(rows, *options, "--map", "0=ok", "--flagged", "1", "--rows", 90)
    (subject,) = found["subjects"]
    assert (found["data"]["rows"], found["coarse"]) == (90, ["1"])
    assert subject["overall"]["metrics"]["f1"]["value"] == 1
    assert subject["by_language"]["en"]["rows"] == 90
    assert set(subject["by_label"]) == {"ok"}
    assert set(subject["flagged"]) == {"ok", "1"}
    assert any("not against which" in note for note in subject["notes"])


def test_samples_are_of_their_seed(evaluate: Evaluate) -> None:
    hashes = [evaluate(SOME, "--rows", 20, "--seed", seed)["data"]["rows_hash"] for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_was_judged_is_not_judged_again_unless_fresh(
    evaluate: Evaluate, engine: InstantEngine, weir: Weir
) -> None:
    first = evaluate(SOME)
    (journal,) = Path(".weir-eval").glob("*.jsonl")
    assert "words" not in journal.read_text(encoding="utf-8")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:40]) + lines[40][:25])  # killed while it wrote
    options = ("--engine", f"small={engine.url}", "--data", "rows.jsonl", "-p", "chat.yaml")
    status, _, err = weir("eval", *options)
    assert status == 0
    assert "40 of 60 rows were judged before" in err
    kept = journal.read_bytes().splitlines(keepends=True)
    assert kept[:40] == lines[:40]
    assert len(kept) == 61
    again = evaluate(SOME)
    assert again["subjects"][0]["overall"] == first["subjects"][0]["overall"]
    assert journal.read_bytes().splitlines(keepends=True) == kept
    evaluate(SOME, "--fresh")
    fresh = journal.read_bytes().splitlines(keepends=True)
    assert len(fresh) == 60
    assert fresh[0] != kept[0]


def test_another_prompt_or_threshold_is_judged_anew(evaluate: Evaluate, pipeline: Path) -> None:
    evaluate(SOME)
    pipeline.write_text(PIPELINE.replace("Judge.", "Judge well."), encoding="utf-8")
    evaluate(SOME)
    pipeline.write_text(
        PIPELINE.replace("calibration:", "thresholds: {review: 0.1}\n      calibration:"), encoding="utf-8"
    )
    evaluate(SOME)
    assert len(list(Path(".weir-eval").glob("*.jsonl"))) == 3


def test_ctrl_c_keeps_what_was_judged(pipeline: Path, write: Write, tmp_path: Path, root: Path) -> None:
    """One row after the other, so that most are left when the first is kept."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    data, journal = write(SOME), tmp_path / "kept"
    with InstantEngine(tmp_path, delay=0.2) as slow:
        options = ["--engine", f"slow={slow.url}", "--at-once", "1", "--journal", journal]
        argv = [sys.executable, "-m", "streams", "eval", "--data", data, "-p", pipeline, *options]
        child = subprocess.Popen(
            list(map(str, argv)), cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        pause = threading.Event()
        while not any(file.stat().st_size for file in journal.glob("*")):
            assert child.poll() is None
            pause.wait(0.01)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    (file,) = journal.glob("*.jsonl")
    kept = len(file.read_bytes().splitlines())
    assert 0 < kept < 60
    assert f"slow: {kept} of 60 rows are judged and kept in {file}; the same command goes on from there" in err
    assert "Traceback" not in err


class TestComparison:
    def test_of_engines_is_row_by_row(self, evaluate: Evaluate) -> None:
        found = evaluate(SOME, engines=("one", "two"))
        assert [subject["name"] for subject in found["subjects"]] == ["one", "two"]
        (pair,) = found["comparisons"]
        assert (pair["first"], pair["second"], pair["rows"], pair["p"]) == ("one", "two", 60, 1)
        assert pair["differences"]["auroc"]["value"] == 0

    def test_of_pipelines_is_by_their_names(self, evaluate: Evaluate, tmp_path: Path) -> None:
        other = tmp_path / "strict.yaml"
        other.write_text(PIPELINE.replace('"1"', '"2"').replace("Judge.", "Judge well."), encoding="utf-8")
        found = evaluate(SOME, "-p", other)
        assert [subject["name"] for subject in found["subjects"]] == ["chat 1", "chat 2"]
        assert found["comparisons"][0]["only_first"] + found["comparisons"][0]["only_second"] > 0
        other.write_text(PIPELINE, encoding="utf-8")
        names = [subject["name"] for subject in evaluate(SOME, "-p", other)["subjects"]]
        assert names == ["chat 1 (chat)", "chat 1 (strict)"]


def test_page_and_table_take_hostile_words_for_words(
    weir: Weir, engine: InstantEngine, pipeline: Path, write: Write, tmp_path: Path
) -> None:
    rows = [*SOME, *({"text": HOSTILE, "label": label, "lang": HOSTILE} for label in ("spam", "spam"))]
    named = ("--engine", f"{HOSTILE}={engine.url}")
    options = ("--data", write(rows), "-p", pipeline, *named, "--html", tmp_path / "page.html")
    status, out, err = weir("eval", *options)
    assert status == 0, err
    assert "\x1b[31m" not in out + err
    assert "[bold]x[/]" in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("data:image/svg+xml;base64,") >= 5


def test_labels_of_several_kinds_are_sorted(evaluate: Evaluate, pipeline: Path) -> None:
    pipeline.write_text(SORTING, encoding="utf-8")
    found = evaluate([{"text": f"row {number}", "label": ("bill", "parcel")[number % 2]} for number in range(60)])
    assert list(found["subjects"][0]["overall"]["metrics"]) == ["accuracy", "macro_f1", "macro_auroc", "ece"]
    assert found["fine"] is None


class TestBadRows:
    def test_without_a_label_or_with_two_are_left_out_and_told(self, evaluate: Evaluate, weir: Weir) -> None:
        rows = [
            *SOME,
            {"text": "no label"},
            {"text": "null", "label": None},
            {"text": "", "label": "ok"},
            {"text": "both", "label": "ok"},
            {"text": "both", "label": "spam"},
            {"text": "x", "label": "odd"},
        ]
        found = evaluate(rows, "--ignore", "odd")
        assert found["data"]["rows"] == 60
        assert found["data"]["left_out"] == {
            "no text in the field 'label'": {"rows": 2, "first": [61, 62]},
            "no text in the field 'text'": {"rows": 1, "first": [63]},
            "label odd (--ignore)": {"rows": 1, "first": [66]},
            "the same text has several labels": {"rows": 2, "first": [64, 65]},
        }

    def test_of_one_class_are_measured_as_far_as_they_go(self, evaluate: Evaluate) -> None:
        (subject,) = evaluate([{"text": f"words {n}", "label": "ok"} for n in range(10)])["subjects"]
        assert subject["overall"]["metrics"]["auroc"]["value"] is None
        assert subject["overall"]["metrics"]["accuracy"]["value"] is not None
        assert "No row is against the rules" in subject["notes"][0]

    @pytest.mark.parametrize(
        ("rows", "arguments", "told"),
        [
            ([], [], "rows.jsonl has no rows"),
            (SOME, ["--label-field", "klass"], "field 'klass' (--label-field); the fields are: label, lang, text"),
            (SOME, ["--lang-field", "tongue"], "no row has the field 'tongue' (--lang-field)"),
            ([{"text": "a"}], [], "no row has the field 'label' (--label-field); the fields are: text"),
            ([{"text": "a", "label": None}], [], "no row can be used: no text in the field 'label': 1 row (1)"),
            ([{"text": "a", "label": each} for each in LABELS], [], "text has several labels: 3 rows (1, 2, 3)"),
            ([{"text": "a", "label": "odd\x1b"}], [], "not labels of stage 'guard': 'odd\\x1b' (1 rows); its"),
            ([{"text": "a", "label": "odd"}], [], "--ignore leaves rows of a label out; --flagged names labels"),
            (SOME, ["--flagged", "toxic"], "no row has the label 'toxic' that --flagged names"),
            (SOME, ["--flagged", "spam"], "the stage has that label"),
            (SOME, ["--map", "spam"], "--map 'spam' is not of the form theirs=ours"),
            (SOME, ["--engine", "here"], "--engine 'here' is not of the form NAME=http://host:port"),
            (SOME, ["--engine", "a=http://x", "--engine", "a=http://y"], "two engines have the same name: a, a"),
            (SOME, ["-p", "chat.yaml"], "the same pipeline is given twice"),
            (SOME, ["-p", "desk.yaml"], "what is to be compared needs the same"),
            (SOME, ["--html", "none/page.html"], "there is no folder none"),
            (SOME, ["--store"], "WEIR_CLICKHOUSE_URL"),
            (SOME, [], "WEIR_ENGINE_URL"),
        ],
    )  # fmt: skip
    def test_and_mistakes_are_told(
        self, rows: list[Mapping[str, Any]], arguments: list[str], told: str, weir: Weir, pipeline: Path, write: Write
    ) -> None:
        pipeline.with_name("desk.yaml").write_text(SORTING, encoding="utf-8")
        status, out, err = weir("eval", "--data", write(rows), "-p", "chat.yaml", *arguments)
        assert (status, out) == (2, "")
        assert told in err
        assert "Traceback" not in err

    def test_lines_that_are_no_json_are_told(self, weir: Weir, pipeline: Path, tmp_path: Path) -> None:
        (tmp_path / "odd.jsonl").write_bytes(b'{"text": "a"\n')
        assert "odd.jsonl: line 1 is not JSON" in weir("eval", "--data", "odd.jsonl", "-p", pipeline)[2]
        (tmp_path / "odd.jsonl").write_bytes(b"\xff\n")
        assert "odd.jsonl: 'utf-8' codec" in weir("eval", "--data", "odd.jsonl", "-p", pipeline)[2]


def test_missing_extra_is_told(weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inference.fit", None)
    for arguments in (["eval", "--data", "x", "-p", "y"], ["leaderboard"]):
        assert f"weir {arguments[0]} needs the extra `eval`: pip install 'weir[eval]'" in weir(*arguments)[2]


class TestStore:
    @pytest.fixture(autouse=True)
    def _stored(self, store: StoreSettings, clickhouse: None) -> None:
        client = connect(store)
        for table in ("evaluations_raw", "evaluation_rows_raw"):
            client.command(f"TRUNCATE TABLE {table}")
        client.close()

    def test_has_what_it_takes_to_do_it_again(self, evaluate: Evaluate, store: StoreSettings) -> None:
        found = evaluate(SOME, "--rows", 30, "--seed", 4, "--map", "x=ok")
        client = connect(store)
        (run,) = client.query("SELECT * FROM evaluations").named_results()
        judged = client.query("SELECT * FROM evaluation_rows").result_rows
        client.close()
        assert run["dataset_hash"] == found["data"]["sha256"]
        assert run["rows_hash"] == found["data"]["rows_hash"]
        assert (run["rows"], run["seed"], run["model"], run["engine"], run["pipeline"]) == (
            30,
            4,
            "instant",
            "small",
            "chat",
        )
        assert json.loads(run["settings"])["judge"]["instruction"] == "Judge."
        assert "{text}" in run["prompt_text"]
        assert json.loads(run["options"])["mapping"] == {"x": "ok"}
        assert json.loads(run["metrics"])["overall"]["rows"] == 30
        assert len(judged) == 30
        assert not [value for row in judged for value in row if isinstance(value, str) and "words" in value]

    def test_is_left_alone_where_that_is_asked(self, evaluate: Evaluate, store: StoreSettings) -> None:
        evaluate(SOME, "--no-store")
        client = connect(store)
        assert client.command("SELECT count() FROM evaluations") == 0
        client.close()

    def test_runs_are_compared_with_earlier_ones(self, evaluate: Evaluate, pipeline: Path, weir: Weir) -> None:
        first = evaluate(SOME)["subjects"][0]["run"]
        pipeline.write_text(PIPELINE.replace("Judge.", "Judge well."), encoding="utf-8")
        found = evaluate(SOME, "--against", first[:12], "--no-store")
        (pair,) = found["comparisons"]
        assert (pair["rows"], pair["second"]) == (60, f"small ({first[:8]})")
        assert pair["only_first"] + pair["only_second"] > 0
        told = weir("eval", "--data", "rows.jsonl", "-p", pipeline, "--engine", "a=http://x", "--against", "zz")[2]
        assert "--against zz: there is no such run" in told

    def test_leaderboard_ranks_what_saw_the_same_rows(
        self, evaluate: Evaluate, weir: Weir, pipeline: Path, write: Write, tmp_path: Path
    ) -> None:
        data = surely()
        evaluate(data, engines=("right", "twin"))
        evaluate(data, engines=("right",))  # again: only the newer one counts
        never = PIPELINE.replace("calibration:", "thresholds: {review: 1, block: 1}\n      calibration:")
        pipeline.write_text(never, encoding="utf-8")
        evaluate(data, engines=("never",))
        evaluate(data, "--rows", 50, engines=("few",))

        status, out, err = weir("leaderboard", "--json", "--metric", "recall")
        assert status == 0, err
        first, second = map(json.loads, out.splitlines())
        assert (first["rows"], second["rows"]) == (120, 50)
        assert [(rank["name"], rank["best"], rank["worst"], rank["ties"]) for rank in first["ranks"]] == [
            ("right", 1, 2, ["twin"]),
            ("twin", 1, 2, ["right"]),
            ("never", 3, 3, []),
        ]
        assert first["ranks"][0]["recall"]["value"] == 1
        status, out, _ = weir("leaderboard", "--data", write(data), "--all")
        assert status == 0
        assert out.count("right ") >= 2
        assert "1-3 " in out
        assert "never" in out

    def test_leaderboard_of_nothing_is_told(self, weir: Weir, evaluate: Evaluate, tmp_path: Path) -> None:
        assert "the store has no run; weir eval --store makes one" in weir("leaderboard")[2]
        assert "the store has no run on abc" in weir("leaderboard", "--dataset", "abc")[2]
        assert "none of: f1, auroc" in weir("leaderboard", "--metric", "luck")[2]
        assert "[Errno 2]" in weir("leaderboard", "--data", tmp_path / "none")[2]
        evaluate(SOME)
        assert "runs of moderate have: precision" in weir("leaderboard", "--metric", "macro_f1")[2]
