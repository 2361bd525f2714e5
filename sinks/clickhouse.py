"""Connections to ClickHouse, or to anything that speaks its HTTP protocol."""

import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sinks.errors import StoreUnavailable

# These report each retry of their own at WARNING; `Session` reports outages, once and in words.
for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# A server takes 128 KiB for a parameter, and the id of a row is up to 40 digits long.
KEYS_A_QUERY = 1000

UNAVAILABLE = (ClickHouseError, urllib3.exceptions.HTTPError, OSError)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where ClickHouse is. url: http or https, with port. ca_file: certificate authority for https."""

    url: str
    user: str = "default"
    password: str = ""
    database: str = "weir"
    ca_file: str = ""
    timeout: float = 30.0


def connect(settings: StoreSettings, *, database: str | None = None) -> Client:
    """A client for one thread. database: another one than the settings name. Raises StoreUnavailable."""
    url = urlsplit(settings.url)
    secure = url.scheme == "https"
    try:
        return clickhouse_connect.get_client(
            host=url.hostname or "",
            port=url.port or (8443 if secure else 8123),
            secure=secure,
            username=settings.user,
            password=settings.password,
            database=settings.database if database is None else database,
            ca_cert=settings.ca_file or None,
            connect_timeout=10,
            send_receive_timeout=int(settings.timeout),
            autogenerate_session_id=False,
            client_name="weir",
        )
    except UNAVAILABLE as error:
        raise StoreUnavailable(f"ClickHouse {settings.url} cannot be used: {brief(error)}") from error


def ping(settings: StoreSettings) -> str | None:
    """None if the store answers a query, otherwise the reason why not."""
    try:
        client = connect(settings, database="default")
        try:
            client.query("SELECT 1")
        finally:
            client.close()
    except (StoreUnavailable, *UNAVAILABLE) as error:
        return brief(error)
    return None


def brief(error: BaseException) -> str:
    """The first line of an error's text, which names the cause and holds no rows."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
