"""`weir fit-cascade`, from labelled rows to the lines of the pipeline file."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from scipy.stats import binom

from inference.screen.model import load
from inference.screen.train import held_out
from streams import pipeline
from streams.cascade import screen_file
from tests.streams.cli.conftest import Weir, Write

pytestmark = pytest.mark.usefixtures("logging_as_before")

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "deploy" / "pipelines" / "community-moderation.yaml"
LEARNED = REPOSITORY / "deploy" / "traffic" / "community.jsonl"
NEW = [REPOSITORY / "tests" / "data" / f"community_{name}.jsonl" for name in ("heldout", "calibration")]


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def rows_in_sight() -> list[dict[str, Any]]:
    return [row for file in NEW for row in rows_of(file)]


def test_the_shipped_thresholds_are_what_it_gives(weir: Weir) -> None:
    options = [each for file in NEW for each in ("--data", file)]
    status, told, err = weir("fit-cascade", SHIPPED, *options, "--trained-on", LEARNED)
    assert status == 0, err
    section = YAML(typ="safe").load(told[told.index("cascade:\n") :])["cascade"]
    stage = pipeline.load(SHIPPED).stages[0]
    assert stage.cascade is not None
    assert section == stage.cascade.model_dump(exclude_unset=True)
    assert told.count("Promised: ") == 2


def test_what_is_promised_holds_by_counting(weir: Weir) -> None:
    options = [each for file in NEW for each in ("--data", file)]
    status, told, err = weir("fit-cascade", SHIPPED, *options, "--trained-on", LEARNED, "--json")
    assert status == 0, err
    found = json.loads(told)
    used = rows_in_sight() + [row for row in rows_of(LEARNED) if held_out(row["text"])]
    settings = pipeline.load(SHIPPED).stages[0].cascade
    assert settings is not None
    risks = load(screen_file(settings.screen), settings.sha256).risks([row["text"] for row in used])
    missed = sum(risk < found["pass_below"] and row["label"] != "ok" for row, risk in zip(used, risks, strict=True))
    flagged = sum(row["label"] != "ok" for row in used)
    (recall,) = [claim for claim in found["claims"] if claim["of"] == "recall"]
    assert (found["rows"], found["flagged"]) == (len(used), flagged)
    assert (recall["rows"], recall["failures"]) == (flagged, missed)
    assert binom.cdf(missed, flagged, 1 - settings.target) <= (1 - settings.confidence) / 2


def test_rows_that_the_screen_learned_from_are_left_out(weir: Weir) -> None:
    told = [
        weir("fit-cascade", SHIPPED, "--data", NEW[1], *more, "--json")[1] for more in ((), ("--trained-on", LEARNED))
    ]
    fewer, more = (json.loads(each)["rows"] for each in told)
    assert more - fewer == sum(held_out(row["text"]) for row in rows_of(LEARNED))


def test_ten_rows_are_refused_with_how_many_it_takes(weir: Weir, write: Write) -> None:
    status, _, err = weir("fit-cascade", SHIPPED, "--data", write(rows_in_sight()[:10]))
    assert status == 2
    assert "2 of 10 rows are flagged by the reference; to promise 95.0% of what it flags" in err
    assert "takes at least 72 flagged rows: about 360 rows" in err


def test_labels_of_others_are_mapped(weir: Weir, write: Write) -> None:
    rows = [{"words": row["text"], "kind": "fine" if row["label"] == "ok" else "toxic"} for row in rows_in_sight()]
    names = ("--text-field", "words", "--label-field", "kind", "--map", "fine=ok", "--flagged", "toxic")
    theirs = json.loads(weir("fit-cascade", SHIPPED, "--data", write(rows), *names, "--json")[1])
    ours = json.loads(weir("fit-cascade", SHIPPED, "--data", write(rows_in_sight()), "--json")[1])
    assert theirs["pass_below"] == ours["pass_below"]
    assert theirs["claims"] == ours["claims"]


def test_a_text_with_two_labels_is_left_out_and_told(weir: Weir, write: Write) -> None:
    rows = rows_in_sight()
    status, told, err = weir("fit-cascade", SHIPPED, "--data", write([*rows, rows[0] | {"label": "spam"}, rows[1]]))
    assert status == 0, err
    assert "Note: 2 rows are left out: the same text has several labels." in told
    assert "Note: 1 rows repeat others" in told


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([], (), "there are no rows to fit thresholds to"),
        ([{"text": "a", "label": "ok"}], (), "how many rows that takes cannot be told while none is flagged"),
        ([{"text": "a", "label": "rude"}], (), "not labels of stage 'moderate': 'rude' (1 rows)"),
        ([{"text": "a", "verdict": "ok"}], (), "no row has the field 'label' (--label-field); the fields are: text"),
        ([{"text": "a", "label": "ok"}], ("--target", 1), "recall must be above 0 and below 1, not 1.0"),
        ([{"text": "a", "label": "ok"}], ("--stage", "x"), "has no stage 'x'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    weir: Weir, write: Write, rows: list[dict[str, Any]], options: tuple[object, ...], told: str
) -> None:
    status, _, err = weir("fit-cascade", SHIPPED, "--data", write(rows), *options)
    assert status == 2
    assert told in err


def test_a_stage_without_a_screen_is_refused(weir: Weir, tmp_path: Path) -> None:
    yaml = YAML()
    content = yaml.load(SHIPPED)
    del content["stages"][0]["cascade"]
    yaml.dump(content, file := tmp_path / "plain.yaml")
    assert "has no `cascade`; give it one with `screen` and `sha256`" in weir("fit-cascade", file, "--data", NEW[0])[2]
    assert "needs rows: --data, --trained-on, or both" in weir("fit-cascade", SHIPPED)[2]
