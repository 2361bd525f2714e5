"""Many callers share few requests, and each gets its own answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.batcher import Batcher
from inference.concurrency import Concurrency, Load
from inference.engine import ANYONE, Caller, Prompt
from inference.errors import AttemptsExhausted, EngineMisconfigured, EngineUnavailable, PromptRejected
from tests.inference.conftest import SECONDS

QUESTIONS = ("rude?", "spam?")
LONG = "x" * 20_000  # more than prompts of one request have together
Outcome = str | PromptRejected | AttemptsExhausted


def answer(prompt: Prompt) -> str:
    return f"answer to {prompt.own}"


@dataclass(eq=False)
class Request:
    question: str
    prompts: list[Prompt]
    sent_at: float = field(default_factory=time.monotonic)
    answer: "asyncio.Future[list[Outcome]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __post_init__(self) -> None:
        self.names = [prompt.own.strip("x") for prompt in self.prompts]

    def succeed(self) -> None:
        self.answer.set_result([answer(prompt) for prompt in self.prompts])


class Sender:
    """Takes requests and leaves it to the test when and how each is answered. news: one permit for each request."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.news = asyncio.Semaphore(0)

    async def __call__(self, question: str, prompts: Sequence[Prompt]) -> list[Outcome]:
        self.sent.append(Request(question, list(prompts)))
        self.news.release()
        return await self.sent[-1].answer

    async def next(self) -> Request:
        """The next request, once it is sent."""
        async with asyncio.timeout(SECONDS):
            await self.news.acquire()
        return self.sent[-1]

    @property
    def open(self) -> list[Request]:
        return [request for request in self.sent if not request.answer.done()]

    @property
    def prompts_in_flight(self) -> int:
        return sum(len(request.prompts) for request in self.open)

    @property
    def names(self) -> list[str]:
        return [name for request in self.sent for name in request.names]


@dataclass(frozen=True)
class Asked:
    question: str
    prompt: Prompt
    answer: "asyncio.Future[str]"


class Callers:
    """Numbered prompts on their way through a batcher."""

    def __init__(self, made: Batcher[str, str]) -> None:
        self._batcher = made
        self._numbers: Iterator[int] = iter(range(10_000))
        self.asked: dict[str, Asked] = {}

    def submit(
        self,
        count: int = 1,
        question: str = QUESTIONS[0],
        caller: Caller = ANYONE,
        shared: str = "",
        padding: str = "",
    ) -> list[str]:
        names = [str(next(self._numbers)) for _ in range(count)]
        for name in names:
            prompt = Prompt(shared, name + padding)
            answer = self._batcher.submit(question, prompt, caller)
            self.asked[name] = Asked(question, prompt, answer)
        return names

    async def outcomes(self) -> dict[str, str | BaseException]:
        """What each caller got. None may wait any longer."""
        await settle()
        assert not [name for name, asked in self.asked.items() if not asked.answer.done()]
        tasks = [asked.answer for asked in self.asked.values()]
        return dict(zip(self.asked, await asyncio.gather(*tasks, return_exceptions=True), strict=True))


async def settle(steps: int = 20) -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(steps):
        await asyncio.sleep(0)


@asynccontextmanager
async def batcher(
    size: int | Callable[[str], int], limit: int, linger: float = 0.0
) -> AsyncIterator[tuple[Sender, Batcher[str, str], Callers]]:
    """linger: 0 to send what may be sent at once; SECONDS for partial requests that a test does not live to see."""
    sender = Sender()
    made: Batcher[str, str] = Batcher(
        sender, size if callable(size) else lambda _: size, Concurrency(limit, limit), linger
    )
    callers = Callers(made)
    try:
        yield sender, made, callers
    finally:
        for asked in callers.asked.values():
            asked.answer.cancel()
        await made.close()


@given(size=st.integers(1, 4), limit=st.integers(1, 9), data=st.data())
async def test_whatever_happens_each_caller_gets_its_own_answer(size: int, limit: int, data: st.DataObject) -> None:
    async with batcher(size, limit) as (sender, made, callers):
        expected: dict[str, type[BaseException] | None] = {}

        def expect(names: Sequence[str], what: type[BaseException] | None) -> None:
            for name in names:
                expected.setdefault(name, what)

        def check() -> None:
            assert made.in_flight == sender.prompts_in_flight <= limit
            assert len(sender.names) == len(set(sender.names)), "once each"
            for request in sender.sent:
                assert 1 <= len(request.prompts) <= size
                assert len(request.prompts) == 1 or sum(len(prompt.own) for prompt in request.prompts) < len(LONG)
                assert len({prompt.shared for prompt in request.prompts}) == 1
                assert all(callers.asked[name].question == request.question for name in request.names)
            for question in QUESTIONS:
                for shared in ("", "a "):
                    order = [
                        int(name)
                        for name in sender.names
                        if (callers.asked[name].question, callers.asked[name].prompt.shared) == (question, shared)
                    ]
                    assert order == sorted(order), "in the order of arrival"
            waiting = [name for name in callers.asked if name not in sender.names and name not in expected]
            assert not waiting or made.in_flight == limit, "nothing waits while a prompt may go"

        for _ in range(data.draw(st.integers(1, 15), label="steps")):
            step = data.draw(st.sampled_from(["submit", "succeed", "fail", "reject one", "cancel"]), label="step")
            pending = [name for name, asked in callers.asked.items() if not asked.answer.done()]
            if step == "submit":
                callers.submit(
                    data.draw(st.integers(1, 5), label="how many"),
                    data.draw(st.sampled_from(QUESTIONS)),
                    shared=data.draw(st.sampled_from(["", "a "])),
                    padding=data.draw(st.sampled_from(["", "", LONG])),
                )
            elif step == "cancel" and pending:
                name = data.draw(st.sampled_from(pending), label="whom")
                callers.asked[name].answer.cancel()
                expect([name], asyncio.CancelledError)
            elif step in ("succeed", "fail", "reject one") and sender.open:
                request = data.draw(st.sampled_from(sender.open), label="which")
                if step == "succeed":
                    expect(request.names, None)
                    request.succeed()
                elif step == "fail":
                    expect(request.names, EngineMisconfigured)
                    request.answer.set_exception(EngineMisconfigured())
                else:
                    expect(request.names[:1], PromptRejected)
                    expect(request.names[1:], None)
                    request.answer.set_result([PromptRejected(), *map(answer, request.prompts[1:])])
            await settle()
            check()
        while sender.open:
            expect(sender.open[0].names, None)
            sender.open[0].succeed()
            await settle()
            check()

        outcomes = await callers.outcomes()
        assert outcomes.keys() == expected.keys()
        assert (made.waiting, made.in_flight) == (0, 0)
        for name, error in expected.items():
            outcome = outcomes[name]
            if error is None:
                assert outcome == answer(callers.asked[name].prompt)
            else:
                assert isinstance(outcome, error)


class TestFullAndPartial:
    async def test_full_request_is_sent_at_once(self) -> None:
        async with batcher(size=3, limit=9, linger=SECONDS) as (sender, made, callers):
            callers.submit(2)
            await settle()
            assert sender.sent == []

            callers.submit(5)
            await settle()
            assert [request.names for request in sender.sent] == [["0", "1", "2"], ["3", "4", "5"]]
            assert made.waiting == 1

    async def test_partial_request_is_sent_when_its_first_prompt_has_waited(self) -> None:
        linger = 0.05
        async with batcher(size=9, limit=9, linger=linger) as (sender, _, callers):
            submitted = time.monotonic()
            callers.submit(2)
            request = await sender.next()

            assert request.names == ["0", "1"]
            assert request.sent_at - submitted >= linger

    async def test_each_group_waits_for_itself(self) -> None:
        linger = 0.05
        async with batcher(size=2, limit=9, linger=linger) as (sender, _, callers):
            callers.submit(1)
            callers.submit(2, QUESTIONS[1])
            await settle()
            assert [request.names for request in sender.sent] == [["1", "2"]]

            await sender.next()
            assert (await sender.next()).names == ["0"]

    async def test_rest_of_a_group_waits_anew(self) -> None:
        linger = 0.05
        async with batcher(size=2, limit=9, linger=linger) as (sender, _, callers):
            callers.submit(1)
            first = await sender.next()
            callers.submit(1)
            submitted = time.monotonic()
            await settle()
            second = await sender.next()

            assert (first.names, second.names) == (["0"], ["1"])
            assert second.sent_at - submitted >= linger / 2

    async def test_without_linger_the_first_prompt_does_not_wait_for_others(self) -> None:
        async with batcher(size=4, limit=2) as (sender, _, callers):
            callers.submit(3)
            await settle()
            assert [request.names for request in sender.sent] == [["0"], ["1"]]

            sender.open[0].succeed()
            await settle()
            assert sender.sent[-1].names == ["2"]

    async def test_size_is_that_of_the_question(self) -> None:
        async with batcher(lambda question: 1 if question == QUESTIONS[0] else 4, 9, SECONDS) as (sender, _, callers):
            callers.submit(2, QUESTIONS[0])
            callers.submit(4, QUESTIONS[1])
            await settle()

            assert [request.names for request in sender.sent] == [["0"], ["1"], ["2", "3", "4", "5"]]

    async def test_long_prompt_goes_alone(self) -> None:
        async with batcher(size=5, limit=9, linger=SECONDS) as (sender, _, callers):
            callers.submit(4)
            callers.submit(1, padding=LONG)
            callers.submit(5)
            await settle()

            assert [request.names for request in sender.sent] == [["0", "1", "2", "3"], ["4"], ["5", "6", "7", "8"]]


class TestLimit:
    async def test_prompts_that_had_to_wait_go_together(self) -> None:
        async with batcher(size=3, limit=3) as (sender, _, callers):
            callers.submit(9)
            await settle()
            assert [request.names for request in sender.sent] == [["0"], ["1"], ["2"]]
            for request in sender.open:
                request.succeed()
            await settle()

            assert sorted(len(request.prompts) for request in sender.sent[3:]) in ([1, 2], [3], [1, 1, 1])

    async def test_counts_prompts_not_requests(self) -> None:
        async with batcher(size=4, limit=6, linger=SECONDS) as (sender, made, callers):
            callers.submit(12)
            await settle()
            assert [len(request.prompts) for request in sender.sent] == [4, 2]
            assert (made.in_flight, made.waiting) == (6, 6)

            sender.open[1].succeed()
            await settle()
            assert [len(request.prompts) for request in sender.sent] == [4, 2, 2]

    async def test_is_asked_for_more_only_when_prompts_wait(self) -> None:
        concurrency = Concurrency(2, 9)
        sender = Sender()
        made: Batcher[str, str] = Batcher(sender, lambda _: 1, concurrency)
        callers = Callers(made)
        callers.submit(2)
        await settle()
        concurrency.observed(Load(2, 0))
        assert concurrency.limit == 2

        callers.submit(1)
        await settle()
        concurrency.observed(Load(2, 0))
        assert concurrency.limit == 3
        await made.close()
        await callers.outcomes()

    async def test_that_shrank_holds_for_what_comes(self) -> None:
        concurrency = Concurrency(4, 4)
        sender = Sender()
        made: Batcher[str, str] = Batcher(sender, lambda _: 1, concurrency)
        callers = Callers(made)
        callers.submit(6)
        await settle()
        concurrency.refused()
        assert concurrency.limit == 2
        for in_flight in (3, 2, 2, 2, 1, 0):
            sender.open[0].succeed()
            await settle()
            assert made.in_flight == in_flight
        assert len(await callers.outcomes()) == 6
        await made.close()

    async def test_request_that_was_put_off_leaves_room_for_one_other(self) -> None:
        resting = 0
        sender = Sender()
        made: Batcher[str, str] = Batcher(sender, lambda _: 1, Concurrency(1, 1), resting=lambda: resting)
        callers = Callers(made)
        callers.submit(4)
        await settle()
        assert sender.names == ["0"]

        resting = 1
        made.look_again()
        await settle()
        assert sender.names == ["0", "1"]
        sender.sent[1].succeed()
        await settle()
        assert sender.names == ["0", "1", "2"]

        resting = 0
        sender.sent[2].succeed()
        await settle()
        assert sender.names == ["0", "1", "2"]
        sender.sent[0].succeed()
        await settle()
        assert sender.names == ["0", "1", "2", "3"]
        sender.sent[3].succeed()
        assert all(isinstance(outcome, str) for outcome in (await callers.outcomes()).values())
        await made.close()


class TestTurns:
    async def test_questions_are_not_mixed(self) -> None:
        async with batcher(size=9, limit=1, linger=0) as (sender, _, callers):
            callers.submit(1)
            await settle()
            callers.submit(2, QUESTIONS[0])
            callers.submit(2, QUESTIONS[1])
            callers.submit(1, QUESTIONS[0])
            await settle()
            while sender.open:
                sender.open[0].succeed()
                await settle()

            asked = [(name, request.question) for request in sender.sent[1:] for name in request.names]
            assert asked == [(name, callers.asked[name].question) for name in ("1", "2", "3", "4", "5")]

    async def test_prompts_that_share_no_beginning_are_not_mixed(self) -> None:
        async with batcher(size=2, limit=9, linger=SECONDS) as (sender, _, callers):
            for shared in ("a ", "b ", "b ", "a "):
                callers.submit(1, shared=shared)
            await settle()

            assert [request.names for request in sender.sent] == [["1", "2"], ["0", "3"]]

    @pytest.mark.parametrize("shared", ["", "other "])
    async def test_urgent_prompt_goes_first_whatever_its_group(self, shared: str) -> None:
        async with batcher(size=1, limit=1) as (sender, _, callers):
            callers.submit(4)
            await settle()
            callers.submit(1, caller=Caller(urgent_at=0.0), shared=shared)
            await settle()
            sender.open[0].succeed()
            await settle()

            assert sender.names == ["0", "4"]

    async def test_urgent_prompts_of_one_group_go_before_the_rest_of_another(self) -> None:
        async with batcher(lambda question: 1 if question == QUESTIONS[0] else 4, 4, SECONDS) as (sender, _, callers):
            callers.submit(4, QUESTIONS[1])  # one request, so that room for four comes at once
            await settle()
            urgent = callers.submit(1, caller=Caller(urgent_at=0.0))
            rest = callers.submit(4)
            urgent += callers.submit(2, caller=Caller(urgent_at=0.0), shared="other ")
            await settle()
            sender.open[0].succeed()
            await settle()

            assert sender.names[4:] == [*urgent, rest[0]]

    @pytest.mark.parametrize("shared", ["", "other "])
    async def test_tenants_share_the_engine_whatever_their_group(self, shared: str) -> None:
        async with batcher(size=1, limit=1) as (sender, _, callers):
            callers.submit(40, caller=Caller("many"), padding="xxxx")
            await settle()
            few = callers.submit(5, caller=Caller("few"), shared=shared, padding="xxxx")
            await settle()
            for _ in range(11):
                sender.open[0].succeed()
                await settle()

            assert set(few) <= set(sender.names)


async def test_failed_request_reaches_only_its_prompts() -> None:
    async with batcher(size=2, limit=4, linger=SECONDS) as (sender, _, callers):
        callers.submit(6)
        await settle()
        first, second = sender.open
        first.answer.set_exception(EngineMisconfigured("key"))
        second.succeed()
        await settle()
        for request in sender.open:
            request.succeed()
        outcomes = list((await callers.outcomes()).values())

        assert [type(outcome) for outcome in outcomes[:2]] == [EngineMisconfigured] * 2
        assert outcomes[2:] == [f"answer to {number}" for number in range(2, 6)]


@pytest.mark.parametrize(
    "error", [PromptRejected("too long"), AttemptsExhausted(3, EngineUnavailable("no answer", "timeout"))]
)
async def test_prompt_that_is_given_up_reaches_only_its_caller(error: PromptRejected | AttemptsExhausted) -> None:
    async with batcher(size=3, limit=3, linger=SECONDS) as (sender, _, callers):
        callers.submit(3)
        await settle()
        sender.open[0].answer.set_result(["answer to 0", error, "answer to 2"])
        outcomes = list((await callers.outcomes()).values())

        assert outcomes[1] is error
        assert [outcomes[0], outcomes[2]] == ["answer to 0", "answer to 2"]


async def test_caller_that_gives_up_while_it_waits_is_not_sent() -> None:
    async with batcher(size=2, limit=2, linger=SECONDS) as (sender, _, callers):
        callers.submit(5)
        await settle()
        callers.asked["3"].answer.cancel()
        await settle()
        sender.open[0].succeed()
        await settle()

        assert [request.names for request in sender.sent] == [["0", "1"], ["2", "4"]]


@pytest.mark.parametrize("fails", [False, True])
async def test_caller_that_gives_up_under_way_leaves_the_others_alone(*, fails: bool) -> None:
    async with batcher(size=3, limit=3, linger=SECONDS) as (sender, _, callers):
        callers.submit(3)
        await settle()
        callers.asked["0"].answer.cancel()
        await settle()
        if fails:
            sender.open[0].answer.set_exception(EngineMisconfigured())
        else:
            sender.open[0].succeed()
        outcomes = await callers.outcomes()

        assert isinstance(outcomes["0"], asyncio.CancelledError)
        for name in ("1", "2"):
            outcome = outcomes[name]
            assert isinstance(outcome, EngineMisconfigured) if fails else outcome == f"answer to {name}"


@pytest.mark.parametrize("linger", [0.0, SECONDS])
@pytest.mark.parametrize("steps", range(6))
async def test_close_at_any_moment_fails_every_caller_and_sends_nothing_more(steps: int, linger: float) -> None:
    async with batcher(size=2, limit=4, linger=linger) as (sender, made, callers):
        callers.submit(7)
        await settle(steps)
        sent = len(sender.sent)
        await made.close()
        await settle()

        assert len(sender.sent) == sent
        assert all(request.answer.cancelled() for request in sender.sent)
        assert [type(outcome) for outcome in (await callers.outcomes()).values()] == [asyncio.CancelledError] * 7


async def test_close_twice_is_fine() -> None:
    async with batcher(size=1, limit=1) as (_, made, callers):
        callers.submit()
        await settle()
        await made.close()
        await made.close()
