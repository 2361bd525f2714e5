"""What happens in a run, all of it from one seed: messages, workers and faults."""

import random
from dataclasses import dataclass, replace
from enum import StrEnum


class About(StrEnum):
    """What the messages of a run are."""

    MESSAGES = "messages"
    CALLS = "calls"  # turns, to be put together


class Poison(StrEnum):
    """Messages that no worker can judge."""

    BROKEN_JSON = "broken_json"
    NO_VALUE = "no_value"
    EMPTY_TEXT = "empty_text"
    WRONG_TYPE = "wrong_type"
    NOT_UTF8 = "not_utf8"


class Kind(StrEnum):
    """Faults."""

    KILL = "kill"
    KILL_TWO = "kill_two"
    KILL_AFTER_ANSWER = "kill_after_answer"
    KILL_AFTER_INSERT = "kill_after_insert"
    KILL_AFTER_VERDICT = "kill_after_verdict"
    ROLLING_RESTART = "rolling_restart"
    JOIN = "join"
    BROKER_PAUSE = "broker_pause"
    BROKER_RESTART = "broker_restart"
    BROKER_KILL = "broker_kill"
    ENGINE_KILL = "engine_kill"
    ENGINE_HANG = "engine_hang"
    ENGINE_429 = "engine_429"
    ENGINE_500 = "engine_500"
    ENGINE_503 = "engine_503"
    ENGINE_GARBAGE = "engine_garbage"
    ENGINE_HALF_BODY = "engine_half_body"
    ENGINE_LATE = "engine_late"
    STORE_REFUSE = "store_refuse"
    STORE_SLOW = "store_slow"
    STORE_500 = "store_500"
    STORE_FAIL_AFTER = "store_fail_after"
    STORE_RESTART = "store_restart"


SILENCE_SECONDS = 5  # longer than it takes until what is done is committed
LATE_SECONDS = 7.0  # without any message, so that calls are closed

_APACHE_ONLY = frozenset({Kind.BROKER_RESTART, Kind.BROKER_KILL})  # Tansu keeps its topics in memory
# After these a worker may be told to stop before it has seen again what was done but not committed.
_DISTURBS_GROUP = frozenset(
    {Kind.KILL, Kind.KILL_TWO, Kind.KILL_AFTER_ANSWER, Kind.KILL_AFTER_INSERT, Kind.KILL_AFTER_VERDICT}
    | {Kind.ROLLING_RESTART, Kind.JOIN, Kind.BROKER_PAUSE, Kind.BROKER_RESTART, Kind.BROKER_KILL}
)


class On(StrEnum):
    """What is counted until a fault begins."""

    VERDICTS = "verdicts"
    ANSWERS = "answers"
    INSERTS = "inserts"
    TURN_INSERTS = "turn_inserts"
    CALL_INSERTS = "call_inserts"
    TRANSCRIPTS = "transcripts"
    PUBLISHED = "published"  # so that calls are still open and nothing is going on


_ON = {About.MESSAGES: (On.VERDICTS, On.ANSWERS, On.INSERTS), About.CALLS: (*On, On.PUBLISHED, On.PUBLISHED)}
_COUNTS_BATCHES = frozenset({On.INSERTS, On.TURN_INSERTS, On.CALL_INSERTS})


@dataclass(frozen=True, slots=True)
class Planned:
    """A message to publish. event: its number, or None for poison. pause: seconds before it, once workers run.

    turn: its number in the call that is its key; None where messages are no turns.
    """

    event: int | None
    poison: Poison | None
    key: str
    pause: float
    words: str = ""
    turn: int | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """kind begins when `count` of `on` were seen, and lasts `seconds` (for kills: the delay)."""

    kind: Kind
    on: On
    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind}@{self.on}>={self.count} for {self.seconds:g}s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A run. early: how many messages are published before any worker starts."""

    seed: int
    broker: str
    partitions: int
    workers: int
    rows_in_flight: int
    messages: tuple[Planned, ...]
    early: int
    faults: tuple[Fault, ...]
    about: About = About.MESSAGES

    @property
    def name(self) -> str:
        """Of its pipeline and its group; its topics begin with it. Runs on two brokers share a store."""
        return f"chaos-{self.about}-{self.broker}-{self.seed}"

    @property
    def calls(self) -> int:
        """Calls that the messages are turns of."""
        return len({message.key for message in self.messages if message.turn is not None})

    @property
    def events(self) -> int:
        """Distinct events."""
        return len({message.event for message in self.messages if message.event is not None})

    @property
    def disturbs_group(self) -> bool:
        """Whether a fault may leave finished work uncommitted."""
        return any(fault.kind in _DISTURBS_GROUP for fault in self.faults)

    @classmethod
    def of(cls, seed: int, broker: str, about: About = About.MESSAGES) -> "Schedule":
        """The schedule of a seed on a broker: `tansu` or `apache`."""
        if about is About.CALLS:
            rng = random.Random(f"{seed}/{broker}/{about}")
            judged = rng.randint(12, 30)
            messages = _turns(rng, judged)
        else:
            rng = random.Random(f"{seed}/{broker}")
            judged = rng.randint(25, 60)
            messages = _messages(rng, judged)
        faults = tuple(_fault(rng, judged, len(messages), broker, about) for _ in range(rng.choice([1, 1, 1, 2, 2, 3])))
        workers = rng.choice([1, 1, 2, 2, 3])
        if any(fault.kind is Kind.KILL_TWO for fault in faults):
            workers = max(workers, 2)
        return cls(
            seed=seed,
            broker=broker,
            partitions=rng.randint(2, 4),
            workers=workers,
            rows_in_flight=rng.randint(8, 16),
            messages=messages,
            early=rng.randint(0, len(messages) // 2),
            faults=faults,
            about=about,
        )


def _messages(rng: random.Random, events: int) -> tuple[Planned, ...]:
    """Events in order; duplicates some time after their first; poison anywhere."""
    keys = [f"t-{number}" for number in range(rng.randint(3, 8))]
    places = [(float(number), event) for number, event in enumerate(_event(rng, n, keys) for n in range(events))]
    share = rng.choice([0, 0.1, 0.3])
    for number, event in places[:events]:
        while rng.random() < share:
            places.append((number + 0.5 + rng.expovariate(1 / 8), event))
    places += [(rng.uniform(0, events), _poison(rng, keys)) for _ in range(rng.randint(0, 5))]
    return tuple(message for _, message in sorted(places, key=lambda place: place[0]))


def _turns(rng: random.Random, calls: int) -> tuple[Planned, ...]:
    """Turns of many calls at once, out of order.

    Some calls have no final turn. Of some, a turn is said again with other words; of some, the last message comes when
    all calls have long been closed. Turns that were not said again with other words may be repeated; poison anywhere.
    """
    places: list[tuple[float, Planned]] = []
    late: list[Planned] = []
    share, event = rng.choice([0, 0.1, 0.3]), 0
    for call in range(calls):
        start, last, ends = rng.uniform(0, 3 * calls), rng.randint(1, 8), rng.random() < 0.7
        corrected = rng.randint(0, last) if rng.random() < 0.2 else None
        mine: list[tuple[float, Planned]] = []
        for number in [*range(last + 1), *([] if corrected is None else [corrected])]:
            final = ends and number == last
            turn = Planned(event, None, f"call-{call}", rng.uniform(0, 0.1), _words(rng), number, final)
            event += 1
            first = max((place for place, other in mine if other.turn == number), default=start + 3 * number)
            mine.append((first + rng.uniform(0, 12), turn))
            while number != corrected and rng.random() < share:
                places.append((mine[-1][0] + rng.expovariate(1 / 16), turn))
        if rng.random() < 0.25:
            late.append(mine.pop(len(mine) - 1 if corrected is not None else rng.randint(0, last))[1])
        places += mine
    places += [
        (rng.uniform(0, 3 * calls), _poison(rng, ["call-0", "call-1", "call-2"])) for _ in range(rng.randint(0, 5))
    ]
    if late:
        late[0] = replace(late[0], pause=LATE_SECONDS)
    return (*(message for _, message in sorted(places, key=lambda place: place[0])), *late)


def _event(rng: random.Random, number: int, keys: list[str]) -> Planned:
    words = _words(rng)
    return Planned(number, None, rng.choice(keys), rng.uniform(0, 0.2), words)


def _words(rng: random.Random) -> str:
    return " ".join(rng.choices(["hello", "buy", "coins", "tomorrow", "idiot", "see", "you", "cheap"], k=4))


def _poison(rng: random.Random, keys: list[str]) -> Planned:
    return Planned(None, rng.choice(list(Poison)), rng.choice(keys), rng.uniform(0, 0.2))


def _fault(rng: random.Random, judged: int, published: int, broker: str, about: About) -> Fault:
    """judged: how many rows the engine will see. published: how many messages."""
    kinds = [kind for kind in Kind if broker == "apache" or kind not in _APACHE_ONLY]
    on = {Kind.KILL_AFTER_ANSWER: On.ANSWERS, Kind.KILL_AFTER_INSERT: On.INSERTS, Kind.KILL_AFTER_VERDICT: On.VERDICTS}
    if about is About.CALLS:  # nothing of the engine's concerns them
        kinds = [kind for kind in kinds if not kind.startswith("engine_")]
        on[Kind.KILL_AFTER_INSERT] = rng.choice([On.TURN_INSERTS, On.CALL_INSERTS, On.INSERTS])
        on[Kind.KILL_AFTER_VERDICT] = rng.choice([On.TRANSCRIPTS, On.VERDICTS])
    kind = rng.choice(kinds)
    chosen = on.get(kind) or rng.choice(_ON[about])
    most = 4 if chosen in _COUNTS_BATCHES else published if chosen is On.PUBLISHED else round(judged * 0.6)
    count, seconds = rng.randint(1, most), _seconds(rng, kind)
    if about is About.CALLS and kind in {Kind.KILL, Kind.KILL_TWO}:
        seconds = rng.choice([0, 1, 3])
    return Fault(kind, chosen, count, seconds)


def _seconds(rng: random.Random, kind: Kind) -> float:
    if kind in {Kind.KILL_AFTER_ANSWER, Kind.KILL_AFTER_INSERT, Kind.KILL_AFTER_VERDICT}:
        return rng.choice([0, 0, 0.02, 0.1, 0.3])
    if kind in {Kind.KILL, Kind.KILL_TWO, Kind.ROLLING_RESTART, Kind.JOIN}:
        return 0
    if kind is Kind.BROKER_PAUSE:
        return round(rng.uniform(15, 30) if rng.random() < 0.1 else rng.uniform(5, 8), 1)
    if kind in {Kind.ENGINE_HANG, Kind.ENGINE_LATE}:
        return round(rng.uniform(4, 9), 1)  # shorter and longer than a worker waits
    return round(rng.uniform(0.5, 4), 1)
