"""A screen learns what made the labels, says how sure it may be, and is measured on what it has not seen."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from inference.screen.compare import by_language, difference, figures, flags
from inference.screen.errors import TooFewRows
from inference.screen.model import Card, Features, Screen
from inference.screen.train import Example, Parts, fit, held_out, split
from tests.inference.screen.conftest import BAD, sentences


def risks(screen: Screen, parts: Parts) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return screen.risks([example.text for example in parts.held_out])


def test_the_rule_is_learned(screen: Screen, parts: Parts) -> None:
    flagged = flags(parts.held_out)
    assert roc_auc_score(flagged, risks(screen, parts)) > 0.999
    category = screen.scores([example.text for example in parts.held_out])[:, 1]
    assert roc_auc_score([example.label == "blockhead" for example in parts.held_out], category) > 0.99


def test_the_same_seed_gives_the_same_file(screen: Screen, parts: Parts, card: Card) -> None:
    assert fit(parts, card).dump() == screen.dump()


def test_a_text_has_one_place(examples: list[Example], parts: Parts) -> None:
    texts = [{example.text for example in part} for part in (parts.fit, parts.calibration, parts.held_out)]
    assert sum(map(len, texts)) == len({example.text for example in examples})
    assert len(parts.held_out) / len(examples) == pytest.approx(0.2, abs=0.04)
    assert len(parts.calibration) / len(examples) == pytest.approx(0.1, abs=0.03)
    assert all(held_out(example.text) for example in parts.held_out)
    for example in parts.held_out[:20]:
        assert held_out(f"  {example.text.upper()} ")
        assert split([replace(example, flagged=1 - example.flagged)]).held_out


def test_risks_come_true_as_often_as_they_say(card: Card) -> None:
    """Words that are flagged in 30 and in 80 of 100 texts, by chance."""
    chance = np.random.default_rng(1)
    shares = {"maybe": 0.3, "often": 0.8}
    drawn = split(
        Example(f"{word} n{chance.integers(10**9)}", float(chance.random() < share))
        for _ in range(1500)
        for word, share in shares.items()
    )
    screen = fit(drawn, card.model_copy(update={"categories": ()}))
    for word, share in shares.items():
        texts = [example.text for example in drawn.held_out if word in example.text]
        assert screen.risks(texts).mean() == pytest.approx(share, abs=0.08)


def test_shares_of_votes_are_votes(card: Card) -> None:
    """Half of the votes to flag is as good as as many texts flagged as not."""
    plain = card.model_copy(update={"categories": ()})
    told = [Example(f"maybe n{number}", 0.75) for number in range(500)]
    told += [Example(f"never n{number}", 0.0) for number in range(500)]
    found = fit(split(told), plain).risks(
        [f"{word} n{number}" for word in ("maybe", "never") for number in range(9000, 9100)]
    )
    assert found[:100].mean() == pytest.approx(0.75, abs=0.07)
    assert found[100:].mean() < 0.05


def test_weights_count(card: Card) -> None:
    plain = card.model_copy(update={"categories": ()})
    once = [Example(f"word n{number * 7919}", float(number % 2)) for number in range(600)]
    heavy = [replace(example, weight=9.0 if example.flagged else 1.0) for example in once]
    texts = [example.text for example in split(once).held_out]
    assert fit(split(once), plain).risks(texts).mean() == pytest.approx(0.5, abs=0.08)
    assert fit(split(heavy), plain).risks(texts).mean() == pytest.approx(0.9, abs=0.08)


@pytest.mark.parametrize("some", [sentences(0), sentences(10), sentences(300, share=0), sentences(300, share=1)])
def test_too_little_to_learn_from_is_told(card: Card, some: list[Example]) -> None:
    with pytest.raises(
        TooFewRows, match=r"too few rows to fit: \d+ are to be flagged and \d+ are not; it takes 20 of each"
    ):
        fit(split(some), card)


def test_figures_of_a_screen_that_is_right() -> None:
    flagged = np.array([True] * 20 + [False] * 60)
    right = figures(flagged, flagged.astype(float))
    assert (right.auroc, right.precision, right.passed, right.brier) == (1, 1, 0.75, 0)
    wrong = figures(flagged, 1 - flagged.astype(float))
    assert (wrong.auroc, wrong.passed, wrong.brier) == (0, 0, 1)
    assert figures(flagged[:20], np.full(20, 0.5)).auroc is None


def test_figures_by_language(screen: Screen, parts: Parts) -> None:
    found = by_language(parts.held_out, risks(screen, parts))
    assert [each.language for each in found] == ["", "en", "pt"]
    assert found[0].rows == found[1].rows + found[2].rows == len(parts.held_out)
    assert found[0].brier == pytest.approx(brier_score_loss(flags(parts.held_out), risks(screen, parts)))
    assert by_language([], np.array([])) == []


def test_a_better_screen_is_told_from_a_worse(screen: Screen, parts: Parts, card: Card) -> None:
    """The worse one has never met two of the four words."""
    blind = [example for example in parts.fit if not any(word in example.text for word in BAD[:2])]
    worse = fit(replace(parts, fit=blind), Card(name="worse", version="0", features=Features(bits=14)))
    flagged = flags(parts.held_out)
    new, old = risks(screen, parts), risks(worse, parts)
    lead = difference(flagged, old, new)
    assert lead.better
    assert lead.low <= lead.value <= lead.high
    assert not difference(flagged, new, old).better
    same = difference(flagged, new, new)
    assert (same.value, same.low, same.high, same.better) == (0, 0, 0, False)


@pytest.mark.parametrize(
    ("module", "of_another_extra"),
    [
        ("inference.screen.compare", ["jinja2", "matplotlib"]),
        ("inference.cascade.audit", ["jinja2", "matplotlib"]),
        ("inference.evaluation.paired", ["safetensors"]),
    ],
)
def test_what_both_use_needs_no_other_extra(module: str, of_another_extra: list[str]) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({of_another_extra})); import {module}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_of_weight_three_counts_as_three_rows() -> None:
    chance = np.random.default_rng(5)
    flagged, old = chance.random(300) < 0.3, chance.random(300).round(2)
    new = (0.7 * old + 0.3 * flagged).round(2)
    weights = chance.integers(1, 4, 300)
    rows = np.repeat(np.arange(300), weights)
    weighed, repeated = figures(flagged, new, weights=weights.astype(float)), figures(flagged[rows], new[rows])
    for name in ("auroc", "precision", "passed", "brier"):
        assert getattr(weighed, name) == pytest.approx(getattr(repeated, name))
    assert (weighed.rows, repeated.rows) == (300, len(rows))
    assert weighed.auroc != pytest.approx(figures(flagged, new).auroc, abs=1e-4)
    lead = difference(flagged, old, new, weights.astype(float))
    assert lead.value == pytest.approx(difference(flagged[rows], old[rows], new[rows]).value)
    assert lead.low < lead.value < lead.high
