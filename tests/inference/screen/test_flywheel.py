"""The rounds of `bench.flywheel` learn from nothing that a service would not see."""

import numpy as np

from bench.flywheel import Service, Traffic
from inference.cascade.guarantee import Goal
from inference.screen.model import Screen
from tests.inference.screen.conftest import sentences


def test_what_the_screen_decides_stays_unseen(screen: Screen) -> None:
    rows = sentences(1000, seed=9)
    flagged = np.array([row.flagged == 1 for row in rows])
    traffic = Traffic([row.text for row in rows], flagged, [number << 64 for number in range(1000)], "en")
    service = Service(Goal(0.9, 0.9), 0.05, 400, np.random.default_rng(1))
    assert service.work(traffic.part(0, 300)) == 0
    assert len(service.store.rows) == 300
    service.adopt(screen, 300)
    saved = service.work(traffic.part(300))
    assert service.fitted is not None
    assert 0.4 * 0.8 < saved < 300 / 700
    unseen = round(saved * 700)
    judged = [row for row in service.store.rows if row.judged]
    assert len(judged) == 1000 - unseen
    assert 0 < len(service.store.rows) - len(judged) < unseen / 5
    assert sum(rows for rows, _ in service.store.bands.values()) == 1000
    assert sum(judged for _, judged in service.store.bands.values()) == len(judged)
