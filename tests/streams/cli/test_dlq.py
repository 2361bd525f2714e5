"""`weir dlq`, on a real broker."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from faust.types.tuples import ConsumerMessage

from streams import dlq, topics
from streams.errors import DeadLetter, Reason
from streams.kafka import client_options
from streams.settings import Settings
from tests.streams.cli.conftest import Weir

pytestmark = pytest.mark.usefixtures("logging_as_before", "kafka")

NOW = datetime.now(UTC).replace(microsecond=0)
HOSTILE = "\x1b[31mred [bold]loud[/] \x9b2J\x07\r\n"

Die = Callable[..., None]


@pytest.fixture
def weir(weir: Weir) -> Weir:
    return partial(weir, "dlq")


@pytest.fixture
def topic(settings: Settings, new_topic: Callable[..., Awaitable[str]]) -> str:
    """A topic and its dead-letter topic."""

    async def create() -> str:
        source = await new_topic()
        await topics.create(settings, [topics.Topic(f"{source}.dlq", "test")], 1, 1)
        return source

    return asyncio.run(create())  # the commands have loops of their own


@pytest.fixture
def die(settings: Settings, topic: str, message: Callable[..., ConsumerMessage]) -> Die:
    """`die(b"{", reason=..., offset=3, now=...)`: a dead letter of the topic."""

    def send(
        value: bytes | None = b"{",
        *,
        reason: Reason = Reason.NOT_JSON,
        detail: str = "no JSON",
        now: datetime = NOW,
        **fields: Any,
    ) -> None:
        dead = message(value, **({"topic": topic, "partition": 0} | fields))
        headers = list(dlq.headers(dead, DeadLetter(reason, detail), "moderation/judge", now))

        async def publish() -> None:
            async with AIOKafkaProducer(**client_options(settings)) as producer:
                await producer.send_and_wait(f"{topic}.dlq", value, dead.key, headers=headers)

        asyncio.run(publish())

    return send


@pytest.fixture
def published(topic: str, read: Callable[..., Awaitable[list[Any]]]) -> Callable[[int], Sequence[Any]]:
    """`published(2)`: the first messages of the topic itself."""
    return lambda count: asyncio.run(read(topic, count))


def listed(weir: Weir, *arguments: object) -> list[dict[str, Any]]:
    status, out, _ = weir("list", *arguments, "--json")
    assert status == 0
    return [json.loads(line) for line in out.splitlines()]


def test_nothing_is_open(weir: Weir, topic: str) -> None:
    assert weir("list", topic)[:2] == (0, "0 dead letters open\n")
    assert listed(weir, topic) == []
    assert weir("replay", topic, "--all")[:2] == (0, "no open dead letter is meant\n")


def test_what_is_open_is_listed(weir: Weir, topic: str, die: Die) -> None:
    die(offset=7, headers=[("ce_id", b"e-1")])
    die(b"", offset=8)
    die(b'{"id": "e-3", "text": ""}', offset=9, reason=Reason.EMPTY_TEXT, detail="the field text is empty")
    status, out, _ = weir("list", f"{topic}.dlq")
    assert status == 0
    *_, first, second, third, _, summary = out.splitlines()
    time = NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert cells(first) == ["0:0", time, "not_json", "e-1", "0:7", "", "no JSON"]
    assert cells(second) == ["0:1", time, "not_json", "", "0:8", "", "no JSON"]
    assert cells(third) == ["0:2", time, "empty_text", "e-3", "0:9", "", "the field text is empty"]
    assert summary == "3 dead letters (2 not_json, 1 empty_text) open"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_listing_for_programs(weir: Weir, topic: str, die: Die) -> None:
    die(offset=7, headers=[("ce_id", b"e-1")])
    assert listed(weir, topic) == [
        {
            "position": "0:0",
            "time": NOW.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "reason": "not_json",
            "detail": "no JSON",
            "event_ids": ["e-1"],
            "topic": topic,
            "partition": 0,
            "offset": 7,
            "timestamp_ms": 1772600767089,
            "replays": 0,
            "attempts": 0,
            "stage": "moderation/judge",
            "copies": ["0:0"],
            "action": None,
        }
    ]


def test_hostile_text_stays_text(weir: Weir, topic: str, die: Die) -> None:
    headers = [("ce_id", HOSTILE.encode()), (HOSTILE, HOSTILE.encode())]
    die(HOSTILE.encode(), detail=HOSTILE, headers=headers, key=HOSTILE.encode())
    outs = [weir(*arguments)[1] for arguments in (["list", topic], ["show", topic, "0:0"], ["list", topic, "--json"])]
    for out in outs:
        assert not {c for c in out if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)}
        assert "[bold]loud[/]" in out
    assert json.loads(outs[2])["detail"] == HOSTILE
    assert "value: \\x1b[31mred [bold]loud[/] \\x9b2J\\x07\\r\\n\n" in outs[1]


def test_a_dead_letter_is_shown(weir: Weir, topic: str, die: Die) -> None:
    die(b'{"text": "h\xc3\xa9', headers=[("own", None), ("ce_id", b"e-1")], key=b"k")
    status, out, _ = weir("show", topic, "0:0")
    assert status == 0
    lines = out.splitlines()
    assert lines[:3] == ["own: none", "ce_id: e-1", "weir_dlq_reason: not_json"]
    assert lines[-2:] == ["key: k", 'value: {"text": "hé']


def test_a_long_value_is_cut(weir: Weir, topic: str, die: Die) -> None:
    die(b"x" * 5000)
    assert weir("show", topic, "0:0")[1].endswith(f"{'x' * 4000}… (5000 bytes; --value writes them all)\n")


@pytest.mark.parametrize("value", [b'{"text": "\xff\x00\r\n\x1b[0m', b"", b"x" * 100_000])
def test_a_value_is_written_byte_for_byte(weir: Weir, topic: str, die: Die, value: bytes) -> None:
    die(value)
    status, out, _ = weir("show", topic, "0:0", "--value")
    assert (status, out.encode(errors="surrogateescape")) == (0, value)


def test_a_fixed_row_is_replayed(
    weir: Weir, topic: str, die: Die, published: Callable[[int], Sequence[Any]], tmp_path: Path
) -> None:
    die(offset=7)
    die(offset=8)
    file = tmp_path / "fixed.json"
    file.write_bytes(b'{"text": "hello"}')
    status, out, _ = weir("replay", topic, "0:1", "--value", file, "--yes")
    assert (status, out) == (
        0,
        f"replayed: 0:1 not_json, {topic}[0]@8\n1 dead letter (1 not_json) replayed\n",
    )
    (message,) = published(1)
    assert message.value == b'{"text": "hello"}'
    assert dict(message.headers)["weir_origin_offset"] == b"8"
    assert [entry["position"] for entry in listed(weir, topic)] == ["0:0"]
    assert [entry["action"] for entry in listed(weir, topic, "--all")] == [None, "replayed"]
    table = weir("list", topic, "--all")[1]
    assert table.splitlines()[-1] == "1 dead letter (1 not_json) open, 1 settled"
    assert [cells(line)[-1] for line in table.splitlines() if " 0:" in line] == ["open", "replayed"]


def test_a_value_can_come_from_standard_input(
    weir: Weir, topic: str, die: Die, published: Callable[[int], Sequence[Any]]
) -> None:
    die()
    assert weir("replay", topic, "0:0", "--value", "-", "--yes", answer='{"text": "hi"}')[0] == 0
    assert published(1)[0].value == b'{"text": "hi"}'


def test_filters_choose(weir: Weir, topic: str, die: Die) -> None:
    die(offset=1, now=NOW - timedelta(hours=3))
    die(b"x", offset=2, reason=Reason.NO_VALUE, now=NOW - timedelta(hours=1))
    die(b'{"id": "e-3"}', offset=3, reason=Reason.WRONG_FIELD)

    def offsets(*arguments: object) -> list[int]:
        return [entry["offset"] for entry in listed(weir, topic, *arguments)]

    assert offsets() == [1, 2, 3]
    assert offsets("--reason", "not_json", "--reason", "no_value") == [1, 2]
    assert offsets("--since", "2h") == [2, 3]
    assert offsets("--until", "2h") == [1]
    assert offsets("--since", (NOW - timedelta(hours=2)).isoformat(), "--until", "30m") == [2]
    assert offsets("--id", "e-3") == [3]
    assert offsets("--id", "e-3", "--reason", "no_value") == []
    out = weir("drop", topic, "--reason", "no_value", "--reason", "not_json", "--since", "2h", "--yes")[1]
    assert out.splitlines()[-1] == "1 dead letter (1 no_value) dropped"
    assert offsets() == [1, 3]
    weir("drop", topic, "--all", "--yes")
    assert offsets() == []
    assert [entry["action"] for entry in listed(weir, topic, "--all")] == ["dropped"] * 3


def test_copies_are_settled_at_once(
    weir: Weir, topic: str, die: Die, published: Callable[[int], Sequence[Any]]
) -> None:
    for offset in (1, 1, 2):
        die(b"%d" % offset, offset=offset)
    assert [entry["copies"] for entry in listed(weir, topic)] == [["0:0", "0:1"], ["0:2"]]
    assert weir("replay", topic, "0:1", "0:0", "--yes")[0] == 0
    assert [entry["copies"] for entry in listed(weir, topic)] == [["0:2"]]
    weir("replay", topic, "--all", "--yes")
    assert [message.value for message in published(2)] == [b"1", b"2"]


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_person_is_asked(weir: Weir, topic: str, die: Die, command: str) -> None:
    die()
    for answer in ("n\n", ""):
        status, out, _ = weir(command, topic, "--all", answer=answer)
        assert status == 1
        assert "1 dead letter (1 not_json). Go on?" in out
        assert len(listed(weir, topic)) == 1
    assert weir(command, topic, "--all", answer="y\n")[0] == 0
    assert listed(weir, topic) == []


@pytest.mark.parametrize(("command", "action"), [("replay", "replayed"), ("drop", "dropped")])
def test_a_dry_run_does_nothing(weir: Weir, topic: str, die: Die, command: str, action: str) -> None:
    die(offset=7)
    status, out, _ = weir(command, topic, "--all", "--dry-run")
    assert (status, out) == (
        0,
        f"would be {action}: 0:0 not_json, {topic}[0]@7\n1 dead letter (1 not_json) would be {action}\n",
    )
    assert len(listed(weir, topic)) == 1


def test_records_of_others_are_told(weir: Weir, topic: str, settings: Settings) -> None:
    async def publish() -> None:
        async with AIOKafkaProducer(**client_options(settings)) as producer:
            await producer.send_and_wait(f"{topic}.dlq", b"hello")

    asyncio.run(publish())
    assert weir("list", topic)[1] == ("0 dead letters open\n1 in the topic that is no dead letter and is left alone\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay"], "which ones? Name positions or filters, or say --all"),
        (["drop"], "which ones? Name positions or filters, or say --all"),
        (["drop", "--all", "0:0"], "leave out the positions and filters, or --all"),
        (["replay", "--all", "--id", "x"], "leave out the positions and filters, or --all"),
        (["replay", "0:77"], "there is no dead letter at 0:77 of "),
        (["show", "0:77"], "there is no dead letter at 0:77 of "),
        (["show", "0:2"], "there is no dead letter at 0:2 of "),
        (["show", "first"], "'first' is no position; a position is <partition>:<offset>"),
        (["drop", "0:1"], "the dead letter at 0:1 was dropped already; weir dlq list "),
        (["replay", "--all", "--value", "{file}"], "--value is for exactly one dead letter, and 2 were chosen"),
        (["replay", "--id", "nobody", "--value", "{file}"], "--value is for exactly one dead letter, and 0 were"),
        (["replay", "0:0", "--value", "{file}.not"], "No such file"),
        (["list", "--since", "noon"], "--since 'noon' is neither a time, such as "),
        (["list", "--until", "2026-11-22T09:30:00"], "--until '2026-11-22T09:30:00' is neither a time, such as "),
        (["list", "--reason", "boredom"], "boredom"),
    ],
)
def test_mistakes_are_told(weir: Weir, topic: str, die: Die, tmp_path: Path, arguments: list[str], says: str) -> None:
    for offset in (1, 2):
        die(offset=offset)
    assert weir("drop", topic, "0:1", "--yes")[0] == 0
    die(offset=3)
    file = tmp_path / "value"
    file.write_bytes(b"{}")
    command, *rest = (argument.format(file=file) for argument in arguments)
    status, out, err = weir(command, topic, *rest)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert [entry["position"] for entry in listed(weir, topic)] == ["0:0", "0:3"]


@pytest.mark.parametrize("arguments", [["list"], ["show", "0:0"], ["replay", "--all"], ["drop", "0:0"]])
def test_a_topic_that_is_not_there(weir: Weir, topic: str, arguments: list[str]) -> None:
    command, *rest = arguments
    status, _, err = weir(command, "nowhere", *rest)
    assert status == 2
    assert err.startswith("weir: there is no topic nowhere.dlq; there are dead letters in: ")
    assert f"{topic}.dlq" in err
