"""A screen says the same of a text whatever else it is asked, and no file but the pinned one is loaded."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from inference.screen import model
from inference.screen.errors import ScreenUnusable
from inference.screen.model import Card, Features, Screen, load
from inference.screen.train import Example, Parts


@pytest.fixture
def file(tmp_path: Path, screen: Screen) -> Path:
    path = tmp_path / "toy.safetensors"
    path.write_bytes(screen.dump())
    return path


def changed(path: Path, card: dict[str, Any] | None = None, **tensors: np.ndarray[Any, Any]) -> Path:
    """The file with another card or other tensors."""
    found = safetensors.numpy.load_file(path) | tensors
    length = int.from_bytes(path.read_bytes()[:8], "little")
    own = json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["screen"])
    safetensors.numpy.save_file(found, path, {"screen": json.dumps(own | (card or {}))})
    return path


def direct(screen: Screen, texts: list[str]) -> np.ndarray[Any, Any]:
    """Risks by the definition, in one multiplication."""
    features = screen.card.features
    counts = features.vectorizer().transform([" ".join(features.words(text)) for text in texts])
    tensors = safetensors.numpy.load(screen.dump())
    sums = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    evidence = (counts @ tensors["weights"].T.astype(np.float64)) / np.sqrt(sums)[:, None] + tensors["biases"]
    return 1 / (1 + np.exp(-evidence))


def test_scores_are_those_of_the_definition(screen: Screen, parts: Parts) -> None:
    texts = [example.text for example in parts.held_out]
    assert screen.scores(texts) == pytest.approx(direct(screen, texts), abs=1e-4)
    assert screen.risks(texts) == pytest.approx(screen.scores(texts)[:, 0])


@given(texts=st.lists(st.text(), max_size=6))
def test_a_text_is_judged_by_itself(screen: Screen, texts: list[str]) -> None:
    together = screen.risks(texts)
    assert together.shape == (len(texts),)
    assert together.tolist() == [float(screen.risks([text])[0]) for text in texts]
    assert ((together >= 0) & (together <= 1)).all()


def test_words_are_forgotten_in_time(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"market w{number} snotling" for number in range(60)]
    expected = direct(screen, texts)
    monkeypatch.setattr(model, "_WORDS", 20)
    small = Screen(screen.card, screen._weights.T, screen._biases)
    for start in range(0, 60, 15):
        assert small.scores(texts[start : start + 15]) == pytest.approx(expected[start : start + 15], abs=1e-4)
        assert len(small._known) <= 20
    assert small.scores(texts) == pytest.approx(expected, abs=1e-4)  # more words at once than it may keep


def test_long_words_do_not_fill_the_memory(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_CHARACTERS", 1000)
    for number in range(20):
        screen.risks([f"{number}x" * 300])
        assert sum(map(len, screen._known)) <= 2000


def test_threads_share_it(screen: Screen, parts: Parts) -> None:
    texts = [example.text for example in parts.held_out]
    expected = screen.risks(texts).tolist()
    fresh = Screen(screen.card, screen._weights.T, screen._biases)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: float(fresh.risks([text])[0]), texts))
    assert found == expected


def test_a_file_gives_the_same_screen(file: Path, screen: Screen, parts: Parts) -> None:
    texts = [example.text for example in parts.held_out]
    loaded = load(file, load(file).sha256.upper())
    assert loaded.card == screen.card
    assert loaded.scores(texts).tolist() == screen.scores(texts).tolist()
    assert loaded.dump() == file.read_bytes()


def test_another_file_than_the_pinned_one_is_refused(file: Path) -> None:
    pinned = load(file).sha256
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ScreenUnusable, match=f"is not the screen that was pinned: its SHA-256 is .*, not {pinned}"):
        load(file, pinned)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScreenUnusable, match=r"nothing\.safetensors cannot be read"):
        load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, pickle.dumps({"weights": [1]}), b"\2\0\0\0\0\0\0\0{}"]
)
def test_what_is_no_screen_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.safetensors"
    path.write_bytes(content)
    with pytest.raises(ScreenUnusable, match="holds no screen that this version can use"):
        load(path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"features": {"bits": 15}}, "the card says"),
        ({"features": {"bits": 99}}, "less than or equal to 22"),
        ({"features": {"bits": 14, "normalization": 2}}, "normalization"),
        ({"categories": []}, "the card says"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(file: Path, said: dict[str, Any], told: str) -> None:
    with pytest.raises(ScreenUnusable, match=told):
        load(changed(file, said))


def test_numbers_that_are_none_are_refused(file: Path) -> None:
    weights = safetensors.numpy.load_file(file)["weights"].copy()
    weights[0, 0] = np.nan
    with pytest.raises(ScreenUnusable, match="weights that are no numbers"):
        load(changed(file, weights=weights))


def test_without_normalisation_disguises_stay() -> None:
    assert Features(normalization=0).words("SO b0ring, b.o.r") == ["so", "b0ring,", "b.o.r"]
    assert Features().words("SO b0ring, b.o.r") == ["so", "boring,", "bor"]


def test_disguised_words_are_found(screen: Screen) -> None:
    plain = screen.risks(["you snotling"])[0]
    for disguised in (
        "you sn0tl1ng",
        "you s.n.o.t.l.i.n.g",
        "you s n o t l i n g",
        "you snоtlіng",
        "you snot\u200bling",
    ):
        assert screen.risks([disguised])[0] == pytest.approx(plain), disguised
    assert plain > 0.5 > screen.risks(["thanks for the apples"])[0]


def test_the_card_tells_what_it_learned_from(screen: Screen, parts: Parts) -> None:
    assert screen.card.rows == len(parts.fit) + len(parts.calibration)
    assert screen.card.split
    assert isinstance(parts.fit[0], Example)
    assert Card.model_validate_json(screen.card.model_dump_json()) == screen.card
