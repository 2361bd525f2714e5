"""What the store knows of a stage becomes examples, each as heavy as the traffic that it stands for."""

from itertools import count

import pytest

from sinks.labelled import Band, Labelled
from streams.cli.training_rows import Seen, from_judged

_ids = count(1)
LOW, HIGH = Band("s-1", 3), Band("s-1", 60)
BANDS = {Band("", 0): (5, 5), LOW: (100, 4), HIGH: (30, 30)}


def said(text: str, flagged: bool, band: Band = HIGH, person: str = "", judged: bool = True) -> Labelled:
    """person: `agrees` or `overturns`, if one looked."""
    by = "person" if person else "model"
    return Labelled(next(_ids), text, "en", flagged, by, "", judged, person == "overturns", band)


def test_only_what_the_model_judged_stands_for_others() -> None:
    rows = [
        said("audited", False, LOW),
        said("overturned", True, LOW, "overturns"),
        said("reported", True, LOW, "overturns", judged=False),
        said("doubtful", True),
        said("earlier", False, Band("", 0)),
        said("reused", False, Band("s-2", 9)),
    ]
    learned = from_judged(rows, BANDS, "watch/judge")
    heavy = {each.text: each.weight / learned.examples[-1].weight for each in learned.examples}
    assert heavy == pytest.approx(
        {"audited": 25, "overturned": 25, "reported": 1, "doubtful": 1, "earlier": 1, "reused": 1}
    )
    assert sum(each.weight for each in learned.examples) == pytest.approx(6)
    assert learned.seen == Seen(by_model=4, by_people=2, overturned=2)
    assert [each.flagged for each in learned.examples] == [0, 1, 1, 1, 0, 0]


def test_people_are_heard_for_all_copies_of_a_text() -> None:
    rows = [said("copied", True), said("copied", True, LOW), said("copied", False, person="overturns")]
    rows += [said("unclear", True), said("unclear", False), said("unclear", False)]
    learned = from_judged(rows, BANDS, "watch/judge")
    assert {each.text: each.flagged for each in learned.examples} == {"copied": 0, "unclear": pytest.approx(1 / 3)}
    assert [each.weight for each in learned.examples] == pytest.approx([9 / 5, 1 / 5])
    assert learned.two_ways == 1


def test_weights_are_for_figures_and_not_for_the_fit() -> None:
    rows = [said(f"words {number}", number % 3 == 0, LOW if number % 2 else HIGH) for number in range(200)]
    parts = from_judged(rows, BANDS, "watch/judge").parts()
    assert {each.weight for each in parts.fit} == {1.0}
    assert len({each.weight for each in parts.held_out}) == len({each.weight for each in parts.calibration}) == 2
