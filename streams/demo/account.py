"""The demo's books: every event published, and everything that came back for it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from streams import cloudevents
from streams.demo.traffic import FINE, Item
from streams.pipeline import Pipeline


@dataclass(slots=True)
class Account:
    """What an ordinary producer and an ordinary consumer know. Events are known by their topic and id."""

    pipelines: Sequence[Pipeline]
    published: dict[tuple[str, str], float] = field(default_factory=dict)
    publishes: int = 0
    labels: dict[tuple[str, str], str] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    copies: Counter[tuple[str, str]] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    dead: dict[tuple[str, str], str] = field(default_factory=dict)
    last_ms: float = 0.0

    def publish(self, item: Item, at: float) -> None:
        """An event is on its way. at: Unix seconds."""
        self.publishes += 1
        self.published.setdefault((item.topic, item.id), at)
        if item.label is not None:
            self.labels[item.topic, item.id] = item.label

    def receive(self, message: Any) -> None:
        """A message of a verdict topic or a dead-letter topic."""
        if message.topic.endswith(".dlq"):
            attributes = cloudevents.attributes(message.headers)
            reason = dict(message.headers).get("weir_dlq_reason", b"").decode()
            self.dead[message.topic.removesuffix(".dlq"), attributes.get("id", "")] = reason
            return
        verdict = orjson.loads(message.value)
        event = verdict["source"]["topic"], verdict["source"]["id"]
        self.copies[event] += 1
        if self.copies[event] == 1:
            self.verdicts[event] = verdict
            self.latencies_ms.append(message.timestamp - self.published.get(event, 0) * 1000)
            self.last_ms = max(self.last_ms, message.timestamp)

    @property
    def outstanding(self) -> int:
        """Events that were published and neither judged nor dead-lettered yet."""
        return len(self.published.keys() - self.verdicts.keys() - self.dead.keys())

    @property
    def duplicated(self) -> int:
        """Verdict messages beyond one for each event."""
        return sum(self.copies.values()) - len(self.copies)

    @property
    def rate(self) -> float:
        """Verdicts a second, from the first event published to the last verdict."""
        seconds = self.last_ms / 1000 - min(self.published.values(), default=0)
        return len(self.verdicts) / seconds if self.verdicts and seconds > 0 else 0.0

    def decisions(self) -> Counter[str]:
        """Verdicts by decision."""
        return Counter(verdict["decision"] for verdict in self.verdicts.values())

    def total(self, *path: str) -> float:
        """Sum of a number over all verdicts."""
        return sum(_at(verdict, path) for verdict in self.verdicts.values())

    def percentile_ms(self, share: float) -> float:
        """Latency from publishing to the verdict's timestamp that `share` of the events do not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def agreement(self) -> dict[str, dict[str, float]]:
        """For each pipeline with labelled events: the share in which verdict and label agree, and how much always
        giving the most frequent label would reach.

        A moderation verdict agrees if it flags (reviews or blocks) what the label says is not fine; a
        classification, if it names the label.
        """
        pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for event, verdict in self.verdicts.items():
            label = self.labels.get(event)
            if label is not None:
                pairs[verdict["pipeline"]].append(_comparable(verdict, label))
        return {
            name: {
                "rows": len(found),
                "agreement": sum(said == label for said, label in found) / len(found),
                "most_frequent_label": max(Counter(label for _, label in found).values()) / len(found),
            }
            for name, found in pairs.items()
        }


def _comparable(verdict: dict[str, Any], label: str) -> tuple[str, str]:
    if verdict["operator"] == "moderate":
        return ("fine" if verdict["decision"] == "allow" else "not fine", "fine" if label in FINE else "not fine")
    return verdict["label"], label


def _at(value: Any, path: Sequence[str]) -> float:
    for step in path:
        value = value[step]
    return float(value)
