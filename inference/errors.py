"""What can go wrong with an engine, by what to do next: try again, give the row up, stop the worker."""

from typing import Literal

Reason = Literal["busy", "status", "timeout", "connection", "bad_answer"]


class EngineUnavailable(Exception):
    """The engine did not answer, or answered that it cannot now. The same request may succeed later: try again.

    reason: which kind of failure it was, for metrics: an HTTP status, no answer in time, no connection to the end of
    the answer, or an answer that cannot be read.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class EngineBusy(EngineUnavailable):
    """The engine is alive and said "not now". retry_after: seconds after which it wants to be asked, if it said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, "busy")
        self.retry_after = retry_after


class PromptRejected(Exception):
    """The engine will never take this prompt. Other prompts may be fine: give this row up."""


class AttemptsExhausted(Exception):
    """This prompt failed `attempts` times while the engine answered others: give this row up."""

    def __init__(self, attempts: int, last: EngineUnavailable) -> None:
        """last: the last failure."""
        super().__init__(f"failed {attempts} times while the engine answered others; the last time: {last}")
        self.attempts = attempts
        self.reason = last.reason


class EngineMisconfigured(Exception):
    """No prompt can succeed: wrong key, unknown model, labels that the model cannot tell apart. Stop the worker."""
