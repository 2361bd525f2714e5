"""What can go wrong with a message or a worker, and what to do next: the one place that decides it.

Errors of the engine and the store stand in `inference.errors` and `sinks.errors`; `fate_of` sorts all of them.
"""

import logging
from enum import Enum, StrEnum, auto

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from inference.errors import AttemptsExhausted, EngineMisconfigured, EngineUnavailable, PromptRejected
from sinks.errors import RowNotKept, RowRejected, SchemaMismatch, StoreMisconfigured, StoreUnavailable

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a message went to the dead-letter topic."""

    NO_VALUE = "no_value"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    WRONG_FIELD = "wrong_field"
    EMPTY_TEXT = "empty_text"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    CALL_TOO_LARGE = "call_too_large"
    UNKNOWN_ROW = "unknown_row"
    UNKNOWN_STAGE = "unknown_stage"
    PROMPT_REJECTED = "prompt_rejected"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    ROW_REJECTED = "row_rejected"
    NOT_KEPT = "not_kept"
    INTERNAL_ERROR = "internal_error"


class DeadLetter(Exception):
    """This message can never be processed as it is."""

    def __init__(self, reason: Reason, detail: str, attempts: int = 0) -> None:
        """detail: what was wrong and where, in a sentence without the message's text. attempts: how often the engine
        failed on it; 0 if it was not tried more than once.
        """
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


class TopicsMissing(Exception):
    """Topics of the pipelines do not exist yet. Somebody may create them: try again."""


class WorkerMisconfigured(Exception):
    """No message can be processed until a person changes something; the message says what."""


class Fate(Enum):
    """What an error means for the work that met it."""

    RETRY = auto()
    """Transient: the same work may succeed later."""
    DEAD_LETTER = auto()
    """Fatal for this row: others may be fine."""
    STOP = auto()
    """Fatal for the worker: no row can succeed until a person changes something."""


_STOP = (
    WorkerMisconfigured,
    EngineMisconfigured,
    SchemaMismatch,
    StoreMisconfigured,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
_RETRY = (EngineUnavailable, StoreUnavailable, TopicsMissing, KafkaError, OSError)


def fate_of(error: BaseException) -> Fate:
    """What to do after this error. One that nobody foresaw is fatal for its row: it must not stop the others."""
    if isinstance(error, _STOP):
        return Fate.STOP
    if isinstance(error, _RETRY):
        return Fate.RETRY
    return Fate.DEAD_LETTER


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return fate_of(error) is Fate.RETRY


def dead_letter_of(error: Exception) -> DeadLetter:
    """The dead letter for a row that met this error."""
    match error:
        case DeadLetter():
            return error
        case PromptRejected():
            return DeadLetter(Reason.PROMPT_REJECTED, str(error))
        case AttemptsExhausted():
            return DeadLetter(Reason.ATTEMPTS_EXHAUSTED, str(error), error.attempts)
        case RowNotKept():
            return DeadLetter(Reason.NOT_KEPT, str(error))
        case RowRejected():
            return DeadLetter(Reason.ROW_REJECTED, str(error))
    log.error("a row failed in a way that nobody foresaw", exc_info=error)
    return DeadLetter(Reason.INTERNAL_ERROR, f"{type(error).__name__} in the worker; its log has the traceback")
