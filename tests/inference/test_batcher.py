"""Many callers share few requests, and each gets its own answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.batcher import Batcher, Outcome
from inference.engine import LabelToken, Score, Usage
from inference.errors import AttemptsExhausted, EngineMisconfigured, EngineUnavailable, PromptRejected

LABELS = [(LabelToken(" ok", 1), LabelToken(" spam", 2)), (LabelToken(" A", 3), LabelToken(" B", 4))]


def score(prompt: str) -> Score:
    return Score((-float(prompt),), Usage(int(prompt), 1), 0.0)


@dataclass(eq=False)
class Request:
    prompts: list[str]
    labels: tuple[LabelToken, ...]
    answer: "asyncio.Future[list[Outcome]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self) -> None:
        self.answer.set_result([score(prompt) for prompt in self.prompts])


class Sender:
    """Takes requests and leaves it to the test when and how each is answered."""

    def __init__(self) -> None:
        self.sent: list[Request] = []

    async def __call__(self, prompts: Sequence[str], labels: Sequence[LabelToken]) -> list[Outcome]:
        self.sent.append(Request(list(prompts), tuple(labels)))
        return await self.sent[-1].answer

    @property
    def open(self) -> list[Request]:
        return [request for request in self.sent if not request.answer.done()]

    @property
    def prompts(self) -> list[str]:
        return [prompt for request in self.sent for prompt in request.prompts]


class Callers:
    """Numbered prompts on their way through a batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self._numbers: Iterator[int] = iter(range(10_000))
        self.tasks: dict[str, asyncio.Task[Score]] = {}
        self.labels: dict[str, tuple[LabelToken, ...]] = {}

    def submit(self, count: int = 1, labels: tuple[LabelToken, ...] = LABELS[0]) -> list[str]:
        names = [str(next(self._numbers)) for _ in range(count)]
        for name in names:
            self.labels[name] = labels
            self.tasks[name] = asyncio.create_task(self._call(name, labels))
        return names

    async def outcomes(self) -> dict[str, Score | BaseException]:
        """What each caller got. None may wait any longer."""
        await settle()
        assert not [name for name, task in self.tasks.items() if not task.done()]
        results = await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return dict(zip(self.tasks, results, strict=True))

    async def _call(self, name: str, labels: tuple[LabelToken, ...]) -> Score:
        answer = await self._batcher.submit(name, labels)
        assert isinstance(answer, Score)
        return answer


async def settle(steps: int = 20) -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(steps):
        await asyncio.sleep(0)


@asynccontextmanager
async def batcher(size: int, in_flight: int) -> AsyncIterator[tuple[Sender, Batcher, Callers]]:
    sender = Sender()
    made = Batcher(sender, size, in_flight)
    callers = Callers(made)
    try:
        yield sender, made, callers
    finally:
        for task in callers.tasks.values():
            task.cancel()
        await made.close()


@given(size=st.integers(1, 4), in_flight=st.integers(1, 3), data=st.data())
async def test_whatever_happens_each_caller_gets_its_own_answer(size: int, in_flight: int, data: st.DataObject) -> None:
    async with batcher(size, in_flight) as (sender, _, callers):
        expected: dict[str, type[BaseException] | None] = {}

        def expect(names: Sequence[str], what: type[BaseException] | None) -> None:
            for name in names:
                expected.setdefault(name, what)

        def check() -> None:
            assert len(sender.open) <= in_flight
            assert all(1 <= len(request.prompts) <= size for request in sender.sent)
            assert all(
                callers.labels[prompt] == request.labels for request in sender.sent for prompt in request.prompts
            )
            assert sender.prompts == sorted(set(sender.prompts), key=int), "once each, in the order of arrival"
            waiting = [name for name in callers.tasks if name not in sender.prompts and name not in expected]
            assert not waiting or len(sender.open) == in_flight, "nothing waits while a request may start"

        for _ in range(data.draw(st.integers(1, 15), label="steps")):
            step = data.draw(st.sampled_from(["submit", "succeed", "fail", "reject one", "cancel"]), label="step")
            pending = [name for name, task in callers.tasks.items() if not task.done()]
            if step == "submit":
                callers.submit(data.draw(st.integers(1, 5), label="how many"), data.draw(st.sampled_from(LABELS)))
            elif step == "cancel" and pending:
                name = data.draw(st.sampled_from(pending), label="whom")
                callers.tasks[name].cancel()
                expect([name], asyncio.CancelledError)
            elif step in ("succeed", "fail", "reject one") and sender.open:
                request = data.draw(st.sampled_from(sender.open), label="which")
                if step == "succeed":
                    expect(request.prompts, None)
                    request.succeed()
                elif step == "fail":
                    expect(request.prompts, EngineMisconfigured)
                    request.answer.set_exception(EngineMisconfigured())
                else:
                    expect(request.prompts[:1], PromptRejected)
                    expect(request.prompts[1:], None)
                    request.answer.set_result([PromptRejected(), *map(score, request.prompts[1:])])
            await settle()
            check()
        while sender.open:
            expect(sender.open[0].prompts, None)
            sender.open[0].succeed()
            await settle()
            check()

        outcomes = await callers.outcomes()
        assert outcomes.keys() == expected.keys()
        for name, error in expected.items():
            assert outcomes[name] == score(name) if error is None else isinstance(outcomes[name], error)


async def test_first_prompt_does_not_wait_for_others() -> None:
    async with batcher(size=4, in_flight=2) as (sender, _, callers):
        callers.submit(3)
        await settle()
        assert [request.prompts for request in sender.sent] == [["0"], ["1"]]

        sender.open[0].succeed()
        await settle()
        assert sender.sent[-1].prompts == ["2"]


async def test_prompts_that_had_to_wait_go_together() -> None:
    async with batcher(size=3, in_flight=1) as (sender, _, callers):
        callers.submit(6)
        await settle()
        for _ in range(3):
            sender.open[0].succeed()
            await settle()

        assert [request.prompts for request in sender.sent] == [["0"], ["1", "2", "3"], ["4", "5"]]


async def test_labels_are_not_mixed() -> None:
    async with batcher(size=9, in_flight=1) as (sender, _, callers):
        callers.submit(1)
        callers.submit(2, LABELS[0])
        callers.submit(2, LABELS[1])
        callers.submit(1, LABELS[0])
        await settle()
        while sender.open:
            sender.open[0].succeed()
            await settle()

        assert [(request.prompts, request.labels) for request in sender.sent[1:]] == [
            (["1", "2"], LABELS[0]),
            (["3", "4"], LABELS[1]),
            (["5"], LABELS[0]),
        ]


async def test_failed_request_reaches_only_its_prompts() -> None:
    async with batcher(size=2, in_flight=2) as (sender, _, callers):
        callers.submit(6)
        await settle()
        first, second = sender.open
        first.answer.set_exception(EngineMisconfigured("key"))
        second.succeed()
        await settle()
        for request in sender.open:
            request.succeed()
        outcomes = list((await callers.outcomes()).values())

        assert isinstance(outcomes[0], EngineMisconfigured)
        assert outcomes[1:] == [score(str(number)) for number in range(1, 6)]


@pytest.mark.parametrize(
    "error", [PromptRejected("too long"), AttemptsExhausted(3, EngineUnavailable("no answer", "timeout"))]
)
async def test_prompt_that_is_given_up_reaches_only_its_caller(error: PromptRejected | AttemptsExhausted) -> None:
    async with batcher(size=3, in_flight=1) as (sender, _, callers):
        callers.submit(4)
        await settle()
        sender.open[0].succeed()
        await settle()
        sender.open[0].answer.set_result([score("1"), error, score("3")])
        outcomes = list((await callers.outcomes()).values())

        assert outcomes[2] is error
        assert [outcomes[0], outcomes[1], outcomes[3]] == [score("0"), score("1"), score("3")]


async def test_caller_that_gives_up_while_it_waits_is_not_sent() -> None:
    async with batcher(size=9, in_flight=1) as (sender, _, callers):
        callers.submit(4)
        await settle()
        callers.tasks["2"].cancel()
        await settle()
        sender.open[0].succeed()
        await settle()

        assert [request.prompts for request in sender.sent] == [["0"], ["1", "3"]]


@pytest.mark.parametrize("fails", [False, True])
async def test_caller_that_gives_up_under_way_leaves_the_others_alone(*, fails: bool) -> None:
    async with batcher(size=3, in_flight=1) as (sender, _, callers):
        callers.submit(4)
        await settle()
        sender.open[0].succeed()
        await settle()
        callers.tasks["1"].cancel()
        await settle()
        if fails:
            sender.open[0].answer.set_exception(EngineMisconfigured())
        else:
            sender.open[0].succeed()
        outcomes = await callers.outcomes()

        assert isinstance(outcomes["1"], asyncio.CancelledError)
        for name in ("2", "3"):
            assert isinstance(outcomes[name], EngineMisconfigured) if fails else outcomes[name] == score(name)


@pytest.mark.parametrize("steps", range(6))
async def test_close_at_any_moment_fails_every_caller_and_sends_nothing_more(steps: int) -> None:
    async with batcher(size=2, in_flight=2) as (sender, made, callers):
        callers.submit(7)
        await settle(steps)
        sent = len(sender.sent)
        await made.close()
        await settle()

        assert len(sender.sent) == sent
        assert all(request.answer.cancelled() for request in sender.sent)
        assert [type(outcome) for outcome in (await callers.outcomes()).values()] == [asyncio.CancelledError] * 7


async def test_close_twice_is_fine() -> None:
    async with batcher(size=1, in_flight=1) as (_, made, callers):
        callers.submit()
        await settle()
        await made.close()
        await made.close()
