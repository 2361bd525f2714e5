"""What agents tell of a row's way. Here nothing comes of it; `streams.otel` makes spans of it."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from inference.judgement import Screening
from inference.tracing import RequestTracing
from streams.cloudevents import Headers
from streams.origin import Placed
from streams.records import Verdict


class Span:
    """A part of a row's way, which ends with its `with` block. This one is not recorded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def screened(self, said: Screening) -> None:
        """What the screen said."""

    def judged(self, verdict: Verdict) -> None:
        """What came of it."""


UNRECORDED = Span()


class Tracing:
    """Of a worker that does not trace. Its methods cost next to nothing and import nothing."""

    requests: RequestTracing | None = None

    def process(self, message: Placed, stage: str, job: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """The work for a message, with the message's span around it. stage: pipeline and stage."""
        return job

    def judge(self, operator: str, row_id: int) -> Span:
        """Around the judgement of a row. row_id: of its verdict."""
        return UNRECORDED

    def screen(self) -> Span:
        """Around the look of a screen at a row."""
        return UNRECORDED

    def keep(self, row_id: int) -> None:
        """Remember that this row is being worked on here."""

    def assemble(self, row_ids: Sequence[int]) -> Span:
        """Around the publishing of what was made from these rows."""
        return UNRECORDED

    def sending(self, topic: str, headers: Headers) -> AbstractContextManager[Headers]:
        """Around the sending of a message; the headers to send it with."""
        return nullcontext(headers)

    def storing(self, stored: "asyncio.Future[None]", rows: int) -> None:
        """So many rows wait for the store. stored: done when it has them."""

    def dead_letter(self, reason: str) -> None:
        """The row in this task is given up."""

    async def close(self) -> None:
        """Give what was recorded some seconds to get away."""


UNTRACED = Tracing()
