"""The promise holds on real rows too, of which nobody knows the distribution."""

import pytest
from scipy.stats import binomtest

from bench.cascade import fits
from bench.community import DATA, SETS, scored
from inference.cascade.guarantee import Goal

RUNS = 200


@pytest.mark.parametrize("language", ["en", "pt"])
def test_the_promise_holds_on_rows_that_people_labelled(language: str) -> None:
    if not (DATA / SETS[language]).exists():
        pytest.skip(f"{SETS[language]} is not in ../shared/data")
    goal = Goal(0.95, 0.9)
    rows = scored(language)
    found = fits(rows, goal, fit_rows=1000, resamples=RUNS)
    failures = sum(not measured.keeps(goal) for _, measured in found)
    assert binomtest(failures, RUNS, 0.05, alternative="greater").pvalue > 1e-4, failures
    assert sum(measured.saved for _, measured in found) > 0.05 * RUNS
