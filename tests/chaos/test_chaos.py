"""A few runs of the chaos harness, and the harness itself: `make chaos` makes many more."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import http_calls
import pytest
from aiohttp import web
from assembled import Assembled, Transcript
from assembled import check as check_calls
from experiment import run
from history import Findings, History, Published, Verdict, check, judged_again
from lane import Lane
from proxy import Call, Mode, Proxy
from schedule import About, Kind, Schedule

from deploy.embedded.process import free_port

SEEDS = [(127, "tansu"), (106, "apache"), (122, "apache")]
# (seed, broker) of runs that once failed, with the cause. A change of schedule.py gives seeds other schedules.
CALLS = (277, "tansu")  # a worker is killed when calls are stored as closed and it does not know
REGRESSIONS = [
    # The broker was paused for longer than a session, and a fetch of Faust's that a rebalance had orphaned swallowed
    # messages: they were not read until the next rebalance. See also tests/streams/test_consumer.py.
    (225, "tansu"),
    (23, "tansu"),
]


@pytest.fixture(scope="module")
async def lane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lane]:
    async with Lane(tmp_path_factory.mktemp("lane")) as ready:
        yield ready


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "broker", "about"),
    [*((seed, broker, About.MESSAGES) for seed, broker in (*SEEDS, *REGRESSIONS)), (*CALLS, About.CALLS)],
)
async def test_nothing_is_lost_or_counted_twice(
    seed: int, broker: str, about: About, lane: Lane, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if broker == "apache":
        request.getfixturevalue("jars")
    result = await run(lane, Schedule.of(seed, broker, about), tmp_path)
    assert not result.error
    assert result.faults, "no trigger came: the run shows nothing"
    assert result.findings.broken == []
    assert result.unclean == []


def test_a_seed_stands_for_one_schedule() -> None:
    assert Schedule.of(5, "tansu") == Schedule.of(5, "tansu")
    assert Schedule.of(5, "tansu") != Schedule.of(6, "tansu")


def test_turns_come_late_repeated_out_of_order_and_with_other_words() -> None:
    plans = [Schedule.of(seed, "apache", About.CALLS) for seed in range(100)]
    assert {fault.kind for plan in plans for fault in plan.faults} == {
        kind for kind in Kind if not kind.startswith("engine_")
    }
    for plan in plans:
        turns = [message for message in plan.messages if message.turn is not None]
        calls = {turn.key: sorted({t.turn for t in turns if t.key == turn.key}) for turn in turns}
        assert all(numbers == list(range(len(numbers))) for numbers in calls.values())
        times = Counter(turn.event for turn in turns)
        said = {key: Counter(t.turn for t in {t.event: t for t in turns if t.key == key}.values()) for key in calls}
        assert not any(times[turn.event] > 1 and said[turn.key][turn.turn] > 1 for turn in turns)
    messages = [[m for m in plan.messages if m.turn is not None] for plan in plans]
    assert any(len({m.event for m in some}) < len(some) for some in messages)
    assert any(len({(m.key, m.turn) for m in some}) < len({m.event for m in some}) for some in messages)
    assert any([m.turn for m in some] != sorted(m.turn for m in some) for some in messages)


def test_every_fault_comes_about_and_tansu_keeps_its_topics() -> None:
    kinds = {
        broker: {fault.kind for seed in range(300) for fault in Schedule.of(seed, broker).faults}
        for broker in ("apache", "tansu")
    }
    assert kinds["apache"] == set(Kind)
    assert kinds["apache"] - kinds["tansu"] == {Kind.BROKER_RESTART, Kind.BROKER_KILL}


GOOD = History(
    planned=frozenset({"a", "b"}),
    published=[
        Published((0, 0), "k", "a"),
        Published((0, 1), "k", "b"),
        Published((0, 2), "k", None),
        Published((0, 3), "k", "a"),
    ],
    verdicts=[Verdict((1, 0), "k", "a", "A"), Verdict((1, 1), "k", "b", "B"), Verdict((1, 2), "k", "a", "A")],
    dead=[(0, 2), (0, 2)],
    rows={"a": 1, "b": 1},
    committed={0: 4},
    ends={0: 4, 1: 0},
)


def test_a_good_history_has_no_findings() -> None:
    assert check(GOOD).broken == []
    assert check(GOOD).uncommitted == []


@pytest.mark.parametrize(
    ("history", "lost", "duplicated", "out_of_order"),
    [
        (replace(GOOD, verdicts=GOOD.verdicts[::2]), 1, 0, 0),
        (replace(GOOD, rows={"a": 1}), 1, 0, 0),
        (replace(GOOD, verdicts=GOOD.verdicts[::2], rows={"a": 1}), 1, 0, 0),
        (replace(GOOD, dead=[]), 1, 0, 0),
        (replace(GOOD, planned=GOOD.planned | {"c"}), 1, 0, 0),
        (replace(GOOD, verdicts=[*GOOD.verdicts, Verdict((1, 3), "k", "b", "C")]), 0, 1, 0),
        (replace(GOOD, rows={"a": 2, "b": 1}), 0, 1, 0),
        (replace(GOOD, dead=[(0, 2), (0, 1)]), 0, 1, 0),
        (replace(GOOD, dead=[(0, 2), (5, 5)]), 0, 1, 0),
        (replace(GOOD, rows=GOOD.rows | {"x": 1}), 0, 1, 0),
        (replace(GOOD, verdicts=[Verdict((1, 0), "k", "b", "B"), Verdict((1, 1), "k", "a", "A")]), 0, 0, 1),
    ],
    ids=[
        "verdict",
        "row",
        "neither",
        "dead letter",
        "message",
        "row id",
        "two rows",
        "both",
        "strange",
        "unknown",
        "order",
    ],
)
def test_a_bad_history_is_reported(history: History, lost: int, duplicated: int, out_of_order: int) -> None:
    found = check(history)
    assert (len(found.lost), len(found.duplicated), len(found.out_of_order)) == (lost, duplicated, out_of_order)


FIRST = Transcript((0, 0), "c", "A", ((0, "a"),))
WHOLE = Transcript((0, 1), "c", "B", ((0, "a"), (1, "b")))
CALL = Assembled(
    turns={"c": {0: "a", 1: "b"}},
    published={"c": frozenset({(0, "a"), (1, "b")})},
    transcripts=[FIRST, WHOLE, replace(WHOLE, place=(0, 2))],
    stored={"a": 1, "b": 1},
    noted={"c": ("B", 2)},
)


def test_a_corrected_call_is_good() -> None:
    found = Findings()
    check_calls(CALL, found)
    assert (found.broken, found.corrections) == ([], 1)


@pytest.mark.parametrize(
    ("left", "lost", "duplicated", "out_of_order"),
    [
        (replace(CALL, transcripts=[]), 1, 0, 0),
        (replace(CALL, transcripts=[FIRST], noted={"c": ("A", 2)}), 1, 0, 0),
        (replace(CALL, transcripts=[WHOLE, replace(FIRST, place=(0, 2))], noted={"c": ("A", 2)}), 1, 0, 1),
        (replace(CALL, noted={"c": ("A", 2)}), 1, 0, 0),
        (replace(CALL, stored={"a": 1}), 1, 0, 0),
        (replace(CALL, stored={"a": 2, "b": 1}), 0, 1, 0),
        (replace(CALL, transcripts=[replace(WHOLE, turns=(*WHOLE.turns, (1, "b")))]), 0, 2, 0),
        (replace(CALL, transcripts=[replace(WHOLE, turns=WHOLE.turns[::-1])]), 0, 0, 1),
        (replace(CALL, transcripts=[replace(WHOLE, place=(0, 0), id="C"), WHOLE]), 0, 1, 0),
        (replace(CALL, transcripts=[*CALL.transcripts, Transcript((1, 0), "d", "D", ((0, "a"),))]), 0, 1, 0),
        (replace(CALL, transcripts=[replace(WHOLE, turns=((0, "a"), (1, "x")))]), 1, 2, 0),
    ],
    ids=["call", "turn", "stale", "noted", "row", "two rows", "twice", "order", "same", "unknown", "strange"],
)
def test_a_bad_call_is_reported(left: Assembled, lost: int, duplicated: int, out_of_order: int) -> None:
    check_calls(left, found := Findings())
    assert (len(found.lost), len(found.duplicated), len(found.out_of_order)) == (lost, duplicated, out_of_order)


def test_offsets_that_were_not_committed_are_reported() -> None:
    assert check(replace(GOOD, committed={0: 3})).uncommitted == ["partition 0 ends at 4, committed is 3"]
    assert len(check(replace(GOOD, committed={})).uncommitted) == 1


def test_answers_beyond_the_first_are_counted() -> None:
    assert judged_again(["e-1", "e-2", "e-1", "e-1"]) == 2


BODY = b'{"answer": "a body that is long enough to be cut into halves"}'


class Bench:
    """A proxy before a small server, and a caller with little time."""

    def __init__(self, proxy: Proxy, session: aiohttp.ClientSession) -> None:
        self.proxy = proxy
        self.asked = 0
        self._session = session

    async def upstream(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=await request.read() or BODY, headers={"X-Upstream": request.raw_path})

    async def ask(self, body: bytes = b"") -> tuple[int, bytes]:
        async with self._session.post(f"{self.proxy.url}/some/path?a=%2F", data=body) as response:
            return response.status, await response.read()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    port = free_port()
    proxy = Proxy(
        free_port(),
        f"http://127.0.0.1:{port}",
        lambda request, body: Call("post", request.headers.get("X-Who", ""), (body.decode(),)),
        late_seconds=2,
        slow_seconds=0.05,
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as session:
        made = Bench(proxy, session)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", made.upstream)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with proxy:
            yield made
        await runner.cleanup()


@pytest.mark.parametrize("mode", [Mode.PASS, Mode.SLOW])
async def test_a_proxy_passes_on_what_it_is_told(bench: Bench, mode: Mode) -> None:
    bench.proxy.mode = mode
    assert await bench.ask() == (200, BODY)
    assert await bench.ask(b"\x00other") == (200, b"\x00other")
    assert [call.texts for call in bench.proxy.passed] == [("",), ("\x00other",)]


@pytest.mark.parametrize(("mode", "reaches"), [(Mode.REFUSE, 0), (Mode.HANG, 0), (Mode.FAIL_AFTER, 1), (Mode.LATE, 1)])
async def test_a_caller_gets_no_answer(bench: Bench, mode: Mode, reaches: int) -> None:
    bench.proxy.mode = mode
    with pytest.raises((aiohttp.ClientError, TimeoutError)):
        await bench.ask()
    assert bench.proxy.passed == []
    assert bench.asked == bench.proxy.tally("post").value
    assert bool(bench.asked) == bool(reaches)
    bench.proxy.mode = Mode.PASS
    assert await bench.ask() == (200, BODY)


@pytest.mark.parametrize("mode", [Mode.STATUS_429, Mode.STATUS_500, Mode.STATUS_503])
async def test_a_proxy_answers_with_a_status(bench: Bench, mode: Mode) -> None:
    bench.proxy.mode = mode
    status, _ = await bench.ask()
    assert (str(status), bench.asked) == (mode.value, 0)


async def test_garbage_is_not_what_was_asked_for(bench: Bench) -> None:
    bench.proxy.mode = Mode.GARBAGE
    status, body = await bench.ask()
    assert status == 200
    assert body.startswith(b"<html>")
    assert bench.proxy.passed == []


async def test_half_a_body_is_noticed_by_its_length(bench: Bench) -> None:
    bench.proxy.mode = Mode.HALF_BODY
    with pytest.raises(aiohttp.ClientPayloadError):
        await bench.ask()
    assert bench.proxy.passed == []


async def test_a_hook_runs_before_the_answer_and_may_withhold_it(bench: Bench) -> None:
    seen: list[int] = []

    async def hook(call: Call) -> bool:
        seen.append(bench.asked)
        return False

    bench.proxy.before_answer("post", 2, hook)
    assert await bench.ask() == (200, BODY)
    with pytest.raises(aiohttp.ClientError):
        await bench.ask()
    assert seen == [2]
    assert len(bench.proxy.passed) == 1
    assert await bench.ask() == (200, BODY)


def test_tokens_are_found_in_prompts_only_where_the_message_stands() -> None:
    assert http_calls.token(17) == "e-00017"
    assert http_calls._last_message("Message: e-00001 shot\nLabel: ok\n\nMessage: e-00017 hello\nLabel:").endswith(
        "e-00017 hello"
    )
