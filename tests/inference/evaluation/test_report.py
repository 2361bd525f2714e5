"""All figures of a subject, also where there is little to measure."""

from collections.abc import Callable

import pytest

from inference.evaluation.answers import Answers, Task
from inference.evaluation.report import report

Make = Callable[..., Answers]
SCORES = {"ok": [0.9, 0.05, 0.05], "insult": [0.2, 0.7, 0.1], "spam": [0.1, 0.1, 0.8]}


def test_figures_are_by_label_and_language(task: Task, make: Make) -> None:
    truth = ["ok"] * 20 + ["spam"] * 10 + ["toxic"] * 10
    said = ["ok"] * 15 + ["spam"] * 5 + ["spam"] * 8 + ["ok"] * 2 + ["insult"] * 10
    langs = ["en", "pt"] * 20
    found = report(task, make(task, truth, [SCORES[each] for each in said], langs=langs))

    overall = found.overall.metrics
    assert (found.overall.rows, found.overall.positives) == (40, 20)
    assert overall["precision"].value == pytest.approx(18 / 23)
    assert overall["recall"].value == pytest.approx(18 / 20)
    assert overall["f1"].value == pytest.approx(36 / 43)
    assert overall["accuracy"].value == pytest.approx(33 / 40)
    assert all(each.low is not None and each.value is not None and each.low <= each.value for each in overall.values())
    assert {label: each.value for label, each in found.flagged.items()} == {"ok": 0.25, "spam": 0.8, "toxic": 1.0}
    assert list(found.labels) == ["ok", "spam"]
    assert (found.labels["spam"].rows, found.labels["spam"].positives) == (30, 10)
    assert found.labels["spam"].metrics["recall"].value == pytest.approx(0.8)
    assert found.labels["ok"].rows == 40
    assert {lang: each.rows for lang, each in found.languages.items()} == {"en": 20, "pt": 20}
    assert found.truths == ["ok", "spam", "toxic"]
    assert found.confusion == [[15, 0, 5], [2, 0, 8], [0, 10, 0]]
    assert found.roc[0] == (0, 0)
    assert found.roc[-1] == (1, 1)
    assert found.work.seconds == (0.5, 0.5, 0.5)
    assert found.work.cost_of_a_thousand(40) == pytest.approx(5)
    assert any("toxic" in note for note in found.notes)
    assert any("Few rows: 20 against the rules, 20 allowed" in note for note in found.notes)


def test_one_class_has_no_curve_and_a_note(task: Task, make: Make) -> None:
    found = report(task, make(task, ["ok"] * 12, [SCORES["ok"]] * 11 + [SCORES["spam"]]))
    assert (found.overall.metrics["auroc"].value, found.overall.metrics["recall"].value, found.roc) == (None, None, [])
    assert found.overall.metrics["precision"].value == 0
    assert found.overall.metrics["accuracy"].value == pytest.approx(11 / 12)
    assert "No row is against the rules" in found.notes[0]


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("which", ["task", "sorting"])
def test_a_handful_of_rows_is_measured_as_far_as_it_goes(
    rows: int, which: str, make: Make, request: pytest.FixtureRequest
) -> None:
    asked: Task = request.getfixturevalue(which)
    found = report(asked, make(asked, asked.labels[:rows], [[0.6, 0.2, 0.2]] * rows))
    assert found.overall.rows == rows
    assert found.overall.metrics["ece"].value is None
    assert found.notes


def test_of_several_labels_the_means_count(sorting: Task, make: Make) -> None:
    truth = ["bill"] * 40 + ["parcel"] * 40 + ["other"] * 5
    said = [[0.8, 0.1, 0.1]] * 30 + [[0.1, 0.8, 0.1]] * 50 + [[0.1, 0.1, 0.8]] * 5
    found = report(sorting, make(sorting, truth, said))
    assert list(found.overall.metrics) == ["accuracy", "macro_f1", "macro_auroc", "ece"]
    assert found.overall.metrics["accuracy"].value == pytest.approx(75 / 85)
    assert found.flagged == {}
    assert found.confusion == [[30, 10, 0], [0, 40, 0], [0, 0, 5]]
    assert "Less than 30 rows of: other" in found.notes[0]


def test_repeated_texts_are_told(task: Task, make: Make) -> None:
    keys = ["a", "a-2", "a-3", "b"]
    found = report(task, make(task, ["ok", "ok", "ok", "spam"], [SCORES["ok"]] * 4, keys=keys))
    assert "2 rows repeat" in found.notes[-1]
