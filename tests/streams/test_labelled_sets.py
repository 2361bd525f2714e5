"""What the benches make of labelled sets, on rows of ours."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.community import Scored, thinned
from bench.tickets import made, parts
from streams import pipeline

LABELS = ("Refund_not_showing_up", "reverted_card_payment?", "card_arrival")


@pytest.mark.parametrize("examples", [0, 1])
def test_pipeline_of_the_labels_of_a_set_loads_and_shows_no_row_that_is_judged(tmp_path: Path, examples: int) -> None:
    rows = [{"label": label, "text": f"{label} {number}"} for label in LABELS for number in range(9)]
    judged, others = parts(rows, 6)
    file = tmp_path / "tickets.yaml"
    file.write_text(yaml.safe_dump(made(others, examples)), encoding="utf-8")
    settings = pipeline.load(file).stages[0].judge

    assert settings is not None
    assert settings.names() == ["refund_not_showing_up", "card_arrival", "reverted_card_payment"]  # type: ignore[union-attr]
    assert len(settings.examples) == examples * len(LABELS)  # type: ignore[union-attr]
    assert not {example.text for example in settings.examples} & {row["text"] for row in judged}  # type: ignore[union-attr]


def test_thinned_rows_keep_all_that_are_fine() -> None:
    flagged = np.array([True] * 80 + [False] * 20)
    rows = thinned(Scored(np.arange(100).astype(object), np.linspace(0, 1, 100), flagged), 0.2)

    assert int(rows.flagged.sum()) == 5
    assert rows.texts[~rows.flagged].tolist() == list(range(80, 100))
