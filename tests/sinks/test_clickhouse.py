"""Connections say in one line what is wrong, and how to reach the store."""

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from deploy.embedded.process import free_port
from sinks.clickhouse import StoreSettings, brief, connect, ping, store_error
from sinks.errors import StoreMisconfigured, StoreUnavailable


def test_a_client_uses_the_database_of_the_settings_or_another(settings: StoreSettings) -> None:
    for database, expected in ((None, settings.database), ("default", "default")):
        client = connect(settings, database=database)
        assert client.command("SELECT currentDatabase()") == expected
        client.close()


def test_two_clients_do_not_share_a_session(settings: StoreSettings) -> None:
    client = connect(settings)
    assert client.params.get("session_id") is None
    client.close()


def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable, match=url) as caught:
        connect(StoreSettings(url))
    assert "\n" not in str(caught.value)


def test_an_unknown_database(new_database: Callable[[], StoreSettings]) -> None:
    missing = new_database()
    with pytest.raises(StoreUnavailable, match=missing.database):
        connect(missing)


def test_ping_answers_nothing_or_the_reason(settings: StoreSettings, new_database: Callable[[], StoreSettings]) -> None:
    assert ping(settings) is None
    assert ping(new_database()) is None  # the server answers; its schema is another question
    url = f"http://127.0.0.1:{free_port()}"
    reason = ping(StoreSettings(url))
    assert reason is not None
    assert url in reason
    assert "\n" not in reason


def test_the_password_is_in_no_message() -> None:
    settings = StoreSettings(f"http://127.0.0.1:{free_port()}", user="weir", password="hunter2")
    with pytest.raises(StoreUnavailable) as caught:
        connect(settings)
    assert "hunter2" not in f"{caught.value} {ping(settings)}"


def test_a_wrong_password_is_not_an_outage(locked: StoreSettings) -> None:
    with pytest.raises(StoreMisconfigured, match="Authentication failed") as caught:
        connect(locked)
    for text in (str(caught.value), ping(locked) or ""):
        assert all(name in text for name in (locked.url, "WEIR_CLICKHOUSE_USER", "WEIR_CLICKHOUSE_PASSWORD"))
        assert locked.password not in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((DatabaseError("x", code=code), StoreMisconfigured) for code in (192, 193, 194, 497, 516)),
        (DatabaseError("x", code=60), StoreUnavailable),
        (DatabaseError("x"), StoreUnavailable),
        (OperationalError("x"), StoreUnavailable),
        (ConnectionResetError(), StoreUnavailable),
    ],
)
def test_only_a_person_can_mend_some_errors(error: Exception, expected: type[Exception]) -> None:
    found = store_error(error, "http://there:8123")
    assert type(found) is expected
    assert "http://there:8123" in str(found)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("first\nsecond"), "first"),
        (OSError(), "OSError"),
        (OSError("x" * 1000), "x" * 300),
    ],
)
def test_brief_is_one_short_line(error: Exception, expected: str) -> None:
    assert brief(error) == expected
