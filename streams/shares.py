"""How much of its topics a worker reads."""

from collections.abc import Iterable, Mapping

from faust.types import TP


class Shares:
    """The partitions of all topics, and which of them are this worker's."""

    def __init__(self) -> None:
        self._partitions: Mapping[str, int] = {}
        self._assigned: dict[str, frozenset[TP]] = {}

    def known(self, partitions: Mapping[str, int]) -> None:
        """partitions: how many each topic has."""
        self._partitions = partitions

    def assigned(self, reader: str, partitions: Iterable[TP]) -> None:
        """A reader of this worker has these partitions now, and no others."""
        self._assigned[reader] = frozenset(partitions)

    def of(self, topics: Iterable[str]) -> float:
        """This worker's part of the partitions of these topics, from 0 to 1."""
        wanted = set(topics)
        total = sum(self._partitions.get(topic, 0) for topic in wanted)
        ours = sum(tp.topic in wanted for partitions in self._assigned.values() for tp in partitions)
        return min(1.0, ours / total) if total else 1.0
