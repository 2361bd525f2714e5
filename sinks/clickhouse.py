"""Connections to ClickHouse, or to anything that speaks its HTTP protocol."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, Error

from sinks.errors import StoreMisconfigured, StoreUnavailable

# These report each retry of their own at WARNING; `Session` reports outages, once and in words.
for _name in ("clickhouse_connect", "urllib3"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# A server takes 128 KiB for a parameter, and the id of a row is up to 40 digits long.
KEYS_A_QUERY = 1000

# What `store_error` takes.
UNAVAILABLE = (ClickHouseError, urllib3.exceptions.HTTPError, OSError)
# UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, ACCESS_DENIED, AUTHENTICATION_FAILED
_NO_ENTRY = frozenset({192, 193, 194, 497, 516})

# A replica that lacks parts which a quorum acknowledged refuses the query, rather than miss rows. It does so only if
# rows are inserted with `insert_quorum`, one insert at a time; elsewhere the setting changes nothing. The other one is
# for tables that are spread over shards: a subquery is answered by all of them, once.
CONSISTENT = {"select_sequential_consistency": 1, "distributed_product_mode": "global"}


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where ClickHouse is. url: http or https, with port. ca_file: certificate authority for https.

    cluster: over which the tables are spread, as in the servers' `remote_servers`; empty for one server.
    """

    url: str
    user: str = "default"
    password: str = ""
    database: str = "weir"
    ca_file: str = ""
    timeout: float = 30.0
    cluster: str = ""


def connect(settings: StoreSettings, *, database: str | None = None) -> Client:
    """A client for one thread. database: another one than the settings name.

    Raises StoreUnavailable, StoreMisconfigured.
    """
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
        raise store_error(error, settings.url) from error


def ping(settings: StoreSettings) -> str | None:
    """None if the store answers a query, otherwise the reason why not."""
    try:
        client = connect(settings, database="default")
        try:
            client.query("SELECT 1")
        finally:
            client.close()
    except (StoreUnavailable, StoreMisconfigured, *UNAVAILABLE) as error:
        return brief(error)
    return None


def store_error(error: BaseException, address: str) -> StoreUnavailable | StoreMisconfigured:
    """What one of the errors in UNAVAILABLE means for those who wait for the store at this address."""
    if isinstance(error, Error) and error.code in _NO_ENTRY:
        return StoreMisconfigured(
            f"ClickHouse {address} does not let Weir in; check WEIR_CLICKHOUSE_USER, WEIR_CLICKHOUSE_PASSWORD and the "
            f"user's grants: {brief(error)}"
        )
    return StoreUnavailable(f"ClickHouse {address}: {brief(error)}")


def brief(error: BaseException) -> str:
    """The first line of an error's text, which names the cause and holds no rows."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def ask(client: Client, sql: str, **parameters: Any) -> list[Any]:
    """The rows of an answer that misses nothing acknowledged; times are aware, in UTC. Raises as the client does."""
    return list(client.query(sql, parameters=parameters, settings=CONSISTENT, tz_mode="aware").result_rows)


def ask_named(client: Client, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """The same, each row by its columns' names."""
    found = client.query(sql, parameters=parameters, settings=CONSISTENT, tz_mode="aware")
    return list(map(dict, found.named_results()))


def time_text(time: datetime) -> str:
    """A time as a parameter of a query, in UTC; the client itself would leave out the milliseconds."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
