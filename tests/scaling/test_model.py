"""The model of docs/scaling.md: against queueing theory, and that it loses no row."""

import math

import numpy as np
import pytest

from bench.scaling_model import (
    Broker,
    Engine,
    Fault,
    Machine,
    Outcome,
    Store,
    System,
    Traffic,
    Worker,
    erlang_c,
    mean_wait,
    simulate,
)

SERVICE = 0.01
ALONE = Worker(prompts=1, linger=0, window=10**9, limit=10**9)  # a worker that is no part of the queue


def queue(servers: int, busy: float, rows: int, seed: int) -> tuple[Outcome, float]:
    """M/M/c with so many rows, and the mean time that they waited."""
    engine = Engine(gpus=servers, prompt=SERVICE, spread="exponential")
    system = System(partitions=1, worker=ALONE, engine=engine)
    rate = busy * servers / SERVICE
    run = simulate(system, Traffic(rate), rows / rate, seed, drain=True)
    return run, float(run.latency.mean()) - SERVICE


def small(**changes: object) -> System:
    """Three workers and two GPUs with costs of each kind."""
    worker = Worker(row=0.0004, request=0.001, insert=0.002, insert_row=0.00005, skipped=0.3, window=256)
    return System(
        workers=3,
        partitions=6,
        worker=worker,
        engine=Engine(2, 0.005, 0.001, 64),
        store=Store(insert=0.01, row=0.0001),
        broker=Broker(0.001, session=2.0, rebalance=0.5),
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("servers", "offered", "known"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541)],  # rho for M/M/1; rho^2 * 2 / (1 + rho) for M/M/2; tables
)
def test_erlang_c(servers: int, offered: float, known: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.5), (4, 0.8), (8, 0.7)])
def test_waits_as_erlang_says(servers: int, busy: float) -> None:
    waits = [queue(servers, busy, 5000, seed)[1] for seed in range(8)]
    error = np.std(waits, ddof=1) / math.sqrt(len(waits))
    expected = mean_wait(servers, busy * servers, SERVICE)
    assert abs(np.mean(waits) - expected) < 4 * error  # t with 7 degrees of freedom: 1 in 200
    assert error < 0.1 * expected  # or anything would pass


def test_littles_law() -> None:
    run, _ = queue(4, 0.7, 10_000, seed=1)
    assert run.busy["gpus"] == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize(
    "faults",
    [
        (),
        (Fault("worker", 1.5, 4.0),),
        (Fault("gpu", 1.0, 3.0),),
        (Fault("worker", 1.0, 3.0), Fault("gpu", 1.2, 2.0), Fault("worker", 4.0, 3.0)),
    ],
)
def test_no_row_is_lost_or_counted_twice(faults: tuple[Fault, ...]) -> None:
    for seconds, drain in ((5.0, False), (8.0, True)):
        run = simulate(small(faults=faults), Traffic(600), seconds, drain=drain)
        assert run.published == run.finished + run.waiting + run.in_flight
        assert run.finished <= len(run.latency) <= run.published
        assert len(run.stored) == run.finished
        assert run.committed_early == 0
        assert (run.latency > 0).all()
        if drain:
            assert run.finished == run.published > 4000
            assert run.waiting == run.in_flight == 0


def test_a_killed_worker_has_rows_judged_again() -> None:
    quiet = simulate(small(), Traffic(600), 8.0, drain=True)
    killed = simulate(small(faults=[Fault("worker", 1.5, 4.0)]), Traffic(600), 8.0, drain=True)
    assert quiet.again == 0
    assert quiet.latency.max() < 1
    assert 0 < killed.again < 256  # the window
    assert killed.latency.max() > 2.5  # the session and the rebalance


def test_the_same_seed_is_the_same_run() -> None:
    runs = [simulate(small(), Traffic(500, 3.0), 5.0, seed) for seed in (1, 1, 2)]
    assert (runs[0].latency == runs[1].latency).all()
    assert len(runs[0].latency) != len(runs[2].latency)


def test_bursts_keep_the_mean_and_raise_the_tail() -> None:
    system = small()
    calm, burst = (simulate(system, Traffic(800, factor, 0.2, 0.5), 20.0) for factor in (1.0, 3.0))
    assert burst.published == pytest.approx(calm.published, rel=0.25)
    assert burst.quantile(0.99) > 1.5 * calm.quantile(0.99)


def test_the_window_bounds_what_is_in_flight() -> None:
    run = simulate(small(), Traffic(0, at_once=5000), 0.4)
    assert run.in_flight <= 3 * 256
    assert run.waiting >= 5000 - 3 * 256 - run.finished


def test_shared_cores_are_what_is_short() -> None:
    worker = Worker(row=0.001)
    runs = [
        simulate(
            System(worker=worker, store=Store(row=0.002), machine=machine), Traffic(0, at_once=3000), 1, drain=True
        )
        for machine in (None, Machine(1))
    ]
    alone, shared = (run.stored.max() for run in runs)
    work = 3000 * (0.001 + 0.002)
    assert alone < work <= shared < 1.1 * work
