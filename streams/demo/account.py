"""The demo's books: every event published, and everything that came back for it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from streams import cloudevents
from streams.demo.traffic import FINE, Item
from streams.pipeline import Pipeline


@dataclass(slots=True)
class Account:
    """What an ordinary producer and an ordinary consumer know. Events are known by their topic and id.

    learned: events that the screen was fitted to. alone: what the model by itself decides of events that the screen
    decided.
    """

    pipelines: Sequence[Pipeline]
    published: dict[tuple[str, str], float] = field(default_factory=dict)
    publishes: int = 0
    labels: dict[tuple[str, str], str] = field(default_factory=dict)
    learned: set[tuple[str, str]] = field(default_factory=set)
    alone: dict[tuple[str, str], str] = field(default_factory=dict)
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
        if item.learned:
            self.learned.add((item.topic, item.id))

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

    @property
    def screened(self) -> int:
        """Verdicts that the screen gave, without the model."""
        return sum(map(by_screen, self.verdicts.values()))

    def agreement(self) -> dict[str, dict[str, Any]]:
        """For each pipeline with labelled events: the share in which verdict and label agree, and how much always
        giving the most frequent label would reach.

        Where a screen decided some: `model_alone`, the share if the model had decided all, and both shares of the
        events that the screen had not learned from. A moderation verdict agrees if it flags (reviews or blocks) what
        the label says is not fine; a classification, if it names the label.
        """
        events: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for event, verdict in self.verdicts.items():
            if event in self.labels:
                events[verdict["pipeline"]].append(event)
        return {name: self._agreement(found) for name, found in events.items()}

    def _agreement(self, events: Sequence[tuple[str, str]]) -> dict[str, Any]:
        labels = Counter(self._meant(event) for event in events)
        found: dict[str, Any] = {**self._shares(events), "most_frequent_label": max(labels.values()) / len(events)}
        unseen = [event for event in events if event not in self.learned]
        if "model_alone" in found and 0 < len(unseen) < len(events):
            found["not_learned_from"] = self._shares(unseen)
        return found

    def _shares(self, events: Sequence[tuple[str, str]]) -> dict[str, float]:
        said = {event: _said(self.verdicts[event]) for event in events}
        found = {"rows": len(events), "agreement": self._right(said)}
        if alone := {event: _fine(self.alone[event]) for event in events if event in self.alone}:
            found["model_alone"] = self._right(said | alone)
        return found

    def _right(self, said: Mapping[tuple[str, str], str]) -> float:
        return sum(answer == self._meant(event) for event, answer in said.items()) / len(said)

    def _meant(self, event: tuple[str, str]) -> str:
        label = self.labels[event]
        if self.verdicts[event]["operator"] != "moderate":
            return label
        return "fine" if label in FINE else "not fine"


def by_screen(verdict: Mapping[str, Any] | None) -> bool:
    """Whether the screen gave the verdict, without the model."""
    screening = verdict["screening"] if verdict else None
    return screening is not None and screening["tier"] == "screen"


def _said(verdict: Mapping[str, Any]) -> str:
    return _fine(verdict["decision"]) if verdict["operator"] == "moderate" else str(verdict["label"])


def _fine(decision: str) -> str:
    return "fine" if decision == "allow" else "not fine"


def _at(value: Any, path: Sequence[str]) -> float:
    for step in path:
        value = value[step]
    return float(value)
