"""Labelled texts of our own with a plain rule, and a screen that learned it."""

import random
from collections.abc import Callable

import pytest

from inference.screen.model import Card, Features, Screen
from inference.screen.train import Example, Parts, fit, split

BAD = ["grumpkin", "snotling", "wretchface", "blockhead"]
FINE = ["market", "garden", "saturday", "thanks", "weather", "bicycle", "concert", "sister", "apples", "library"]

Make = Callable[..., list[Example]]


def sentences(count: int, seed: int = 1, share: float = 0.4) -> list[Example]:
    """Texts of ordinary words; of those to be flagged, one word is not."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        words = [*chance.choices(FINE, k=6), f"n{chance.randrange(10**6)}"]
        flagged = chance.random() < share
        label = "ok"
        if flagged:
            words.insert(chance.randrange(6), bad := chance.choice(BAD))
            label = bad
        found.append(Example(" ".join(words), float(flagged), 1.0, "en" if number % 2 else "pt", label))
    return found


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    return sentences(800)


@pytest.fixture(scope="session")
def parts(examples: list[Example]) -> Parts:
    return split(examples)


@pytest.fixture(scope="session")
def card() -> Card:
    return Card(name="toy", version="1", features=Features(bits=14), categories=("blockhead",))


@pytest.fixture(scope="session")
def screen(parts: Parts, card: Card) -> Screen:
    return fit(parts, card)
