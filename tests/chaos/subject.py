"""What a run is about: messages that are judged, or turns of calls that are put together and then judged."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import assembled
import history
import http_calls
from assembled import Assembled
from clickhouse_connect.driver.client import Client
from feed import Feed
from history import Findings, History
from schedule import SILENCE_SECONDS, About, Planned, Schedule
from tape import CallTape, Tape

from streams import topics

_ROWS = """
SELECT s.event_id, count() FROM verdicts AS v JOIN source_rows AS s ON v.source_row_id = s.row_id
WHERE v.pipeline = {pipeline:String} GROUP BY s.event_id
"""
_TURNS = """
SELECT s.event_id, uniqExact(t.row_id) FROM turns_raw AS t JOIN source_rows AS s ON t.row_id = s.row_id
WHERE t.topic = {topic:String} GROUP BY s.event_id
"""
_CALLS = """
SELECT c.call, s.event_id, c.turns FROM calls AS c JOIN source_rows AS s ON c.row_id = s.row_id
WHERE c.topic = {topic:String}
"""
_HEAD = """\
name: {name}
version: "1"
source: {source}
sla: 10s
stages:
"""
_ASSEMBLE = """\
  - name: assemble
    writes: {name}-transcripts
    assemble: {{silence: {silence}s}}
"""
_JUDGE = """\
  - name: judge
    writes: {name}-verdicts
    judge:
      operator: moderate
      categories:
        - {{name: threat, definition: threatens violence}}
        - {{name: spam, definition: advertising}}
      calibration: {{content_free: [hello]}}
      examples:
        - {{label: ok, text: see you at nine}}
        - {{label: spam, text: buy cheap coins}}
"""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Of one topic, by partition: what was committed, and where it ends."""

    committed: Mapping[int, int]
    ends: Mapping[int, int]


class Subject(ABC):
    """The pipeline of a run, and what must have become of its messages."""

    def __init__(self, schedule: Schedule, feed: Feed) -> None:
        """feed: it knows the ids of events."""
        self.schedule = schedule
        self.feed = feed
        self.name = schedule.name

    @property
    def source(self) -> str:
        """The topic that is published to."""
        return self.reads[0]

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The topics that stages read."""

    @property
    @abstractmethod
    def pipeline(self) -> str:
        """The pipeline file."""

    @abstractmethod
    def tape(self, bootstrap: str) -> Tape:
        """A consumer of all topics."""

    @abstractmethod
    def unstored(self, tape: Tape, client: Client) -> Iterable[str]:
        """What ClickHouse does not have yet."""

    @abstractmethod
    def taken(self, client: Client) -> Iterable[str]:
        """Events of the source that may be committed: ClickHouse has what the first stage makes of them."""

    @abstractmethod
    def findings(self, tape: Tape, client: Client, offsets: Mapping[str, Offsets]) -> Findings:
        """What is wrong at the end."""

    @property
    def _planned(self) -> frozenset[str]:
        return frozenset(self.feed.event_id(m.event) for m in self.schedule.messages if m.event is not None)

    def _rows(self, client: Client) -> dict[str, int]:
        """Verdicts of each event."""
        return {str(event): int(count) for event, count in self._query(client, _ROWS)}

    def _query(self, client: Client, sql: str) -> Any:
        return client.query(sql, parameters={"pipeline": self.name, "topic": self.source}).result_rows


class Messages(Subject):
    """Each message is judged."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{self.name}-messages",)

    @property
    def pipeline(self) -> str:
        return (_HEAD + _JUDGE).format(name=self.name, source=self.source)

    def tape(self, bootstrap: str) -> Tape:
        names = (self.source, f"{self.name}-verdicts", topics.dead_letters(self.source))
        return Tape(bootstrap, names, self.schedule.partitions)

    def unstored(self, tape: Tape, client: Client) -> Iterable[str]:
        return self._planned - self._rows(client).keys()

    def taken(self, client: Client) -> Iterable[str]:
        return self._rows(client)

    def findings(self, tape: Tape, client: Client, offsets: Mapping[str, Offsets]) -> Findings:
        return history.check(
            History(
                planned=self._planned,
                published=list(tape.published.values()),
                verdicts=list(tape.verdicts.values()),
                dead=list(tape.dead.values()),
                rows=self._rows(client),
                committed=offsets[self.source].committed,
                ends=offsets[self.source].ends,
            )
        )


class Calls(Subject):
    """Turns become transcripts, and each of those is judged."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{self.name}-turns", f"{self.name}-transcripts")

    @property
    def pipeline(self) -> str:
        text = _HEAD + _ASSEMBLE + _JUDGE
        return text.format(name=self.name, source=self.source, silence=SILENCE_SECONDS)

    def tape(self, bootstrap: str) -> Tape:
        events = {
            http_calls.token(m.event): self.feed.event_id(m.event)
            for m in self.schedule.messages
            if m.event is not None
        }
        return CallTape(bootstrap, self.reads, f"{self.name}-verdicts", self.schedule.partitions, self._turns, events)

    def unstored(self, tape: Tape, client: Client) -> Iterable[str]:
        assert isinstance(tape, CallTape)
        last = {t.call: t.id for t in sorted(tape.transcripts.values(), key=lambda t: t.place)}
        noted = {call: event for call, (event, _) in self._noted(client).items()}
        judged = {transcript.id for transcript in tape.transcripts.values()} - self._rows(client).keys()
        return judged | {call for call, event in last.items() if noted.get(call) != event}

    def taken(self, client: Client) -> Iterable[str]:
        return self._stored(client)

    def findings(self, tape: Tape, client: Client, offsets: Mapping[str, Offsets]) -> Findings:
        assert isinstance(tape, CallTape)
        _, transcripts = self.reads
        found = history.check(
            History(
                planned=frozenset(),
                published=tape.judged,
                verdicts=list(tape.verdicts.values()),
                dead=list(tape.dead_transcripts.values()),
                rows=self._rows(client),
                committed=offsets[transcripts].committed,
                ends=offsets[transcripts].ends,
            )
        )
        history.check_dead_letters(list(tape.published.values()), list(tape.dead.values()), found)
        history.check_commits(offsets[self.source].committed, offsets[self.source].ends, found)
        published: dict[str, set[tuple[int, str]]] = defaultdict(set)
        for message in self.schedule.messages:
            if message.event is not None and message.turn is not None:
                published[message.key].add((message.turn, self.feed.event_id(message.event)))
        assembled.check(
            Assembled(
                turns=self._turns,
                published={call: frozenset(turns) for call, turns in published.items()},
                transcripts=list(tape.transcripts.values()),
                stored=self._stored(client),
                noted=self._noted(client),
            ),
            found,
        )
        return found

    @property
    def _turns(self) -> Mapping[str, Mapping[int, str]]:
        """The event that counts, of each turn of each call."""
        standing: dict[tuple[str, int], Planned] = {}
        for message in self.schedule.messages:  # what was said again with other words is never repeated
            if message.event is not None and message.turn is not None:
                standing[message.key, message.turn] = message
        turns: dict[str, dict[int, str]] = defaultdict(dict)
        for (call, number), message in sorted(standing.items()):
            assert message.event is not None
            turns[call][number] = self.feed.event_id(message.event)
        return turns

    def _stored(self, client: Client) -> dict[str, int]:
        """Rows of each event's turn."""
        return {str(event): int(count) for event, count in self._query(client, _TURNS)}

    def _noted(self, client: Client) -> dict[str, tuple[str, int]]:
        return {str(call): (str(event), int(turns)) for call, event, turns in self._query(client, _CALLS)}


SUBJECTS: Mapping[About, type[Subject]] = {About.MESSAGES: Messages, About.CALLS: Calls}
