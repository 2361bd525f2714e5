"""`weir train-screen`, from a file of rows to the lines of the pipeline file."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from inference.screen.model import load
from tests.inference.screen.conftest import sentences
from tests.streams.cli.conftest import Weir, Write

pytestmark = pytest.mark.usefixtures("logging_as_before")


@pytest.fixture
def weir(weir: Weir) -> Weir:
    return partial(weir, "train-screen")


def labelled(count: int = 500, seed: int = 1) -> list[dict[str, Any]]:
    return [{"text": each.text, "label": each.label, "lang": each.language} for each in sentences(count, seed)]


FLAGGED = ("--flagged", "grumpkin,snotling,wretchface,blockhead")


def test_a_screen_is_written_and_pinned(weir: Weir, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "mine-1.safetensors"
    status, told, err = weir("--data", write(labelled()), "--out", out, *FLAGGED, "--licence", "MIT")
    assert status == 0, err
    pinned = re.search(r"cascade:\n  screen: (.*)\n  sha256: ([0-9a-f]{64})\n", told)
    assert pinned is not None
    screen = load(Path(pinned[1]), pinned[2])
    assert (screen.card.name, screen.card.version, screen.card.licence) == ("mine-1", "1", "MIT")
    assert screen.card.trained_on == ("rows.jsonl",)
    assert screen.risks(["you snotling"])[0] > 0.5 > screen.risks(["thanks for the apples"])[0]
    assert re.search(r"new\W+all\W+.*1\.000", told)
    assert "Too few rows to tell much" in told
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_the_old_one_is_measured_on_the_same_rows(weir: Weir, write: Write, tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    known = [row for row in labelled(2600) if row["label"] in {"ok", "grumpkin"}]
    status, _, err = weir("--data", write(known), "--out", old, "--flagged", "grumpkin")
    assert status == 0, err
    rows = write(labelled(1200))
    status, told, err = weir("--data", rows, "--out", new, *FLAGGED, "--against", old, "--json")
    assert status == 0, err
    report = json.loads(told)
    assert report["card"]["version"] == "2"
    assert report["difference"]["better"]
    assert (
        [each["language"] for each in report["new"]] == [each["language"] for each in report["old"]] == ["", "en", "pt"]
    )
    assert report["new"][0]["auroc"] > report["old"][0]["auroc"]
    assert report["new"][0]["rows"] == sum(report["held_out"].values())
    assert not report["old_may_have_seen_them"]
    assert report["sha256"] == load(new).sha256

    status, told, _ = weir("--data", rows, "--out", tmp_path / "again.safetensors", *FLAGGED, "--against", new)
    assert status == 0
    assert "not shown to be better than the old one" in told
    assert "Keep the old one" in told
    assert "cascade:" not in told
    assert (tmp_path / "again.safetensors").exists()


def test_shares_of_votes_need_no_names(weir: Weir, write: Write, tmp_path: Path) -> None:
    rows = [{"words": row["text"], "share": 0.0 if row["label"] == "ok" else 0.8} for row in labelled()]
    out = tmp_path / "votes.safetensors"
    options = ("--text-field", "words", "--label-field", "share", "--seed", 3)
    assert weir("--data", write(rows), "--out", out, *options)[0] == 0
    first = out.read_bytes()
    assert weir("--data", write(rows), "--out", out, *options)[0] == 0
    assert out.read_bytes() == first


def test_categories_get_probabilities(weir: Weir, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "named.safetensors"
    assert weir("--data", write(labelled()), "--out", out, *FLAGGED, "--categories", "snotling")[0] == 0
    found = load(out).scores(["you snotling", "you blockhead"])
    assert found[0, 1] > found[1, 1]


def test_contradictions_are_counted(weir: Weir, write: Write, tmp_path: Path) -> None:
    rows = labelled()
    rows += [row | {"label": "ok"} for row in rows if row["label"] == "snotling"][:3]
    _, told, _ = weir("--data", write(rows), "--out", tmp_path / "x.safetensors", *FLAGGED)
    assert "3 texts are labelled both ways." in told


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([], (), "rows.jsonl: too few rows to fit: 0 are to be flagged and 0 are not"),
        (
            labelled(10),
            (),
            "row 1: label 'grumpkin' is neither true or false nor a number from 0 to 1; --flagged says",
        ),
        ([{"text": "a", "label": 2}], (), "row 1: label '2' is neither true or false nor a number from 0 to 1"),
        ([{"text": "a", "label": float("nan")}], (), "is not JSON"),
        (
            [{"text": "a", "verdict": "ok"}],
            (),
            "no row has the field 'label' (--label-field); the fields are: text, verdict",
        ),
        ([{"text": " ", "label": 1}], (), "row 1 has no text in the field 'text'"),
        (labelled(10), ("--flagged", "hate"), "no row has the label 'hate'; there are: "),
        (labelled(10), ("--flagged", "snotling", "--categories", "x"), "no row has the label 'x'; there are: "),
        ([{"text": f"n{n}", "label": 1} for n in range(300)], (), "and 0 are not; it takes 20 of each"),
    ],
)
def test_what_cannot_be_learned_from_is_told(
    weir: Weir, write: Write, tmp_path: Path, rows: list[dict[str, Any]], options: tuple[str, ...], told: str
) -> None:
    out = tmp_path / "x.safetensors"
    status, _, err = weir("--data", write(rows), "--out", out, *options)
    assert status == 2
    assert told in err
    assert not out.exists()


def test_files_that_cannot_be_used_are_named(weir: Weir, write: Write, tmp_path: Path) -> None:
    rows = write(labelled())
    status, _, err = weir("--data", tmp_path / "none.jsonl", "--out", tmp_path / "x", *FLAGGED)
    assert (status, "none.jsonl" in err) == (2, True)
    status, _, err = weir("--data", rows, "--out", tmp_path / "x", *FLAGGED, "--against", rows)
    assert (status, "holds no screen that this version can use" in err) == (2, True)
    status, _, err = weir("--data", rows, "--out", tmp_path / "no" / "x", *FLAGGED)
    assert (status, "cannot be written" in err) == (2, True)
