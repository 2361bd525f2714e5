"""The screen that Weir ships: the pinned file, small, and sane on messages that it has not seen."""

import json
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from inference.screen.model import Screen, load
from inference.screen.train import SPLIT, held_out

SCREENS = Path(__file__).parents[3] / "deploy" / "screens"
ROWS = Path(__file__).parents[2] / "data" / "community_heldout.jsonl"


def pinned() -> dict[str, str]:
    lines = (SCREENS / "screens.sha256").read_text(encoding="utf-8").splitlines()
    return {name: sha256 for sha256, name in (line.split() for line in lines)}


@pytest.fixture(scope="module")
def shipped() -> Screen:
    return load(SCREENS / "community-1.safetensors", pinned()["community-1.safetensors"])


def test_every_screen_is_pinned() -> None:
    assert sorted(pinned()) == sorted(file.name for file in SCREENS.glob("*.safetensors"))


def test_it_is_small_and_says_where_it_is_from(shipped: Screen) -> None:
    assert (SCREENS / "community-1.safetensors").stat().st_size <= 4_000_000
    assert (shipped.card.name, shipped.card.version, shipped.card.licence) == ("community", "1", "CC BY-SA 4.0")
    assert shipped.card.split == SPLIT
    assert len(shipped.card.trained_on) == 3


def test_it_is_sane_on_messages_that_it_has_not_seen(shipped: Screen) -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    flagged = [row["label"] != "ok" for row in rows]
    assert roc_auc_score(flagged, shipped.risks([row["text"] for row in rows])) > 0.8


def test_it_names_the_kind_of_most_messages_that_it_has_not_seen(shipped: Screen) -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    flagged = [row for row in rows if row["label"] != "ok"]
    best = shipped.scores([row["text"] for row in flagged])[:, 1:].argmax(axis=1)
    named = [shipped.card.categories[place] for place in best]
    right = sum(name == row["label"] for name, row in zip(named, flagged, strict=True))
    assert right > 0.6 * len(flagged)  # the most frequent kind: 0.31


@pytest.mark.parametrize(
    ("flagged", "fine"),
    [
        ("you are a fucking idiot, shut up bitch", "see you at the market on saturday, bring some apples"),
        ("vai tomar no cu seu filho da puta", "obrigado pela ajuda, funcionou direitinho"),
    ],
)
def test_it_tells_plain_cases_apart(shipped: Screen, flagged: str, fine: str) -> None:
    high, low = shipped.risks([flagged, fine])
    assert high > 0.7
    assert low < 0.3


@pytest.mark.parametrize(
    "disguised", ["f.u.c.k.i.n.g b1tch", "fuсkіng bitсh", "fuuuucking biiiitch", "fuck\u200bing b i t c h"]
)
def test_disguises_do_not_help(shipped: Screen, disguised: str) -> None:
    assert shipped.risks([f"you {disguised}"])[0] > 0.9


def test_which_messages_it_has_not_seen_can_be_told() -> None:
    assert isinstance(held_out("any text"), bool)
