"""Rows that were judged, in a file, so that a run that was cut short goes on where it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from inference.judgement import Judgement
from streams.errors import WorkerMisconfigured


class JudgedRow(Struct, frozen=True):
    """A judgement of the row with this key. Holds no words of it. seconds: of the slowest prompt."""

    key: str
    decision: str
    label: str
    scores: dict[str, float]
    confidence: float
    seconds: float
    engine_seconds: float
    cost_usd: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    judged_at: datetime


def judged_row(key: str, judgement: Judgement) -> JudgedRow:
    """What the journal keeps of a judgement that was made now."""
    usage = judgement.usage
    return JudgedRow(
        key,
        judgement.decision,
        judgement.label,
        dict(judgement.scores),
        judgement.confidence,
        max((call.seconds for call in judgement.calls), default=0.0),
        judgement.engine_seconds,
        judgement.cost_usd,
        usage.input_tokens,
        usage.cached_tokens,
        usage.output_tokens,
        datetime.now(UTC),
    )


class Journal:
    """One file a subject and data set. A line that was cut off when the command was killed is left out."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: BinaryIO | None = None

    def read(self) -> dict[str, JudgedRow]:
        """Rows judged before, by key."""
        found = {}
        if self.file.exists():
            for line in self.file.read_bytes().splitlines():
                try:
                    row = msgspec.json.decode(line, type=JudgedRow)
                except msgspec.DecodeError:
                    continue
                found[row.key] = row
        return found

    @contextmanager
    def open(self, *, fresh: bool) -> Iterator[None]:
        """Rows can be added in the block. fresh: what is there is forgotten. Raises WorkerMisconfigured."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            torn = not fresh and self.file.exists() and not self.file.read_bytes().endswith(b"\n")
            self._lines = self.file.open("wb" if fresh else "ab", buffering=0)
            if torn:
                self._lines.write(b"\n")
        except OSError as error:
            raise WorkerMisconfigured(f"{self.file}: {error}; --journal FOLDER names another place") from error
        with self._lines:
            yield

    def add(self, row: JudgedRow) -> None:
        """Keep a row; what was added outlives the process."""
        assert self._lines is not None
        self._lines.write(msgspec.json.encode(row) + b"\n")
