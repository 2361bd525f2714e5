"""The agent of people's reviews: each is kept beside the verdict that it is about, and published as a correction."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from inference.operators import Vocabulary, vocabulary
from sinks.reviews import ReviewedVerdict, Reviews
from sinks.rows import ReviewRow
from streams import attributes, cloudevents
from streams.agent import Agent, Services
from streams.corrections import Given, correction_of, decode_review, is_place_of, review_row, stored_before
from streams.decode import KafkaMessage
from streams.errors import DeadLetter, Reason, dead_letter_of
from streams.identity import uuid_text
from streams.limit import DeadLetterLimit
from streams.pipeline import Pipeline
from streams.records import CORRECTION_TYPE
from streams.window import Turn

PIPELINE, STAGE = "weir", "reviews"

_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Stage:
    """Where a stage's verdicts stand, and what they may say."""

    writes: str
    words: Vocabulary


class ReviewsAgent(Agent):
    """Stores each review, publishes its correction, and only then acknowledges it.

    The store is first: what it has of a row says what held before, and which review is the last. Reviews of one row are
    taken one after the other, so that a row's corrections stand in the order of its reviews in their partition.
    """

    def __init__(
        self, pipelines: Sequence[Pipeline], topic: str, wait_seconds: float, reviews: Reviews, services: Services
    ) -> None:
        """wait_seconds: how long a review waits for its verdict to be in the store."""
        # What people send says nothing about the pipelines: however much of it is wrong, they go on.
        super().__init__(PIPELINE, STAGE, topic, replace(services, dead_letters=DeadLetterLimit(1)))
        self._wait = wait_seconds
        self._reviews = reviews
        self._stages = {
            (pipeline.name, stage.name): _Stage(stage.writes, vocabulary(stage.judge))
            for pipeline in pipelines
            for stage in pipeline.stages
            if stage.judge is not None
        }

    def _job(self, message: KafkaMessage) -> Coroutine[Any, Any, None]:
        try:
            given = decode_review(message, datetime.now(UTC))
        except Exception as error:  # noqa: BLE001  no message may end the agent
            return self._dead_letter(message, dead_letter_of(error))
        turn = self._turns.take(given.row)
        return self._settle(message, turn, self._correct(given, turn))

    async def _correct(self, given: Given, turn: Turn) -> None:
        await turn.come()
        verdict = await self._find(given.row)
        stage = self._stages.get((verdict.pipeline, verdict.stage))
        if stage is None:
            raise DeadLetter(
                Reason.UNKNOWN_STAGE,
                f"row_id: the verdict is of {verdict.pipeline}/{verdict.stage}, which this worker's pipelines do not "
                "have; workers of other pipelines need a WEIR_REVIEWS_TOPIC of their own",
            )
        stored = stored_before(given, verdict)
        if stored is not None and is_place_of(stored, given.place):
            await self._publish(stage.writes, stored, verdict, given.traceparent)
            return
        row = review_row(given, verdict, stage.words, datetime.now(UTC))
        if stored is not None:
            self._metrics.repeated.labels(*self._labels).inc()
            return
        await self._writer.write([row])
        await self._publish(stage.writes, row, verdict, given.traceparent)

    async def _find(self, row: int) -> ReviewedVerdict:
        """The verdict; it may be on its way. Raises DeadLetter."""
        until = time.monotonic() + self._wait
        while (found := await self._reviews.find(row)) is None:
            if (left := until - time.monotonic()) <= 0:
                raise DeadLetter(
                    Reason.UNKNOWN_ROW,
                    f"row_id: the store has no verdict {uuid_text(row)}, and waited {self._wait:g} s for it; is it the "
                    "row id of a verdict, and not of its event?",
                )
            await asyncio.sleep(min(_LOOK_AGAIN_SECONDS, left))
        return found

    async def _publish(self, topic: str, row: ReviewRow, verdict: ReviewedVerdict, traceparent: str) -> None:
        correction = correction_of(row, verdict)
        headers = cloudevents.headers(
            id=correction.row_id,
            source=f"/weir/{row.pipeline}/{row.stage}",
            type=CORRECTION_TYPE,
            time=row.reviewed_at,
            subject=verdict.event_id,
            extra={"traceparent": traceparent} if traceparent else {},
        )
        key = attributes.read(verdict.attributes, verdict.thread).key
        await self._publisher.send(topic, key, correction.encode(), headers)
        labels, metrics = (row.pipeline, row.stage), self._metrics
        agrees = "yes" if row.decision == row.model_decision else "no"
        metrics.reviews.labels(*labels, row.model_decision, agrees).inc()
        if correction.decision != row.was_decision:
            metrics.corrections.labels(*labels, row.was_decision, correction.decision).inc()
        metrics.review_delay.labels(*labels).observe(max(0.0, (row.reviewed_at - row.judged_at).total_seconds()))
