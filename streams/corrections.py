"""From a person's review of a verdict to the row that is kept, and to the correction that is published."""

from datetime import datetime
from typing import NamedTuple, cast

from inference.operators import Vocabulary
from inference.operators.check import CONTRADICTED
from sinks.reviews import ReviewedVerdict
from sinks.rows import ReviewRow
from streams.decode import KafkaMessage, attributes_of, broker_time_of, header_time, parse, time_of
from streams.errors import DeadLetter, Reason
from streams.identity import row_id, row_of, time_ms, uuid_text
from streams.origin import Origin, origin_of
from streams.records import Correction, Operator, Review, Ruling, Source

_NAMED = 30  # labels; a header has no room for any number of them


class Given(NamedTuple):
    """A valid review as it came.

    row: row id of the verdict. source, event_id: the tool's name for the review; empty for none. place: where it stood
    first.
    """

    row: int
    said: Review
    reviewed_at: datetime
    source: str
    event_id: str
    place: Origin
    traceparent: str


def decode_review(message: KafkaMessage, now: datetime) -> Given:
    """The review that a message carries. Raises DeadLetter."""
    said = parse(message.value, Review)
    context = attributes_of(message)
    place = origin_of(message)
    at = time_of(said.time or header_time(context.get("time")), broker_time_of(place.timestamp_ms), now)
    event_id = said.id or context.get("id") or ""
    return Given(
        row=row_of(said.row_id),
        said=said,
        reviewed_at=at.replace(microsecond=at.microsecond // 1000 * 1000),  # as the store has it
        source=(context.get("source") or place.topic) if event_id else "",
        event_id=event_id,
        place=place,
        traceparent=context.get("traceparent", ""),
    )


def review_row(given: Given, verdict: ReviewedVerdict, words: Vocabulary, now: datetime) -> ReviewRow:
    """The row of a review. Raises DeadLetter if it says what the stage cannot."""
    decision, label = ruled(given.said, words, verdict)
    held = holding(verdict)
    return ReviewRow(
        row_id=verdict.row_id,
        review_id=_review_id(given),
        source_row_id=verdict.source_row_id,
        pipeline=verdict.pipeline,
        stage=verdict.stage,
        operator=verdict.operator,
        tenant=verdict.tenant,
        lang=verdict.lang,
        event_time=verdict.event_time,
        judged_at=verdict.judged_at,
        reviewed_at=given.reviewed_at,
        reviewer=given.said.reviewer,
        decision=decision,
        label=label,
        model_decision=verdict.decision,
        model_label=verdict.label,
        was_decision=held.decision,
        was_label=held.label,
        was_by=held.by,
        comment=given.said.comment,
        source=given.source,
        event_id=given.event_id,
        topic=given.place.topic,
        partition=given.place.partition,
        offset=given.place.offset,
        written_at=now,
    )


def stored_before(given: Given, verdict: ReviewedVerdict) -> ReviewRow | None:
    """The same review in the store: of the same name, or of the same reviewer and time."""
    name, who = _review_id(given), (given.said.reviewer, given.reviewed_at)
    same = [row for row in verdict.reviews if row.review_id == name or (row.reviewer, row.reviewed_at) == who]
    return same[0] if same else None


def is_place_of(row: ReviewRow, place: Origin) -> bool:
    """Whether a stored review is of the message that stood here, and not of a copy."""
    return (row.topic, row.partition, row.offset) == (place.topic, place.partition, place.offset)


def holding(verdict: ReviewedVerdict) -> Ruling:
    """What holds of a verdict: the word of its last review, or else the model's."""
    if verdict.reviews:
        last = verdict.reviews[-1]
        return Ruling(decision=last.decision, label=last.label, by="person")
    return Ruling(decision=verdict.decision, label=verdict.label, by="model")


def ruled(said: Review, words: Vocabulary, verdict: ReviewedVerdict) -> tuple[str, str]:
    """Decision and label that a review stands for. What it does not say follows from what it says and from the model's
    verdict. Raises DeadLetter if the stage has no such decision or label, or if they do not go together.
    """
    where, passes = f"{verdict.pipeline}/{verdict.stage}", words.decisions[0]
    if not said.decision and not said.label:
        raise DeadLetter(Reason.WRONG_FIELD, "a review says a decision, a label, or both; this one has neither")
    if said.decision and said.decision not in words.decisions:
        raise DeadLetter(Reason.WRONG_FIELD, f"decision: {where} decides {', '.join(words.decisions)}")
    if said.label and said.label not in words.labels:
        known = ", ".join(words.labels[:_NAMED]) + (", …" if len(words.labels) > _NAMED else "")
        raise DeadLetter(Reason.WRONG_FIELD, f"label: {where} has {known or 'no labels'}")
    decision = said.decision or _decision(said.label, words, verdict)
    label = said.label or _label(said.decision, words, verdict)
    if words.fine and said.label and (label == words.fine) != (decision == passes):
        raise DeadLetter(
            Reason.WRONG_FIELD,
            f"decision, label: of {where} the label {words.fine} goes with {passes}, and the others with "
            f"{' or '.join(words.decisions[1:])}; say the decision, or both",
        )
    return decision, label


def _decision(label: str, words: Vocabulary, verdict: ReviewedVerdict) -> str:
    if words.fine:
        return words.decisions[0] if label == words.fine else verdict.decision
    return "escalate" if verdict.operator == "check" and label == CONTRADICTED else "accept"


def _label(decision: str, words: Vocabulary, verdict: ReviewedVerdict) -> str:
    if not words.fine:
        return verdict.label
    if decision == words.decisions[0]:
        return words.fine
    return verdict.label if verdict.label != words.fine else ""


def correction_of(row: ReviewRow, verdict: ReviewedVerdict) -> Correction:
    """What is published of a stored review. verdict: with the other reviews that there are."""
    later = [other for other in verdict.reviews if _order(other) > _order(row)]
    holds = later[-1] if later else row
    was = Ruling(decision=row.was_decision, label=row.was_label, by="person" if row.was_by == "person" else "model")
    return Correction(
        row_id=uuid_text(row.review_id),
        corrects=uuid_text(row.row_id),
        source=Source(
            row_id=uuid_text(row.source_row_id),
            source=verdict.source,
            id=verdict.event_id,
            topic=verdict.topic,
            partition=verdict.partition,
            offset=verdict.offset,
        ),
        pipeline=row.pipeline,
        stage=row.stage,
        operator=cast("Operator", row.operator),
        decision=holds.decision,
        label=holds.label,
        was=was,
        changed=(holds.decision, holds.label) != (was.decision, was.label),
        stands=not later,
        reviewer=row.reviewer,
        reviewed_at=row.reviewed_at,
        event_time=row.event_time,
        thread=verdict.thread,
        lang=row.lang,
        tenant=row.tenant,
    )


def _review_id(given: Given) -> int:
    """By its name if it has one, else by who said it when."""
    if given.event_id:
        return row_id(given.row >> 80, "review", given.row, given.source, given.event_id)
    return row_id(given.row >> 80, "review", given.row, given.said.reviewer, time_ms(given.reviewed_at))


def _order(row: ReviewRow) -> tuple[datetime, int]:
    return row.reviewed_at, row.review_id
