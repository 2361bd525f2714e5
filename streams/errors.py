"""What can go wrong with a message or a worker, by what to do next.

Errors of the engine and the store stand in `inference.errors` and `sinks.errors`. Together they mean one of three:

- try again: EngineUnavailable, StoreUnavailable, TopicsMissing, any error of Kafka;
- dead-letter: DeadLetter, PromptRejected, RowRejected;
- stop the worker without losing work: WorkerMisconfigured, EngineMisconfigured, SchemaMismatch.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a message went to the dead-letter topic."""

    NO_VALUE = "no_value"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    WRONG_FIELD = "wrong_field"
    EMPTY_TEXT = "empty_text"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    PROMPT_REJECTED = "prompt_rejected"
    ROW_REJECTED = "row_rejected"
    INTERNAL_ERROR = "internal_error"


class DeadLetter(Exception):
    """This message can never be processed as it is."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """detail: what was wrong and where, in a sentence without the message's text."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class TopicsMissing(Exception):
    """Topics of the pipelines do not exist yet. Somebody may create them: try again."""


class WorkerMisconfigured(Exception):
    """No message can be processed until a person changes something; the message says what."""
