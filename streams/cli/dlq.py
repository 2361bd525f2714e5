"""`weir dlq`: dead letters are work. List them, look at one, replay it, drop it."""

import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from streams.cli.common import load_settings, point_in_time, run_async
from streams.cli.terminal import inert, plain, plain_json
from streams.cloudevents import rfc3339
from streams.dlq import Action, Position
from streams.dlq_entries import Entry, Filter
from streams.dlq_topic import DeadLetterTopic
from streams.errors import Reason, WorkerMisconfigured

_DETAIL_CHARACTERS = 160
_VALUE_CHARACTERS = 4000

dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: list them, look at one, replay or drop it.")

TopicArgument = Annotated[str, typer.Argument(help="Topic that was read, or its dead-letter topic.")]
PositionsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[POSITION]...", help="<partition>:<offset>, as `list` shows it.")
]
ReasonOption = Annotated[list[Reason] | None, typer.Option("--reason", help="Only these; may be given again.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Dead since: RFC 3339, or how long ago, for example 2h.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Dead before: likewise.")]
IdOption = Annotated[list[str] | None, typer.Option("--id", help="Only events of this id; may be given again.")]
EveryOption = Annotated[bool, typer.Option("--all", help="Every open one.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@dlq_app.command("list")
def list_command(
    topic: TopicArgument,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    id: IdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    settled: Annotated[bool, typer.Option("--all", help="Also those that were replayed or dropped.")] = False,
) -> None:
    """Show what is open."""
    meant = _filter(reason, since, until, id)
    found = run_async(_topic(topic).entries())
    entries = [entry for entry in found.entries if (settled or entry.action is None) and meant.meets(entry)]
    if as_json:
        for entry in entries:
            typer.echo(plain_json(orjson.dumps(_as_dict(entry)).decode()))
        return
    if entries:
        Console().print(_table(entries, settled))
    open_ = [entry for entry in entries if entry.action is None]
    typer.echo(f"{_count(open_)} open" + (f", {len(entries) - len(open_)} settled" if settled else ""))
    if found.strangers:
        typer.echo(f"{found.strangers} in the topic that is no dead letter and is left alone")


@dlq_app.command()
def show(
    topic: TopicArgument,
    position: Annotated[str, typer.Argument(help="<partition>:<offset>, as `list` shows it.")],
    raw: Annotated[bool, typer.Option("--value", help="Only the value, byte for byte.")] = False,
) -> None:
    """Show one dead letter: headers and value."""
    letters = _topic(topic)
    place = _position(position)
    found = run_async(_record(letters, place))
    if found is None:
        raise _no_such(letters, place)
    if raw:
        typer.echo(found.value or b"", nl=False)
        return
    for name, value in found.headers:
        typer.echo(f"{plain(name)}: {_text(value)}")
    typer.echo(f"key: {_text(found.key)}")
    typer.echo(f"value: {_text(found.value, _VALUE_CHARACTERS)}")


@dlq_app.command()
def replay(
    topic: TopicArgument,
    position: PositionsArgument = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    id: IdOption = None,
    every: EveryOption = False,
    value: Annotated[
        Path | None,
        typer.Option("--value", help="File with a value that takes the place of the one of one dead letter."),
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Publish dead letters again where they came from, with the identity that they had."""
    letters = _topic(topic)
    entries = _chosen(letters, position, _filter(reason, since, until, id), every)
    if value is not None and len(entries) != 1:
        raise WorkerMisconfigured(f"--value is for exactly one dead letter, and {len(entries)} were chosen; name one")
    body = None if value is None else _read(value)
    _settle(letters, entries, Action.REPLAYED, lambda: letters.replay(entries, body), dry_run, yes)


@dlq_app.command()
def drop(
    topic: TopicArgument,
    position: PositionsArgument = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    id: IdOption = None,
    every: EveryOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
) -> None:
    """Mark dead letters as dropped: nobody will try them again."""
    letters = _topic(topic)
    entries = _chosen(letters, position, _filter(reason, since, until, id), every)
    _settle(letters, entries, Action.DROPPED, lambda: letters.drop(entries), dry_run, yes)


def _topic(name: str) -> DeadLetterTopic:
    return DeadLetterTopic(load_settings("kafka"), name)


def _chosen(letters: DeadLetterTopic, positions: Sequence[str] | None, meant: Filter, every: bool) -> list[Entry]:
    """The open entries that are meant. Raises WorkerMisconfigured."""
    if every and (positions or not meant.empty):
        raise WorkerMisconfigured("--all means every dead letter: leave out the positions and filters, or --all")
    if not every and not positions and meant.empty:
        raise WorkerMisconfigured("which ones? Name positions or filters, or say --all")
    places = [_position(text) for text in positions or ()]
    entries = run_async(letters.entries()).entries
    if places:
        at = {copy: entry for entry in entries for copy in entry.copies}
        entries = list({named.position: named for named in (_open(letters, at.get(p), p) for p in places)}.values())
    return [entry for entry in entries if entry.action is None and meant.meets(entry)]


def _open(letters: DeadLetterTopic, entry: Entry | None, place: Position) -> Entry:
    if entry is None:
        raise _no_such(letters, place)
    if entry.action is not None:
        raise WorkerMisconfigured(
            f"the dead letter at {place} was {entry.action} already; weir dlq list {letters.source} shows what is open"
        )
    return entry


def _no_such(letters: DeadLetterTopic, place: Position) -> WorkerMisconfigured:
    return WorkerMisconfigured(
        f"there is no dead letter at {place} of {letters.name}; weir dlq list {letters.source} --all shows all"
    )


def _settle(
    letters: DeadLetterTopic,
    entries: Collection[Entry],
    action: Action,
    start: Callable[[], AsyncGenerator[Entry, None]],
    dry_run: bool,
    yes: bool,
) -> None:
    if not entries:
        typer.echo("no open dead letter is meant")
        return
    if dry_run:
        for entry in entries:
            typer.echo(f"would be {action}: {_line(entry)}")
        typer.echo(f"{_count(entries)} would be {action}")
        return
    if not yes:
        question = f"Replay to {letters.source}" if action == Action.REPLAYED else "Drop"
        typer.confirm(plain(f"{question}: {_count(entries)}. Go on?"), abort=True)

    done: list[Entry] = []

    async def work() -> None:
        async with aclosing(start()) as settled:
            async for entry in settled:
                typer.echo(f"{action}: {_line(entry)}")
                done.append(entry)

    try:
        run_async(work())
    finally:
        typer.echo(f"{_count(done)} {action}")


async def _record(letters: DeadLetterTopic, place: Position) -> Any:
    """The record at this position if it is a dead letter, else None."""
    entries = (await letters.entries()).entries
    if all(place not in entry.copies for entry in entries):
        return None
    async with aclosing(letters.records([place])) as records:
        return await anext(records, None)


def _filter(
    reasons: Iterable[Reason] | None, since: str | None, until: str | None, ids: Iterable[str] | None
) -> Filter:
    return Filter(
        frozenset(reason.value for reason in reasons or ()),
        None if since is None else point_in_time("--since", since),
        None if until is None else point_in_time("--until", until),
        frozenset(ids or ()),
    )


def _position(text: str) -> Position:
    try:
        return Position.parse(text)
    except ValueError as error:
        raise WorkerMisconfigured(str(error)) from error


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise WorkerMisconfigured(f"{file}: {error.strerror}") from error


def _table(entries: Iterable[Entry], settled: bool) -> Table:
    table = Table()
    for title in ("position", "time", "reason", "event", "origin", "replays", "detail"):
        table.add_column(title, overflow="fold")
    if settled:
        table.add_column("action")
    for entry in entries:
        letter = entry.letter
        cut = letter.detail[:_DETAIL_CHARACTERS] + ("…" if len(letter.detail) > _DETAIL_CHARACTERS else "")
        cells = [
            str(entry.position),
            _when(entry),
            letter.reason,
            next(iter(entry.event_ids), ""),
            f"{letter.origin.partition}:{letter.origin.offset}",
            str(letter.origin.replays or ""),
            cut,
            *([entry.action or "open"] if settled else []),
        ]
        table.add_row(*map(inert, cells))
    return table


def _as_dict(entry: Entry) -> dict[str, Any]:
    letter = entry.letter
    return {
        "position": str(entry.position),
        "time": _when(entry),
        "reason": letter.reason,
        "detail": letter.detail,
        "event_ids": entry.event_ids,
        "topic": letter.origin.topic,
        "partition": letter.origin.partition,
        "offset": letter.origin.offset,
        "timestamp_ms": letter.origin.timestamp_ms,
        "replays": letter.origin.replays,
        "attempts": letter.attempts,
        "stage": letter.stage,
        "copies": [str(position) for position in entry.copies],
        "action": entry.action,
    }


def _line(entry: Entry) -> str:
    place = entry.letter.origin
    return plain(f"{entry.position} {entry.letter.reason}, {place.topic}[{place.partition}]@{place.offset}")


def _count(entries: Collection[Entry]) -> str:
    """How many, and of which reasons."""
    reasons = Counter(plain(entry.letter.reason) for entry in entries).most_common()
    told = ", ".join(f"{count} {reason}" for reason, count in reasons)
    return f"{len(entries)} dead letter{'' if len(entries) == 1 else 's'}" + (f" ({told})" if told else "")


def _when(entry: Entry) -> str:
    return rfc3339(entry.letter.time.astimezone(UTC)) if entry.letter.time else ""


def _text(value: bytes | None, characters: int | None = None) -> str:
    """A value for people, of a limited length."""
    if value is None:
        return "none"
    text = value.decode("utf-8", "backslashreplace")
    if characters is None or len(text) <= characters:
        return plain(text)
    return f"{plain(text[:characters])}… ({len(value)} bytes; --value writes them all)"
