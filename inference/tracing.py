"""What an engine tells of its requests to whoever traces them. No tracing library is known here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from msgspec import Struct

from inference.engine import Usage


class Request(Struct, frozen=True):
    """One request for completions, without its words.

    provider: the dialect. url: root of the server. prompts: how many it carries. askers: for whom, as far as
    `RequestTracing.asker` said; one may be there twice.
    """

    provider: str
    model: str
    url: str
    prompts: int
    max_tokens: int
    temperature: float
    askers: Sequence[object]


class Answered(Protocol):
    """Takes what the answer to a request says of itself."""

    def __call__(self, model: str, usage: Usage) -> None: ...


class RequestTracing(Protocol):
    """Follows the requests to an engine."""

    def asker(self) -> object | None:
        """Who asks in this task; None for somebody whose requests are not followed."""
        ...

    def request(self, request: Request) -> AbstractContextManager[Answered]:
        """Around one attempt at a request; leaving it with an error says that the attempt failed."""
        ...
