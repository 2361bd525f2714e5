"""The screen before the model of a stage: which rows it decides, and whether what was promised for that still holds.

The promise is about the model of the stage, or about people. For people the thresholds stand in the pipeline file. For
the model they are found while the service runs. At first the cascade is open, which means that the model judges every
row; from these rows thresholds are fitted (`inference.cascade.guarantee`). From then on a random share of the rows
still goes to the model. When these put the promise in doubt (`inference.cascade.audit`), the cascade opens again. What
was fitted when, and why it was opened, is in ClickHouse (`cascade_fits`), where all workers look for it.
"""

import asyncio
import logging
import math
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import orjson
from msgspec import Struct

from inference.cascade.audit import Audit, Route
from inference.cascade.choose import audited
from inference.cascade.guarantee import Fit, TooFewRows, fit
from inference.cascade.screened import screened_judgement
from inference.cascade.settings import CascadeSettings
from inference.judgement import Identity, Judgement, Screening
from inference.operators.moderate import ModerateSettings
from inference.screen.batch import ScreenBatcher
from inference.screen.errors import ScreenUnusable
from inference.screen.model import load
from sinks.cascades import MOST, AuditedRow, CascadeKey, last_fit
from sinks.cascades import audited as audited_rows
from sinks.rows import CascadeFitRow
from sinks.session import Session
from sinks.writer import Writer
from streams.errors import WorkerMisconfigured
from streams.metrics import Metrics

log = logging.getLogger(__name__)

SCREENS = Path(__file__).parents[1] / "deploy" / "screens"

LOOK_SECONDS = 10.0
_SETTLED = timedelta(seconds=5)  # after its judgement a row is in the store
_SAMPLE = 50_000  # rows that thresholds are fitted to: the last ones
_FINE = "allow"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Screened(Struct, frozen=True):
    """What the screen said of a row. judgement: None if the model is to judge it."""

    screening: Screening
    judgement: Judgement | None


class Thresholds(Struct, frozen=True):
    """From where to where the model is asked. None: the screen decides no row on that side."""

    pass_below: float | None = None
    flag_from: float | None = None

    def route(self, risk: float) -> Route:
        """What becomes of a row of this risk."""
        if self.pass_below is not None and risk < self.pass_below:
            return "pass"
        return "flag" if self.flag_from is not None and risk >= self.flag_from else "ask"


class Cascade:
    """The cascade of one stage."""

    def __init__(
        self, pipeline: str, stage: str, settings: CascadeSettings, judge: ModerateSettings, metrics: Metrics
    ) -> None:
        """Raises WorkerMisconfigured if the screen cannot be used."""
        self.name = f"{pipeline}/{stage}"
        self._settings = settings
        self._judge = judge
        try:
            screen = load(screen_file(settings.screen), settings.sha256)
        except ScreenUnusable as error:
            raise WorkerMisconfigured(f"{self.name}: {error}") from error
        self._screen = f"{screen.card.name}-{screen.card.version}"
        self._categories = screen.card.categories
        self._batcher = ScreenBatcher(screen)
        self._place = (pipeline, stage)
        self._identity: Identity | None = None
        self._current: CascadeFitRow | None = None
        self._thresholds = Thresholds(settings.pass_below, settings.flag_from)
        self._since = _EPOCH
        self._audit = Audit(settings.goal)
        self._sample: deque[AuditedRow] = deque(maxlen=_SAMPLE)
        self._metrics = metrics.cascade
        labels = self._place
        self._routed = {
            (route, looked): self._metrics.rows.labels(*labels, route, str(looked).lower())
            for route in ("pass", "ask", "flag")
            for looked in (False, True)
        }
        self._metrics.open.labels(*labels).set_function(lambda: self.open)
        self._metrics.target.labels(*labels).set(settings.target)

    @property
    def open(self) -> bool:
        """Whether the model judges every row."""
        return self._thresholds == Thresholds()

    @property
    def key(self) -> CascadeKey:
        """What the promise is about. Right once `prepare` was called."""
        assert self._identity is not None
        goal = self._settings.goal
        words = f"recall {goal.recall:g}, precision {goal.precision or 0:g}, confidence {goal.confidence:g}"
        return CascadeKey(*self._place, self._screen, self._identity.prompt_hash, self._identity.model, words)

    def prepare(self, identity: Identity) -> None:
        """identity: of the operator that judges what the screen does not."""
        self._identity = identity

    async def screen(self, row_id: int, text: str) -> Screened:
        """What becomes of a row. row_id: of its verdict."""
        assert self._identity is not None
        risk, *categories = await self._batcher.scores(text)
        route = self._thresholds.route(risk)
        looked = self.open or audited(row_id, self._settings.audit)
        self._routed[route, looked].inc()
        if route == "ask" or looked:
            return Screened(Screening(self._screen, risk, "model", looked), None)
        said = Screening(self._screen, risk, "screen", looked)
        scores = dict(zip(self._categories, categories, strict=True))
        return Screened(said, screened_judgement(self._judge, self._identity, route, scores, said))

    async def follow(self, session: Session, writer: Writer) -> None:
        """Look for ever at what the audited rows say, fit and open accordingly."""
        while True:
            try:
                await self._look(session, writer)
            except Exception:
                if self._settings.reference == "model":
                    self._thresholds = Thresholds()  # nothing can be promised, so nothing is decided
                raise
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, session: Session, writer: Writer) -> None:
        follows = self._settings.reference == "model"
        if follows:
            self._adopt(await session.run(partial(last_fit, key=self.key)))
        until = datetime.now(UTC) - _SETTLED
        rows = await session.run(partial(audited_rows, key=self.key, fine=_FINE, since=self._since, until=until))
        self._since = until if len(rows) < MOST else rows[-1].judged_at
        if self.open and follows:
            self._sample += rows
            if rows and len(self._sample) >= self._settings.rows:  # the same sample would give the same answer
                await self._fit(writer)
            return
        for row in rows:
            self._audit.observe(self._thresholds.route(row.risk), row.flagged)
        self._show()
        if follows and self._audit.doubt is not None:
            log.warning("%s: the cascade opens: %s", self.name, self._audit.doubt)
            await self._write(writer, None, str(self._audit.doubt))

    async def _fit(self, writer: Writer) -> None:
        try:
            found = fit([row.risk for row in self._sample], [row.flagged for row in self._sample], self._settings.goal)
        except TooFewRows as error:
            log.info("%s: the cascade stays open: %s", self.name, error)
            return
        if found.pass_below is None and found.flag_from is None:
            log.info("%s: the cascade stays open: %s", self.name, "; ".join(found.notes))
            return
        log.info("%s: %s", self.name, "; ".join(map(str, found.claims)))
        await self._write(writer, found, "; ".join(found.notes))

    async def _write(self, writer: Writer, found: Fit | None, reason: str) -> None:
        row = CascadeFitRow(
            **self.key._asdict(),
            fitted_at=datetime.now(UTC),
            open=found is None,
            pass_below=found.pass_below if found else None,
            flag_from=found.flag_from if found else None,
            rows=found.rows if found else 0,
            flagged=found.flagged if found else 0,
            claims=orjson.dumps(found.claims).decode() if found else "",
            reason=reason,
        )
        await writer.write([row])
        self._adopt(row)

    def _adopt(self, row: CascadeFitRow | None) -> None:
        if row == self._current:
            return
        self._current = row
        self._thresholds = Thresholds(row.pass_below, row.flag_from) if row and not row.open else Thresholds()
        self._since = row.fitted_at if row else _EPOCH
        self._audit = Audit(self._settings.goal)
        self._sample.clear()
        self._show()

    def _show(self) -> None:
        m, labels = self._metrics, self._place
        m.evidence.labels(*labels).set(self._audit.evidence)
        found = self._audit.estimates(self._settings.confidence)
        for gauge, share in (
            (m.recall, found.recall),
            (m.saved, found.saved),
            (m.precision, found.precision),
        ):
            values = (share.low, share.share, share.high) if share is not None else (math.nan,) * 3
            for bound, value in zip(("low", "estimate", "high"), values, strict=True):
                gauge.labels(*labels, bound).set(value)

    async def close(self) -> None:
        """Give the thread back."""
        await self._batcher.close()


def screen_file(name: str) -> Path:
    """The file of a screen that Weir ships, or the path itself."""
    shipped = SCREENS / f"{name}.safetensors"
    return shipped if shipped.exists() else Path(name)
