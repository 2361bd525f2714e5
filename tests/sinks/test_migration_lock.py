"""One migrator at a time, also after one that died."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from clickhouse_connect.driver.client import Client

from sinks.clickhouse import StoreSettings, ask, connect
from sinks.errors import StoreUnavailable
from sinks.migration_lock import held
from sinks.schema_forms import LOCK, Form

NewDatabase = Callable[[], StoreSettings]


@pytest.fixture
def empty(new_database: NewDatabase) -> StoreSettings:
    """A database without tables."""
    settings = new_database()
    server = connect(settings, database="default")
    server.command(Form(settings.database).create_database())
    server.close()
    return settings


@pytest.fixture
def form(empty: StoreSettings) -> Form:
    return Form(empty.database)


@pytest.fixture
def there(empty: StoreSettings) -> Iterator[Client]:
    client = connect(empty)
    yield client
    client.close()


def tables(client: Client) -> list[str]:
    return [name for (name,) in ask(client, "SELECT name FROM system.tables WHERE database = currentDatabase()")]


def leave(client: Client, form: Form, token: str, seconds_ago: int) -> None:
    """A lock whose holder gave its last sign of life so long ago."""
    client.command(form.create_lock(token, "elsewhere, process 7"))
    client.command(f"INSERT INTO {LOCK} SELECT '{token}', now64(3) - INTERVAL {seconds_ago} SECOND")


def test_the_second_waits_until_the_first_is_done(
    empty: StoreSettings, form: Form, there: Client, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[str] = []
    waiting = Event()

    def second() -> None:
        client = connect(empty)
        with held(empty, form, client) as check:
            order.append("second begins")
            check()
        client.close()

    class Waiting:
        def filter(self, record: object) -> bool:
            waiting.set()
            return True

    caplog.handler.addFilter(Waiting())  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as threads:
        with held(empty, form, there) as check:
            done = threads.submit(second)
            assert waiting.wait(30)
            check()
            order.append("first ends")
        done.result(30)
    assert order == ["first ends", "second begins"]
    assert "waiting for another migrator: " in caplog.text
    assert tables(there) == []


def test_a_holder_that_died_is_followed(
    empty: StoreSettings, form: Form, there: Client, caplog: pytest.LogCaptureFixture
) -> None:
    leave(there, form, "d" * 32, 61)
    with held(empty, form, there) as check:
        check()
        assert sorted(tables(there)) == [LOCK, f"{LOCK}_{'d' * 32}"]
    assert "took over from a migrator that has been silent for 61 s: elsewhere, process 7" in caplog.text
    assert tables(there) == []


def test_only_one_of_many_follows_it(empty: StoreSettings, form: Form, there: Client) -> None:
    leave(there, form, "d" * 32, 61)
    inside: list[int] = []

    def work(number: int) -> int:
        client = connect(empty)
        with held(empty, form, client) as check:
            inside.append(number)
            seen = len(inside)
            check()
            inside.remove(number)
        client.close()
        return seen

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [1, 1, 1, 1]
    assert tables(there) == []


def test_who_lost_the_lock_stops(empty: StoreSettings, form: Form, there: Client) -> None:
    with held(empty, form, there, lease=0.3) as check:
        check()
        (comment,) = ask(
            there, f"SELECT comment FROM system.tables WHERE name = '{LOCK}' AND database = currentDatabase()"
        )
        there.command(form.move_lock(comment[0][:32]))
        leave(there, form, "e" * 32, 0)
        give_up = time.monotonic() + 30
        while not _lost(check) and time.monotonic() < give_up:
            pass
        with pytest.raises(StoreUnavailable, match="another one may be at work; run it again"):
            check()
    assert LOCK in tables(there)  # the other one's


def test_a_statement_may_take_longer_than_the_lease(empty: StoreSettings, form: Form, there: Client) -> None:
    with held(empty, form, there, lease=0.6) as check:
        there.command("SELECT sleep(1.5)")
        check()


def test_an_error_in_the_block_frees_the_lock(empty: StoreSettings, form: Form, there: Client) -> None:
    with pytest.raises(ZeroDivisionError), held(empty, form, there):
        1 / 0  # noqa: B018
    assert tables(there) == []


def _lost(check: Callable[[], None]) -> bool:
    try:
        check()
    except StoreUnavailable:
        return True
    return False
