"""Each error means one of three: try again, give the row up, stop the worker."""

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)

import inference.errors
import sinks.errors
from inference.errors import AttemptsExhausted, EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from sinks.errors import RowNotKept, RowRejected, SchemaMismatch, StoreMisconfigured, StoreUnavailable
from streams.errors import (
    DeadLetter,
    Fate,
    Reason,
    TopicsMissing,
    WorkerMisconfigured,
    dead_letter_of,
    fate_of,
    is_transient,
)

FATES = [
    (EngineUnavailable("x", "timeout"), Fate.RETRY),
    (EngineBusy("x"), Fate.RETRY),
    (StoreUnavailable("x"), Fate.RETRY),
    (TopicsMissing("x"), Fate.RETRY),
    (KafkaConnectionError("x"), Fate.RETRY),
    (NotLeaderForPartitionError("x"), Fate.RETRY),
    (ConnectionResetError("x"), Fate.RETRY),
    (PromptRejected("x"), Fate.DEAD_LETTER),
    (AttemptsExhausted(5, EngineUnavailable("x", "status")), Fate.DEAD_LETTER),
    (RowRejected("x"), Fate.DEAD_LETTER),
    (RowNotKept("x"), Fate.DEAD_LETTER),
    (DeadLetter(Reason.NOT_JSON, "x"), Fate.DEAD_LETTER),
    (ZeroDivisionError("x"), Fate.DEAD_LETTER),
    (EngineMisconfigured("x"), Fate.STOP),
    (SchemaMismatch("x"), Fate.STOP),
    (StoreMisconfigured("x"), Fate.STOP),
    (WorkerMisconfigured("x"), Fate.STOP),
    (TopicAuthorizationFailedError("x"), Fate.STOP),
    (GroupAuthorizationFailedError("x"), Fate.STOP),
]


@pytest.mark.parametrize(("error", "fate"), FATES, ids=lambda value: getattr(value, "name", type(value).__name__))
def test_each_error_has_one_fate(error: Exception, fate: Fate) -> None:
    assert fate_of(error) is fate
    assert is_transient(error) is (fate is Fate.RETRY)


@pytest.mark.parametrize("module", [inference.errors, sinks.errors])
def test_no_error_is_forgotten(module: object) -> None:
    """What nobody sorted would be taken for a mistake in the row."""
    sorted_out = {type(error) for error, _ in FATES}
    errors = {kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert not {kind for kind in errors if not sorted_out & set(kind.__mro__)}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PromptRejected("why"), Reason.PROMPT_REJECTED),
        (AttemptsExhausted(5, EngineUnavailable("why", "status")), Reason.ATTEMPTS_EXHAUSTED),
        (RowRejected("why"), Reason.ROW_REJECTED),
        (RowNotKept("why"), Reason.NOT_KEPT),
        (DeadLetter(Reason.NOT_JSON, "why"), Reason.NOT_JSON),
    ],
)
def test_a_dead_letter_says_why(error: Exception, reason: Reason) -> None:
    letter = dead_letter_of(error)
    assert letter.reason is reason
    assert "why" in letter.detail
    assert letter.attempts == (5 if isinstance(error, AttemptsExhausted) else 0)


def test_what_nobody_foresaw_is_logged_and_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    letter = dead_letter_of(KeyError("the text of a message"))
    assert letter.reason is Reason.INTERNAL_ERROR
    assert "the text" not in letter.detail
    assert "nobody foresaw" in caplog.text
