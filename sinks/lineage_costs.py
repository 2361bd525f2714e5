"""What the rows of a lineage tree took, by stage."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sinks.lineage import LineageNode


@dataclass(slots=True)
class StageCosts:
    """What a stage did for a tree.

    stage: `pipeline/stage`. rows: verdicts or messages that it made. latency_ms: the longest of them, from the event to
    the judgement, or to where the message stands in Kafka.
    """

    stage: str
    rows: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    engine_seconds: float = 0.0
    latency_ms: int = 0

    def add(self, other: "StageCosts") -> None:
        """Count another's rows too."""
        self.rows += other.rows
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd
        self.engine_seconds += other.engine_seconds
        self.latency_ms = max(self.latency_ms, other.latency_ms)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def costs(root: LineageNode) -> list[StageCosts]:
    """What each stage took for the rows of a tree, each row once; in the order of the flow, as far as time tells it."""
    found: dict[str, StageCosts] = {}
    for row in sorted(filter(None, map(_of, root.walk())), key=lambda row: row.latency_ms):
        found.setdefault(row.stage, StageCosts(row.stage)).add(row)
    return list(found.values())


def total(stages: Iterable[StageCosts]) -> StageCosts:
    """All of them together."""
    together = StageCosts("total")
    for stage in stages:
        together.add(stage)
    return together


def _of(node: LineageNode) -> StageCosts | None:
    facts = node.facts
    if node.kind == "verdict":
        return StageCosts(
            stage=f"{facts['pipeline']}/{facts['stage']}",
            rows=1,
            input_tokens=facts["input_tokens"],
            cached_tokens=facts["cached_tokens"],
            output_tokens=facts["output_tokens"],
            cost_usd=facts["cost_usd"],
            engine_seconds=facts["engine_seconds"],
            latency_ms=_between(facts["event_time"], facts["judged_at"]),  # its own counts from a rerun on
        )
    if node.kind == "source" and facts["made_by"]:
        return StageCosts(
            stage=facts["made_by"], rows=1, latency_ms=_between(facts["event_time"], facts["broker_time"])
        )
    return None


def _between(event: datetime, then: datetime) -> int:
    """Milliseconds, 0 for a clock that is ahead."""
    return max(0, (then - event) // timedelta(milliseconds=1))
