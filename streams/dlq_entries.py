"""The dead letters of a topic, folded from its records: which are open, and which are chosen."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from sys import intern
from typing import Any

import orjson

from streams import cloudevents, dlq
from streams.dlq import Action, Letter, Position, Resolution
from streams.records import NAME_CHARACTERS

_FIRST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """A dead letter without its value.

    event_ids: the id in the body and that in the headers, as far as there are any. copies: every position where it
    stands, the first one first: a worker that was interrupted writes a dead letter again. action: None if it is open.
    """

    letter: Letter
    event_ids: tuple[str, ...]
    copies: tuple[Position, ...]
    action: Action | None = None

    @property
    def position(self) -> Position:
        """Where it stands first."""
        return self.copies[0]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are meant: those that meet every condition given.

    since, until: bounds of the time of the dead letter, the second one not included. ids: of the event.
    """

    reasons: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    ids: frozenset[str] = frozenset()

    @property
    def empty(self) -> bool:
        """Whether every entry is meant."""
        return self == Filter()

    def meets(self, entry: Entry) -> bool:
        """Whether this entry is meant."""
        if self.reasons and entry.letter.reason not in self.reasons:
            return False
        if self.ids and not self.ids.intersection(entry.event_ids):
            return False
        time = entry.letter.time
        if time is None:
            return self.since is None and self.until is None
        return (self.since is None or self.since <= time) and (self.until is None or time < self.until)


class Fold:
    """Takes the records of a dead-letter topic, in the order of each partition, and keeps no values.

    strangers: how many records were neither dead letters nor resolutions.
    """

    def __init__(self, source: str) -> None:
        """source: the topic whose dead letters these are."""
        self.strangers = 0
        self._source = source
        self._letters: dict[tuple[str, int, int, int], list[tuple[Position, Letter, tuple[str, ...]]]] = defaultdict(
            list
        )
        self._actions: dict[Position, Action] = {}

    def add(self, position: Position, headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> None:
        """Take one record."""
        headers = list(headers)
        match dlq.read(self._source, headers):
            case Resolution(entry, action):
                self._actions[entry] = action
            case Letter() as letter:
                place = letter.origin
                found = (position, letter, _event_ids(headers, value))
                self._letters[letter.stage, place.partition, place.offset, place.replays].append(found)
            case None:
                self.strangers += 1

    def entries(self) -> list[Entry]:
        """Every entry, in the order in which they died."""
        return sorted(map(self._entry, self._letters.values()), key=_age)

    def _entry(self, copies: list[tuple[Position, Letter, tuple[str, ...]]]) -> Entry:
        copies = sorted(copies, key=lambda copy: (copy[1].time or _FIRST, copy[0]))
        positions = tuple(position for position, _, _ in copies)
        action = next((self._actions[position] for position in positions if position in self._actions), None)
        return Entry(copies[0][1], copies[0][2], positions, action)


def _age(entry: Entry) -> tuple[datetime, Position]:
    return entry.letter.time or _FIRST, entry.position


def _event_ids(headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> tuple[str, ...]:
    found = (_body_id(value), cloudevents.attributes(headers).get("id"))
    return tuple(dict.fromkeys(intern(name[:NAME_CHARACTERS]) for name in found if name))


def _body_id(value: bytes | None) -> str | None:
    """The field id of a body, also where it should have been a string: that may be why the message died."""
    try:
        body: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return None
    name = body.get("id") if isinstance(body, dict) else None
    return str(name) if isinstance(name, str | int) else None
