"""What was published and what came of it; and whether each message came to exactly one end."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Published:
    """A message of the source topic. event: its id, or None for one that cannot be judged."""

    place: Place
    key: str
    event: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A message of the verdict topic."""

    place: Place
    key: str
    event: str
    row_id: str


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is left of a run.

    planned: ids that were to be published. dead: where each dead letter came from. rows: event id to number of verdicts
    that a query of ClickHouse counts. committed, ends: of each partition of the source topic.
    """

    planned: frozenset[str]
    published: Sequence[Published]
    verdicts: Sequence[Verdict]
    dead: Sequence[Place]
    rows: Mapping[str, int]
    committed: Mapping[int, int]
    ends: Mapping[int, int]


@dataclass(slots=True)
class Findings:
    """What is wrong, a line for each."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    uncommitted: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    """What was committed before it was done."""
    corrections: int = 0
    """Transcripts of a call after its first."""

    @property
    def broken(self) -> list[str]:
        """The lines about broken promises."""
        return [*self.lost, *self.duplicated, *self.out_of_order, *self.early]


def check(history: History) -> Findings:
    """Compare what came out with what went in."""
    found = Findings()
    _check_events(history, found)
    check_dead_letters(history.published, history.dead, found)
    _check_order(history, found)
    check_commits(history.committed, history.ends, found)
    return found


def check_commits(committed: Mapping[int, int], ends: Mapping[int, int], found: Findings) -> None:
    """Everything must have been committed."""
    for partition, end in sorted(ends.items()):
        at = committed.get(partition)
        if end and at != end:
            found.uncommitted.append(f"partition {partition} ends at {end}, committed is {at}")


def _check_events(history: History, found: Findings) -> None:
    row_ids: dict[str, set[str]] = defaultdict(set)
    for verdict in history.verdicts:
        row_ids[verdict.event].add(verdict.row_id)
    published = {message.event for message in history.published if message.event is not None}
    for event in sorted(history.planned | published | row_ids.keys() | history.rows.keys()):
        verdicts, rows = len(row_ids[event]), history.rows.get(event, 0)
        if event not in published:
            where = found.lost if event in history.planned else found.duplicated
            where.append(f"{event}: not in the source topic; {verdicts} verdicts, {rows} rows")
            continue
        if missing := [place for place, count in (("Kafka", verdicts), ("ClickHouse", rows)) if not count]:
            found.lost.append(f"{event}: no verdict in {' or '.join(missing)}")
        if verdicts > 1 or rows > 1:
            found.duplicated.append(f"{event}: {verdicts} row ids in Kafka, {rows} verdicts in ClickHouse")


def check_dead_letters(published: Iterable[Published], letters: Iterable[Place], found: Findings) -> None:
    """A dead letter may stand in its topic twice, as a verdict may: its place of origin tells."""
    dead = set(letters)
    events = {message.place: message.event for message in published}
    for place in sorted(events.keys() | dead):
        event = events.get(place)
        if event is None and place not in dead:
            found.lost.append(f"poison at {place}: no dead letter")
        elif place not in events:
            found.duplicated.append(f"dead letter of {place}, where nothing was published")
        elif event is not None and place in dead:
            found.duplicated.append(f"{event}: a dead letter of {place} besides its verdict")


def _check_order(history: History, found: Findings) -> None:
    source = _firsts((m.place, m.key, m.event) for m in history.published if m.event is not None)
    verdicts = _firsts((v.place, v.key, v.event) for v in history.verdicts)
    for key, events in verdicts.items():
        rank = {event: number for number, event in enumerate(source.get(key, ()))}
        known = [event for event in events if event in rank]
        found.out_of_order += [
            f"{key}: the verdict of {after} came before that of {before}"
            for after, before in pairwise(known)
            if rank[after] > rank[before]
        ]


def _firsts(messages: Iterable[tuple[Place, str, str]]) -> dict[str, list[str]]:
    """Key to its events, each where it stands first."""
    firsts: dict[str, dict[str, None]] = defaultdict(dict)
    for _, key, event in sorted(messages):
        firsts[key].setdefault(event)
    return {key: list(events) for key, events in firsts.items()}


def judged_again(answered: Sequence[str]) -> int:
    """How many answers of the engine were not the first for their text."""
    return sum(times - 1 for times in Counter(answered).values())
