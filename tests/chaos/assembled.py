"""What became of the turns of calls; and whether each stands exactly once in the last transcript of its call."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from history import Findings, Place


@dataclass(frozen=True, slots=True)
class Transcript:
    """A message with a call. id: of its event. turns: number and event of each, as they stand there."""

    place: Place
    call: str
    id: str
    turns: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Assembled:
    """Everything that is left of the calls of a run.

    turns: number to event, of each call; of several events the one that counts. published: number and event of
    everything that was published for a call. stored: event to number of rows. noted: call to the id of the transcript
    that the store has as its last, and to how many turns it has.
    """

    turns: Mapping[str, Mapping[int, str]]
    published: Mapping[str, frozenset[tuple[int, str]]]
    transcripts: Sequence[Transcript]
    stored: Mapping[str, int]
    noted: Mapping[str, tuple[str, int]]


def missing(turns: Mapping[str, Mapping[int, str]], transcripts: Iterable[Transcript]) -> list[str]:
    """Turns that the last transcript of their call does not have."""
    last = {transcript.call: transcript for transcript in sorted(transcripts, key=lambda t: t.place)}
    return [
        event
        for call, wanted in turns.items()
        for number, event in wanted.items()
        if call not in last or (number, event) not in last[call].turns
    ]


def check(left: Assembled, found: Findings) -> None:
    """Add to the findings what is wrong, and count the corrections."""
    versions: dict[str, dict[str, Transcript]] = {call: {} for call in left.turns}
    last: dict[str, Transcript] = {}
    for transcript in sorted(left.transcripts, key=lambda t: t.place):
        versions.setdefault(transcript.call, {}).setdefault(transcript.id, transcript)
        last[transcript.call] = transcript
    for call, by_id in sorted(versions.items()):
        if call not in left.turns:
            found.duplicated.append(f"{call}: a transcript, and nobody published a turn")
        elif not by_id:
            found.lost.append(f"{call}: no transcript")
        else:
            _check_last(left.turns[call], last[call], found)
            _check_versions(list(by_id.values()), left.published[call], found)
            if left.noted.get(call) != (expected := (last[call].id, len(left.turns[call]))):
                found.lost.append(f"{call}: its last transcript is {expected}, the store says {left.noted.get(call)}")
    for event in sorted({event for turns in left.published.values() for _, event in turns} | left.stored.keys()):
        rows = left.stored.get(event, 0)
        if rows > 1:
            found.duplicated.append(f"{event}: {rows} rows of its turn in ClickHouse")
    found.lost += [
        f"{event}: no row of its turn in ClickHouse"
        for turns in left.turns.values()
        for event in turns.values()
        if event not in left.stored
    ]


def _check_last(wanted: Mapping[int, str], last: Transcript, found: Findings) -> None:
    expected, there = Counter(wanted.items()), Counter(last.turns)
    found.lost += [f"{last.call}: turn {turn} is not in its last transcript" for turn in sorted(expected - there)]
    found.duplicated += [
        f"{last.call}: turn {turn} is in its last transcript once too often" for turn in sorted(there - expected)
    ]


def _check_versions(versions: Sequence[Transcript], published: frozenset[tuple[int, str]], found: Findings) -> None:
    """Each version but the first is a correction, and has something that no version before it had."""
    for version in versions:
        numbers = [number for number, _ in version.turns]
        if numbers != sorted(numbers):
            found.out_of_order.append(f"{version.call}: turns {numbers} in {version.id}")
        if len(set(numbers)) < len(numbers):
            found.duplicated.append(f"{version.call}: a turn twice in {version.id}")
        if strange := set(version.turns) - published:
            found.duplicated.append(f"{version.call}: {sorted(strange)} in {version.id}, and nobody published that")
    for before, after in pairwise(versions):
        if {number for number, _ in before.turns} - {number for number, _ in after.turns}:
            found.out_of_order.append(f"{before.call}: {after.id} says less than {before.id} before it")
        elif not set(after.turns) - set(before.turns):
            found.duplicated.append(f"{before.call}: {after.id} says what {before.id} says")
    found.corrections += len(versions) - 1
