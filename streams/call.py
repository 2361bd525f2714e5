"""A call as its turns come: in any order, more than once, late."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

from sinks.calls import StoredTurn
from streams.identity import digest_of, uuid_text
from streams.records import TurnText

Closing = Literal["final", "silence"]


class Call(Struct):
    """The messages of one call, by their row id and by the number of their turn.

    transcript: row id of its last transcript; 0 if there was none. size: how many bytes its messages take at most in a
    transcript. documents: that they name, in no order.
    """

    messages: dict[int, StoredTurn] = field(default_factory=dict)
    by_number: dict[int, list[StoredTurn]] = field(default_factory=dict)
    last: int = -1
    ended: bool = False
    size: int = 0
    documents: set[str] = field(default_factory=set)
    transcript: int = 0

    def knows(self, turn: StoredTurn) -> bool:
        """Whether a message says nothing new: it came before, or says what the turn says already."""
        if turn.row_id in self.messages:
            return True
        said = max(self.by_number.get(turn.number, ()), key=lambda known: known.offset, default=None)
        return said is not None and _says(said) == _says(turn)

    def add(self, turn: StoredTurn) -> None:
        """A message that is stored."""
        if turn.row_id not in self.messages:
            self.messages[turn.row_id] = turn
            self.by_number.setdefault(turn.number, []).append(turn)
            self.last = max(self.last, turn.number)
            self.ended = self.ended or turn.final
            self.size += size_of(turn)
            self.documents.update(turn.documents)

    def turns(self) -> list[StoredTurn]:
        """The turns, in order. Of several messages for one turn the last in the topic counts, if it says more."""
        return [_standing(self.by_number[number]) for number in sorted(self.by_number)]

    def complete(self, first: int) -> bool:
        """Whether the final turn has come, and all before it. first: number of a call's first turn."""
        return self.ended and len(self.by_number) == self.last - first + 1


def said(turn: StoredTurn) -> TurnText:
    """A turn as it stands in a transcript."""
    row_id = uuid_text(turn.row_id)
    return TurnText(text=turn.text, speaker=turn.speaker, turn=turn.number, row_id=row_id, time=turn.time)


def size_of(turn: StoredTurn) -> int:
    """How many bytes of a transcript the turn takes."""
    return len(said(turn).model_dump_json().encode()) + 1


def _standing(messages: list[StoredTurn]) -> StoredTurn:
    first, *others = sorted(messages, key=lambda turn: turn.offset)
    for turn in others:
        if _says(turn) != _says(first):
            first = turn
    return first


def digest(tenant: str, call: str, turns: Iterable[StoredTurn]) -> str:
    """32 hexadecimal digits that stand for a call of these turns."""
    return digest_of(tenant, call, *(turn.row_id for turn in turns)).hex()


def _says(turn: StoredTurn) -> tuple[str, str, bool, tuple[str, ...]]:
    return turn.speaker, turn.text, turn.final, turn.documents
