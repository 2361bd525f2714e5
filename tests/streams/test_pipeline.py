"""Pipeline files: the shipped ones load, and every mistake is told with its line, its place and the choices."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.operators.classify import ClassifySettings
from inference.operators.moderate import ModerateSettings
from streams.pipeline import Pipeline, PipelineError, load, load_all

GOOD = """\
name: watch
version: "1"
source: messages
sla: 10s
stages:
  - name: moderate
    writes: verdicts
    context:
      messages: 2
    judge:
      operator: moderate
      categories:
        - name: spam
          definition: advertising
        - name: threat
          definition: threatens violence
          block: 0.8
      thresholds:
        review: 0.3
        block: 0.7
      examples:
        - {label: ok, text: hello}
        - {label: spam, text: buy coins}
  - name: sort
    reads: tickets
    writes: sorted
    judge:
      operator: classify
      classes:
        - name: billing
          definition: money
        - name: other
          definition: the rest
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(content: str | bytes, name: str = "watch.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return file


def told(path: Path) -> list[str]:
    """What is wrong with a file, without its path."""
    with pytest.raises(PipelineError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_the_shipped_files_load(shipped: Path) -> None:
    pipelines = {pipeline.name: pipeline for pipeline in load_all([shipped])}
    assert set(pipelines) == {"call-review", "community-moderation", "ticket-triage"}
    (moderate,) = pipelines["community-moderation"].stages
    (triage,) = pipelines["ticket-triage"].stages
    assert isinstance(moderate.judge, ModerateSettings)
    assert isinstance(triage.judge, ClassifySettings)
    assert (pipelines["community-moderation"].sla_seconds, pipelines["ticket-triage"].sla_seconds) == (30, 300)


def test_the_stages_of_a_review_of_calls(shipped: Path) -> None:
    review = load(shipped / "call-review.yaml")
    assert [(stage.name, stage.task, review.reads(stage)) for stage in review.stages] == [
        ("assemble", "assemble", "calls.turns"),
        ("exchanges", "cut", "calls.transcripts"),
        ("claims", "cut", "calls.exchanges"),
        ("check", "check", "calls.claims"),
        ("summarize", "summarize", "calls.transcripts"),
    ]
    assert [stage.about() for stage in review.stages[:3]] == [
        "turns into calls, closed after 30m of silence",
        "into exchanges, answers of agent",
        "into claims, answers of agent",
    ]
    assert review.sla_seconds == 3 * 3600


def test_what_is_left_out_has_a_default(write: Write) -> None:
    pipeline = load(write(GOOD))
    first, second = pipeline.stages
    assert (first.context.messages, first.context.characters) == (2, 200)
    assert second.context.messages == 0
    assert pipeline.description == ""
    assert list(first.judge.labels()) == ["ok", "spam", "threat"]


def test_a_stage_reads_the_source_or_what_the_stage_before_writes(write: Write) -> None:
    pipeline = load(write(GOOD))
    assert [pipeline.reads(stage) for stage in pipeline.stages] == ["messages", "tickets"]
    chained = load(write(GOOD.replace("    reads: tickets\n", "")))
    assert [chained.reads(stage) for stage in chained.stages] == ["messages", "verdicts"]


@pytest.mark.parametrize(
    ("sla", "seconds"), [("250ms", 0.25), ("10s", 10), ("1.5m", 90), ("3h", 10_800), ("1d", 86_400), ("0s", 0)]
)
def test_durations(write: Write, sla: str, seconds: float) -> None:
    assert load(write(GOOD.replace("10s", sla))).sla_seconds == seconds


STAGE = "the fields here are: name, reads, writes, context, reuse, prompt, judge"
JUDGE = "instruction, examples, calibration, operator"

# What is changed in the good file, and what is told.
MISTAKES: dict[str, tuple[str, str, str]] = {
    "unknown field": (
        "    writes: verdicts",
        "    writes: verdicts\n    retries: 3",
        rf"8: stages\.0\.retries: unknown field retries; {STAGE}",
    ),
    "unknown field at the top": (
        "sla: 10s",
        "sla: 10s\nslo: 5s",
        r"5: slo: unknown field slo; the fields here are: name",
    ),
    "unknown field of an operator": (
        "      thresholds:",
        "      treshold: 1\n      thresholds:",
        rf"18: stages\.0\.judge\.treshold: unknown field treshold; the fields here are: {JUDGE}",
    ),
    "a field of the other operator": (
        "      categories:",
        "      review_below: 0.5\n      categories:",
        r"12: stages\.0\.judge\.review_below: unknown field review_below; the fields here are:",
    ),
    "missing field": ('version: "1"\n', "", r"1: version: Field required"),
    "missing field of a stage": ("    writes: verdicts\n", "", r"6: stages\.0\.writes: Field required"),
    "missing field of a category": (
        "          definition: advertising\n",
        "",
        r"13: stages\.0\.judge\.categories\.0\.definition: Field required",
    ),
    "missing operator": (
        "      operator: moderate\n",
        "",
        r"10: stages\.0\.judge: Unable to extract tag using discriminator 'operator'",
    ),
    "wrong operator": (
        "operator: moderate",
        "operator: judge",
        r"10: stages\.0\.judge: Input tag 'judge' .*'operator' .*: 'moderate', 'classify'",
    ),
    "label of an example": (
        "{label: spam,",
        "{label: scam,",
        r"10: stages\.0\.judge: example label 'scam' is not a label of this stage; the labels are: ok, spam, threat",
    ),
    "thresholds in the wrong order": (
        "        review: 0.3",
        "        review: 0.75",
        r"10: stages\.0\.judge: thresholds: review \(0\.75\) must not be above block \(0\.7\)",
    ),
    "threshold of a category": (
        "          block: 0.8",
        "          review: 0.9\n          block: 0.8",
        r"10: stages\.0\.judge: category 'threat': review \(0\.9\) must not be above block \(0\.8\)",
    ),
    "threshold above one": (
        "        block: 0.7",
        "        block: 7",
        r"20: stages\.0\.judge\.thresholds\.block: Input should be less than or equal to 1",
    ),
    "two labels of one name": (
        "        - name: other",
        "        - name: billing",
        r"27: stages\.1\.judge: two labels have the same name; the labels are: .*billing",
    ),
    "two categories of one name": (
        "        - name: threat",
        "        - name: spam",
        r"10: stages\.0\.judge: two labels have the same name; the labels are: .*spam",
    ),
    "the allowed label as a category": (
        "        - name: threat",
        "        - name: ok",
        r"10: stages\.0\.judge: two labels have the same name; the labels are: .*ok",
    ),
    "bad duration": (
        "sla: 10s",
        "sla: 10 seconds",
        r"4: sla: a duration is a number and ms, s, m, h or d, for example",
    ),
    "duration without unit": ("sla: 10s", "sla: 10", r"4: sla: Input should be a valid string"),
    "duration with a line break": ("sla: 10s", 'sla: "10s\\n"', r"4: sla: String should match pattern"),
    "version as a number": ('version: "1"', "version: 1", r"2: version: Input should be a valid string"),
    "name": ("name: watch", "name: Watch it", r"1: name: String should match pattern"),
    "name with a line break": ("name: watch", 'name: "watch\\n"', r"1: name: String should match pattern"),
    "topic": ("source: messages", "source: a topic", r"3: source: String should match pattern"),
    "too much context": (
        "      messages: 2",
        "      messages: 51",
        r"9: stages\.0\.context\.messages: Input should be less",
    ),
    "stages are no list": (
        "stages:\n",
        "stages: none\nrest:\n",
        r"6: rest: unknown field rest; the fields here are: name",
    ),
    "two stages of one name": ("name: sort", "name: moderate", r"1: file: two stages are named 'moderate'"),
    "a topic read and written": ("source: messages", "source: verdicts", r"1: file: stage 'moderate' reads and writes"),
    "two tasks": (
        "    writes: verdicts",
        "    writes: verdicts\n    assemble: {silence: 1m}",
        r"6: stages\.0: a stage has one of judge, cut and assemble",
    ),
    "nothing to escalate": (
        GOOD[GOOD.index("    judge:\n      operator: classify") :],
        "    cut: {into: claims, answers: [agent]}\n    escalate: {writes: people}\n",
        r"24: stages\.1: only a stage that judges can escalate",
    ),
    "cut into words": (
        GOOD[GOOD.index("    judge:\n      operator: classify") :],
        "    cut: {into: words, answers: [agent]}\n",
        r"27: stages\.1\.cut\.into: Input should be 'exchanges' or 'claims'",
    ),
    "a prompt with a space": (
        "    writes: verdicts",
        "    writes: verdicts\n    prompt: version 4",
        r"8: stages\.0\.prompt: String should match pattern",
    ),
    "one class": (
        "        - name: other\n          definition: the rest\n",
        "",
        r"29: stages\.1\.judge\.classes: List should have at least 2 items",
    ),
    "a prior for some labels": (
        "      thresholds:",
        "      calibration:\n        prior: {ok: 1}\n      thresholds:",
        r"10: stages\.0\.judge: calibration\.prior must name every label and no other; the labels are: ok, spam",
    ),
    "a key twice": ("sla: 10s", "sla: 10s\nsla: 5s", r"5: not YAML: found duplicate key \"sla\""),
    "a tab": ("    writes: verdicts", "\twrites: verdicts", r"7: not YAML: "),
    "an open bracket": ("sla: 10s", "sla: [10s", r"\d+: not YAML: "),
    "a number as key": ("sla: 10s", "sla: 10s\n7: 5", r"1: file: unknown field 7; the fields here are"),
}


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_line(write: Write, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    (line,) = told(write(GOOD.replace(old, new, 1)))
    assert re.fullmatch(f"{expected}.*", line), line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", r"1: file: Input should be a valid dictionary.*"),
        ("# nothing but words\n", r"1: file: Input should be a valid dictionary.*"),
        ("- name: watch\n- version: 1\n", r"1: file: Input should be a valid dictionary.*"),
        ("watch\n", r"1: file: Input should be a valid dictionary.*"),
        ("a: b: c\n", r"1: not YAML: mapping values are not allowed here"),
        ("name: watch\n---\nname: other\n", r"\d: not YAML: .*"),
        ("name: \x00\n", r" not YAML: .*"),
        (b"name: \xff\n", r" cannot be read: .*"),
    ],
    ids=["empty", "comment", "list", "word", "not YAML", "two documents", "control character", "not UTF-8"],
)
def test_a_file_that_is_no_pipeline(write: Write, content: str | bytes, expected: str) -> None:
    line, *_ = told(write(content))
    assert re.fullmatch(expected, line), line


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    wrong = (
        GOOD.replace("sla: 10s", "sla: soon")
        .replace("review: 0.3", "review: 3")
        .replace("      messages: 2", "      messages: -1")
    )
    assert [line.split(": ")[:2] for line in told(write(wrong))] == [
        ["4", "sla"],
        ["9", "stages.0.context.messages"],
        ["19", "stages.0.judge.thresholds.review"],
    ]


def test_a_mistake_in_an_anchor_is_told_as_well(write: Write) -> None:
    wrong = GOOD.replace("    context:\n      messages: 2\n", "    context: &some\n      messages: 99\n")
    wrong = wrong.replace(
        "    reads: tickets\n", "    reads: tickets\n    context:\n      <<: *some\n      characters: 7\n"
    )
    assert [line.split(": ")[:2] for line in told(write(wrong))] == [
        ["9", "stages.0.context.messages"],
        ["26", "stages.1.context.messages"],
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in told(tmp_path / "none.yaml")[0]
    assert "cannot be read" in told(tmp_path)[0]


def test_files_and_folders_are_read_together(write: Write, shipped: Path, tmp_path: Path) -> None:
    one, other = write(GOOD, "b.yaml"), write(GOOD.replace("watch", "first"), "a.yaml")
    write("no pipeline", "notes.txt")
    assert [pipeline.name for pipeline in load_all([tmp_path])] == ["first", "watch"]
    assert [pipeline.name for pipeline in load_all([one, other])] == ["watch", "first"]
    assert len(load_all([tmp_path, shipped])) == 5


def test_mistakes_of_all_files_are_told_at_once(write: Write, tmp_path: Path) -> None:
    write(GOOD.replace("10s", "soon"), "a.yaml")
    write("", "b.yaml")
    write(GOOD, "c.yaml")
    write(GOOD, "d.yaml")
    with pytest.raises(PipelineError) as caught:
        load_all([tmp_path])
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in lines] == [
        "a.yaml:4",
        "b.yaml:1",
        "two pipelines are named 'watch'",
    ]


def test_a_folder_without_pipelines(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=re.escape(f"no pipeline files (*.yaml) in: {tmp_path}")):
        load_all([tmp_path])


def test_the_schema_for_editors_is_that_of_the_code(shipped: Path) -> None:
    file = shipped / "pipeline.schema.json"
    if not file.exists():
        pytest.skip("not generated yet: make docs")
    assert json.loads(file.read_text(encoding="utf-8")) == Pipeline.model_json_schema()
