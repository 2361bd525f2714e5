"""The embedded store answers like a ClickHouse server: clickhouse-connect, its async client and plain HTTP."""

import asyncio
import http.client
import importlib.util
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from deploy.embedded.store import ChdbStore

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("chdb") is None, reason="the extra `embedded` is not installed"
)

ROWS = 1000
FIRST_ID = 2000  # so that the ids pass 2570 = 0x0a0a, a blank line in the rows of a Native insert
TYPES = {
    "id": "UInt128",
    "text": "String",
    "at": "DateTime64(3)",
    "lang": "LowCardinality(String)",
    "vector": "Array(Float32)",
    "scores": "Map(LowCardinality(String), Float32)",
    "note": "Nullable(String)",
}
NASTY = [
    "",
    "a\0b",
    'it\'s "quoted" `here` \\ and \\n',
    "one\ntwo\r\n\n\nthree\t",
    "😀 ünï",
    "{x:String}",
    "x" * (1 << 20),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbStore]:
    with ChdbStore(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture(scope="module")
def client(store: ChdbStore) -> Iterator[Client]:
    connect(store).command("CREATE DATABASE IF NOT EXISTS weir_test")
    with connect(store, database="weir_test") as opened:
        yield opened


def connect(store: ChdbStore, **options: Any) -> Client:
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=urlsplit(store.url).port or 0, tz_mode="aware", **options
    )


def make_table(client: Client, name: str, columns: str = "id UInt64, text String", engine: str = "MergeTree") -> str:
    client.command(f"CREATE OR REPLACE TABLE {name} ({columns}) ENGINE = {engine} ORDER BY id")
    return name


def http_send(
    store: ChdbStore, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(store.url).port, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def columns_of_rows() -> list[list[Any]]:
    start = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    return [
        [*range(FIRST_ID, FIRST_ID + ROWS - 1), 2**128 - 1],
        [f"row {n}\n\n'{n}'" for n in range(ROWS)],
        [start + timedelta(milliseconds=n) for n in range(ROWS)],
        [("en", "de", "fr")[n % 3] for n in range(ROWS)],
        [[n / 4, 0.5] if n % 5 else [] for n in range(ROWS)],
        [{"joy": n / 8, "fear": 1.0} if n % 7 else {} for n in range(ROWS)],
        [None if n % 2 else str(n) for n in range(ROWS)],
    ]


def test_a_command_gives_a_value_or_a_summary(client: Client) -> None:
    assert client.command("SELECT 41 + 1") == 42
    assert client.command("SELECT 'a' WHERE 0") == ""
    assert client.command("CREATE DATABASE IF NOT EXISTS weir_test").query_id()  # type: ignore[union-attr]
    assert client.server_version == client.command("SELECT version()")


def test_a_query_gives_rows(client: Client) -> None:
    result = client.query("SELECT number AS n, toString(n) AS s FROM numbers(3)", settings={"query_id": "my-query"})
    assert result.column_names == ("n", "s")
    assert result.result_rows == [(0, "0"), (1, "1"), (2, "2")]
    assert result.summary["result_rows"] == "3"
    assert result.summary["query_id"] == "my-query"


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT 1 AS a, 'x' AS b WHERE a = 2", ("a", "b")),
        ("SELECT {p:UInt8} AS a WHERE 0 -- none\n SETTINGS max_threads = 1", ("a",)),
        ("WITH 1 AS one SELECT one AS a WHERE 0", ("a",)),
        ("SELECT toLowCardinality('') AS " + "long" * 40 + " WHERE 0", ("long" * 40,)),
        ("SHOW TABLES LIKE 'nothing'", ("name",)),
    ],
)
def test_a_query_without_rows_still_has_columns(client: Client, sql: str, names: tuple[str, ...]) -> None:
    result = client.query(sql, parameters={"p": 1})
    assert (result.column_names, list(result.result_rows)) == (names, [])
    with client.query_rows_stream(sql, parameters={"p": 1}) as rows:
        assert rows.source.column_names == names
        assert list(rows) == []


def test_parameters_are_bound_on_the_server(client: Client) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    values = {"s": "it's \\ \n\t\0 😀", "n": 2**127, "l": ["a'b", "c\n"], "t": at, "z": None}
    sql = "SELECT {s:String}, {n:UInt128}, {l:Array(String)}, {t:DateTime}, {z:Nullable(String)}"
    assert client.query(sql, parameters=values).result_rows == [tuple(values.values())]
    assert client.command("SELECT count() FROM system.{t:Identifier}", parameters={"t": "one"}) == 1


def test_a_long_parameter_comes_as_a_form(client: Client) -> None:
    assert client.query("SELECT {s:String}", parameters={"s": NASTY[-1]}).first_row == (NASTY[-1],)


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_every_type_is_inserted_under_every_compression(client: Client, store: ChdbStore, compress: str | bool) -> None:
    table = make_table(client, "typed", ", ".join(f"{name} {kind}" for name, kind in TYPES.items()))
    data = columns_of_rows()
    with connect(store, database="weir_test", compress=compress) as inserting:
        summary = inserting.insert(table, data, column_names=list(TYPES), column_oriented=True)
    assert summary.written_rows == ROWS
    assert client.query(f"SELECT * FROM {table} ORDER BY id").result_rows == list(zip(*data, strict=True))


def test_an_insert_of_many_blocks_is_one_body(client: Client, store: ChdbStore) -> None:
    table = make_table(client, "blocks")
    for compress in ("lz4", "zstd", "gzip"):
        with connect(store, database="weir_test", compress=compress) as inserting:
            context = inserting.create_insert_context(table, ["id", "text"], data=[(n, "x" * 99) for n in range(3000)])
            context.block_row_count = 1000
            inserting.insert(context=context)
    assert client.command(f"SELECT count(), sum(length(text)) FROM {table}") == ["9000", "891000"]


def test_text_comes_back_as_it_went(client: Client) -> None:
    table = make_table(client, "nasty")
    client.insert(table, list(enumerate(NASTY)), column_names=["id", "text"])
    client.command(
        f"INSERT INTO {table} VALUES " + ", ".join(f"({n}, {{p{n}:String}})" for n in range(len(NASTY) - 1)),
        parameters={f"p{n}": text for n, text in enumerate(NASTY[:-1])},
    )
    got = client.query(f"SELECT id, text, count() FROM {table} GROUP BY ALL ORDER BY id").result_rows
    assert got == [(n, text, 1 + (text != NASTY[-1])) for n, text in enumerate(NASTY)]


def test_arrow(client: Client) -> None:
    pytest.importorskip("pyarrow")
    assert client.query_arrow("SELECT number AS n, toString(n) AS s FROM numbers(2)").to_pydict() == {
        "n": [0, 1],
        "s": ["0", "1"],
    }
    assert client.query_arrow("SELECT 1 AS n WHERE 0").column_names == ["n"]


def test_settings_hold_for_one_request(client: Client) -> None:
    ask = "SELECT getSetting('max_block_size')"
    assert client.command(ask, settings={"max_block_size": 777}) == 777
    assert client.command(ask) != 777
    with pytest.raises(DatabaseError, match="Code: 164"):
        client.command("CREATE TABLE never (id UInt8) ENGINE = Memory", settings={"readonly": 2})
    make_table(client, "after_readonly")


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM nothing_here", 60),
        ("SELECT 1 +", 62),
        ("SELECT nothing_here(1)", 46),
        ("SELECT throwIf(1)", 395),
        ("INSERT INTO nothing_here FORMAT CSV\n1", 60),
    ],
)
def test_an_error_carries_its_code(client: Client, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError, match=f"Code: {code}") as caught:
        client.command(sql)
    assert caught.value.code == code


def test_an_error_amid_a_stream_is_told(client: Client, store: ChdbStore) -> None:
    sql = f"SELECT throwIf(number = 500000, '{'long ' * 600}') FROM numbers(1000000)"
    with pytest.raises(StreamFailureError, match="Code: 395"), client.query_rows_stream(sql) as rows:
        sum(1 for _ in rows)
    with pytest.raises(http.client.IncompleteRead):
        http_send(store, "POST", "/", f"{sql} FORMAT Native".encode())


def test_a_stream_ends_when_its_client_leaves(client: Client, store: ChdbStore) -> None:
    leaving = http.client.HTTPConnection("127.0.0.1", urlsplit(store.url).port, timeout=20)
    leaving.request("POST", "/", b"SELECT number FROM system.numbers FORMAT Native")
    response = leaving.getresponse()
    assert response.read(1)
    running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT number FROM system.numbers%'"
    assert client.command(running) == 1
    response.close()
    leaving.close()
    deadline = time.monotonic() + 10
    while client.command(running):
        assert time.monotonic() < deadline
    assert "Traceback" not in store.log.read_text()


def test_the_database_of_the_client_is_used(client: Client, store: ChdbStore) -> None:
    assert client.command("SELECT currentDatabase()") == "weir_test"
    assert client.command("SELECT engine FROM system.databases WHERE name = 'weir_test'") == "Atomic"
    make_table(client, "here")
    assert client.command("SELECT database FROM system.tables WHERE name = 'here'") == "weir_test"
    with pytest.raises(DatabaseError, match="Code: 81"):
        connect(store, database="nowhere")
    assert http_send(store, "POST", "/", b"EXISTS here", {"X-ClickHouse-Database": "weir_test"})[1] == b"1\n"


def test_a_large_result(client: Client) -> None:
    sql = "SELECT number, repeat('y', 100) FROM numbers(100000)"
    rows = client.query(sql).result_rows
    assert (len(rows), rows[-1]) == (100000, (99999, "y" * 100))
    with client.query_rows_stream(sql) as stream:
        assert sum(number for number, _ in stream) == sum(range(100000))


def test_final_keeps_the_last_version(client: Client) -> None:
    table = make_table(client, "versions", "id UInt64, version UInt64, text String", "ReplacingMergeTree(version)")
    for version in (1, 3, 2):
        client.insert(table, [(7, version, f"v{version}")], column_names=["id", "version", "text"])
    assert client.query(f"SELECT * FROM {table} FINAL").result_rows == [(7, 3, "v3")]


def test_a_recursive_query(client: Client) -> None:
    up = "SELECT 1 AS n UNION ALL SELECT n + 1 FROM up WHERE n < {top:UInt8}"
    sql = f"WITH RECURSIVE up AS ({up}) SELECT sum(n) FROM up"
    assert client.query(sql, parameters={"top": 10}).first_row == (55,)


def test_threads_insert_and_select_at_once(client: Client, store: ChdbStore) -> None:
    table = make_table(client, "threads")

    def work(worker: int) -> int:
        with connect(store, database="weir_test") as own:
            for batch in range(4):
                ids = range((worker * 4 + batch) * 100, (worker * 4 + batch + 1) * 100)
                own.insert(table, [(n, str(n)) for n in ids], column_names=["id", "text"])
                assert own.command(f"SELECT count() FROM {table} WHERE id IN ({ids.start}, {ids.stop - 1})") == 2
        return worker

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [0, 1, 2, 3]
    assert client.command(f"SELECT count(), uniqExact(id) FROM {table}") == ["1600", "1600"]


def test_a_slow_query_does_not_hold_up_others(client: Client, store: ChdbStore) -> None:
    with connect(store) as other, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(other.command, "SELECT sleep(0.5)")
        answered = 0
        while not slow.done():
            assert client.command("SELECT 1") == 1
            assert http_send(store, "GET", "/ping")[0] == 200
            answered += 1
    assert (slow.result(), answered > 5) == (0, True)


async def test_the_async_client(client: Client, store: ChdbStore) -> None:
    table = make_table(client, "tasks")
    port = urlsplit(store.url).port or 0
    async with await clickhouse_connect.get_async_client(host="127.0.0.1", port=port, database="weir_test") as own:

        async def one(n: int) -> None:
            await own.insert(table, [(n, str(n))], column_names=["id", "text"])
            got = await own.query(f"SELECT text FROM {table} WHERE id = {{n:UInt64}}", parameters={"n": n})
            assert got.result_rows == [(str(n),)]

        await asyncio.gather(*map(one, range(20)))
        assert await own.command(f"SELECT count() FROM {table}") == 20
        assert (await own.query("SELECT 1 AS a WHERE 0")).column_names == ("a",)
        async with await own.query_rows_stream("SELECT number FROM numbers(200000)") as rows:
            assert sum([row[0] async for row in rows]) == sum(range(200000))
        with pytest.raises(DatabaseError, match="Code: 60"):
            await own.query("SELECT * FROM nothing_here")


def test_plain_http(store: ChdbStore) -> None:
    assert http_send(store, "GET", "/ping")[:2] == (200, b"Ok.\n")
    assert http_send(store, "GET", "/")[:2] == (200, b"Ok.\n")
    status, body, headers = http_send(store, "GET", "/?query=SELECT%201&query_id=mine")
    assert (status, body) == (200, b"1\n")
    assert (headers["X-ClickHouse-Query-Id"], headers["X-ClickHouse-Format"]) == ("mine", "TabSeparated")
    assert json.loads(headers["X-ClickHouse-Summary"])["result_rows"] == "1"
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what curl -d says
    assert http_send(store, "POST", "/", b"SELECT 1, 'a+b'", form)[1] == b"1\ta+b\n"
    assert http_send(store, "POST", "/?param_x=5", b"SELECT {x:UInt8} + 1 AS y FORMAT JSONEachRow")[1] == b'{"y":6}\n'
    assert http_send(store, "POST", "/?default_format=CSVWithNames", b"SELECT 1 AS y WHERE 0;")[1] == b'"y"\n'
    assert http_send(store, "GET", f"/?query=SELECT%20length('{'x' * 100000}')")[1] == b"100000\n"
    assert http_send(store, "POST", "/?query=SELECT%20length(%27", b"ab')")[1] == b"3\n"  # joined by a newline


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/", b"SELECT 1 +", 400, "62"),
        ("POST", "/", b"", 400, "62"),
        ("GET", "/?query=SELECT%20*%20FROM%20nothing_here", None, 404, "60"),
        ("POST", "/?no_such_setting=1", b"SELECT 1", 404, "115"),
        ("POST", "/", b"SELECT throwIf(1)", 500, "395"),
        ("POST", "/", b"SELECT throwIf(1) FORMAT Native", 500, "395"),
        ("GET", "/?query=CREATE%20DATABASE%20never", None, 500, "164"),
        ("POST", "/?query=INSERT%20INTO%20t%20SELECT%20*%20FROM%20input('n%20UInt8')%20FORMAT%20CSV", b"1", 500, "48"),
    ],
)
def test_plain_http_errors(
    store: ChdbStore, method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    got, text, headers = http_send(store, method, path, body)
    assert (got, headers["X-ClickHouse-Exception-Code"]) == (status, code)
    assert text.startswith(f"Code: {code}. DB::Exception: ".encode())


@pytest.mark.parametrize("sql", ["INSERT INTO t FORMAT JSONEachRow", "insert into t (`id`, text) Format JSONEachRow"])
def test_rows_of_an_insert_in_the_body(client: Client, store: ChdbStore, sql: str) -> None:
    make_table(client, "t")
    rows = b'{"id": 1, "text": "a"}\n\n{"id": 2, "text": "b\\n\\nc"}\n\n\n{"id": 3}\n'
    path = f"/?database=weir_test&query={quote(sql)}"
    status, body, headers = http_send(store, "POST", path, rows)
    assert (status, body, json.loads(headers["X-ClickHouse-Summary"])["written_rows"]) == (200, b"", "3")
    assert http_send(store, "POST", "/?database=weir_test", f"{sql}\n".encode() + rows)[0] == 200
    assert client.query("SELECT * FROM t ORDER BY id LIMIT 1 BY id").result_rows == [(1, "a"), (2, "b\n\nc"), (3, "")]


@pytest.mark.parametrize("clause", ["", "SETTINGS async_insert = 0 ", "settings async_insert=0, max_threads = 2 "])
def test_a_refused_insert_is_an_error_and_stores_nothing(client: Client, store: ChdbStore, clause: str) -> None:
    make_table(client, "strict", "id UInt64, text String, CONSTRAINT short CHECK length(text) < 5")
    with pytest.raises(DatabaseError, match="Code: 469") as caught:
        client.insert("strict", [(1, "fits"), (2, "does not fit")], column_names=["id", "text"])
    assert caught.value.code == 469
    sql = quote(f"INSERT INTO strict (id, text) {clause}FORMAT CSV")
    assert http_send(store, "POST", f"/?database=weir_test&query={sql}", b'1,"far too long"\n')[0] == 500
    assert client.command("SELECT count() FROM strict") == 0
    assert http_send(store, "POST", f"/?database=weir_test&query={sql}", b'1,"fits"\n')[0] == 200
    assert client.command("SELECT count() FROM strict") == 1


def test_rows_are_never_run_as_statements(client: Client, store: ChdbStore) -> None:
    make_table(client, "safe")
    path = "/?database=weir_test&query=INSERT%20INTO%20safe%20FORMAT%20CSV"
    assert http_send(store, "POST", path, b'1,"a"\n\nDROP TABLE safe')[0] == 400
    assert client.command("SELECT count() FROM safe") == 0


def test_acknowledged_rows_survive_a_kill_and_the_store_ends_in_time(tmp_path: Path) -> None:
    with ChdbStore(tmp_path) as first:
        client = connect(first)
        client.command("CREATE DATABASE kept")
        client.command("CREATE TABLE kept.t (id UInt64, text String) ENGINE = MergeTree ORDER BY id")
        for batch in range(5):
            client.insert("kept.t", [(batch * 100 + n, "x") for n in range(100)], column_names=["id", "text"])
        first.signal(signal.SIGKILL)
        assert first.wait(10) == -signal.SIGKILL
    with ChdbStore(tmp_path) as second:
        assert connect(second, database="kept").command("SELECT count(), uniqExact(id) FROM t") == ["500", "500"]
        busy = http.client.HTTPConnection("127.0.0.1", urlsplit(second.url).port, timeout=20)
        busy.request("POST", "/", b"SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1")
        running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sleepEachRow%'"
        deadline = time.monotonic() + 10
        with connect(second) as watching:
            while not watching.command(running):
                assert time.monotonic() < deadline
        began = time.monotonic()
        second.stop()
        assert (second.returncode, time.monotonic() - began < 6) == (0, True)
        busy.close()
