"""ClickHouse's HTTP protocol over chDB: `python -m deploy.embedded.store_server --port P --path FOLDER`.

It listens on 127.0.0.1 only and asks nobody for a password. Every request gets a connection of its own to the engine,
so settings, the current database and temporary tables end with the request, and `session_id` has no effect. Answers
are never compressed. A query whose client has gone away runs to its end, unless it streams.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import chdb
import lz4.frame  # type: ignore[import-untyped]
from aiohttp import web

T = TypeVar("T")

_THREADS = 16
_SHUTDOWN_SECONDS = 1.0  # aiohttp waits so long twice
_MAX_URL_BYTES = 1 << 20  # as ClickHouse's http_max_uri_size
_MAX_BODY_BYTES = 1 << 40  # aiohttp wants a limit, ClickHouse has none

# What ClickHouse's HTTP interface takes from the URL for itself; any other name is a parameter or a setting.
_FIELDS = {
    *("query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "stacktrace"),
    *("session_id", "session_timeout", "session_check", "close_session", "client_protocol_version", "buffer_size"),
    *("compress", "decompress", "enable_http_compression", "wait_end_of_query"),
    *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
}
# ClickHouse error codes that a server answers with these statuses; with any other code it is 500.
_BAD_REQUEST = {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441}
_NOT_FOUND = {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511}

_FIRST_WORD = re.compile(rb"(?:\s|\(|--[^\n]*|#[^\n]*|/\*.*?\*/)*(\w*)", re.DOTALL)
_TOKEN = re.compile(
    rb"'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`|\"(?:\\.|[^\"\\])*\"|--[^\n]*|/\*.*?\*/|\w+|[^\s\w]", re.DOTALL
)
_BEFORE_ROWS = re.compile(rb"[ \t\f]*\r?\n?")
_FORMAT_CLAUSE = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:\bSETTINGS\b.*)?[;\s]*$", re.DOTALL | re.IGNORECASE)
_SETTINGS_CLAUSE = re.compile(rb"\bSETTINGS\s+\w+\s*=", re.IGNORECASE)
_FORMAT_TAIL = 2000  # the clause stands in the last bytes of a query; the literals before it may be long
_LISTINGS = {"SHOW", "DESCRIBE", "DESC", "EXPLAIN", "EXISTS", "CHECK"}
_READS = {"SELECT", "WITH", "FROM"} | _LISTINGS
_BLOCKWISE = {"native", "rowbinary"}  # formats without a head, a foot or totals: blocks simply follow


@dataclass(frozen=True)
class Ask:
    """One statement, and what to run on the connection before it."""

    sql: bytes
    params: dict[str, str]
    setup: list[str]
    default_format: str
    wait: bool

    @cached_property
    def word(self) -> str:
        """The first word of the statement, in capitals."""
        match = _FIRST_WORD.match(self.sql)
        return match[1].decode(errors="replace").upper() if match else ""

    @cached_property
    def parts(self) -> tuple[bytes, str]:
        """The statement without its FORMAT clause, and the name of the format."""
        match = _FORMAT_CLAUSE.search(self.sql, max(0, len(self.sql) - _FORMAT_TAIL))
        if match is None:
            return self.sql.rstrip(b"; \t\r\n"), self.default_format
        return self.sql[: match.start()], match[1].decode()

    @property
    def streams(self) -> bool:
        """Whether the answer can leave block by block; chDB streams SELECT only."""
        return self.word == "SELECT" and self.parts[1].lower() in _BLOCKWISE and not self.wait


class Engine:
    """chDB over one folder. Its methods block; call them from worker threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._anchor = self._connect()  # the engine ends with its last connection
        self.timezone: str = self._anchor.query("SELECT timezone()", "TSVRaw").bytes().decode().strip()

    def _connect(self) -> Any:
        connect: Any = chdb.connect  # two wheels bring this module, one of them without types; the last one stays
        return connect(self._path)

    def whole(self, ask: Ask) -> tuple[bytes, dict[str, int]]:
        """The complete answer and its counts; raises RuntimeError with ClickHouse's message."""
        with closing(self._open(ask)) as connection:
            parted = _part_insert(ask.sql) if ask.word == "INSERT" else None
            if parted is not None:
                return b"", _insert(connection, ask.params, *parted)
            result = connection.query(ask.sql, ask.default_format, params=ask.params)
            counts = {
                "read_rows": result.storage_rows_read(),
                "read_bytes": result.storage_bytes_read(),
                "written_rows": result.rows_written(),
                "written_bytes": result.bytes_written(),
                "result_rows": result.rows_read(),
                "result_bytes": result.bytes_read(),
                "elapsed_ns": int(result.elapsed() * 1e9),
            }
            return result.bytes() or _empty_native(connection, ask), counts

    def blocks(self, ask: Ask) -> Generator[bytes, None, None]:
        """The answer block by block, none of them empty; raises RuntimeError with ClickHouse's message."""
        with closing(self._open(ask)) as connection:
            block = b""
            with connection.send_query(ask.sql, ask.default_format, params=ask.params) as result:
                for block in filter(None, (piece.bytes() for piece in result)):
                    yield block
            if not block:
                yield _empty_native(connection, ask)

    def _open(self, ask: Ask) -> Any:
        connection = self._connect()
        try:
            for statement in ask.setup:
                connection.query(statement)
        except RuntimeError:
            connection.close()
            raise
        return connection


def _part_insert(sql: bytes) -> tuple[bytes, str, bytes] | None:
    """The head, the format and the rows of an INSERT … FORMAT; None where the rows are VALUES or a SELECT.

    Rows must not reach chDB inside the statement: it takes the first blank line for their end, and runs what follows
    as the next statement.
    """
    depth, selects = 0, False
    tokens = _TOKEN.finditer(sql)
    for token in tokens:
        word = token[0].upper()
        depth += {b"(": 1, b")": -1}.get(word, 0)
        if word == b"INPUT" and selects and sql[token.end() : token.end() + 1] == b"(":
            raise RuntimeError("Code: 48. DB::Exception: INSERT from input() is not supported. (NOT_IMPLEMENTED)")
        if depth or selects:
            continue
        if word == b"VALUES":
            return None
        selects = word in {b"SELECT", b"WITH"}
        name = next(tokens, None) if word == b"FORMAT" else None
        rows = _BEFORE_ROWS.match(sql, name.end()) if name else None
        if name and rows:
            return sql[: token.start()], name[0].decode(errors="replace"), sql[rows.end() :]
    return None


def _insert(connection: Any, params: dict[str, str], head: bytes, row_format: str, rows: bytes) -> dict[str, int]:
    """Insert from a file: chDB's send_insert says that all is well when a constraint refused the rows."""
    settings = _SETTINGS_CLAUSE.search(head)
    end = settings.start() if settings else len(head)
    with tempfile.NamedTemporaryFile() as file:
        file.write(rows)
        file.flush()
        source = f" FROM INFILE {_quote(file.name, chr(39))} COMPRESSION 'none' ".encode()
        sql = head[:end] + source + head[end:] + b" FORMAT " + row_format.encode()
        done = connection.query(sql, params=params)
    counts = {"read_rows": done.rows_written(), "read_bytes": done.bytes_written()}
    return counts | {"written_rows": done.rows_written(), "written_bytes": done.bytes_written()}


def _empty_native(connection: Any, ask: Ask) -> bytes:
    """A Native block with columns and no rows, which chDB leaves out; nothing for other formats and statements."""
    sql, name = ask.parts
    if ask.word not in _READS or name.lower() != "native":
        return b""
    try:
        if ask.word in _LISTINGS:  # these cannot be described, but cost nothing to run again
            columns = json.loads(connection.query(sql, "JSONCompact", params=ask.params).bytes())["meta"]
        else:
            described = connection.query(b"DESCRIBE (" + sql + b"\n)", "JSON", params=ask.params)
            columns = json.loads(described.bytes())["data"]
    except RuntimeError:  # WITH … INSERT: no result set after all
        return b""
    names = [text for column in columns for text in (column["name"], column["type"])]
    return _varint(len(columns)) + _varint(0) + b"".join(_varint(len(n)) + n for n in map(str.encode, names))


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def _quote(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


def _set_statement(settings: Mapping[str, str]) -> str:
    return "SET " + ", ".join(f"{_quote(name, '`')} = {_quote(value, chr(39))}" for name, value in settings.items())


async def _body(request: web.Request) -> bytes:
    """The body without its compression; aiohttp takes off every kind but lz4."""
    body = await request.read()
    if request.headers.get("Content-Encoding") != "lz4":
        return body
    out = []
    while body:  # one frame for each block of an insert
        frame = lz4.frame.LZ4FrameDecompressor()
        out.append(frame.decompress(body))
        if not frame.eof:
            raise RuntimeError("Code: 271. DB::Exception: lz4 body ends early. (CANNOT_DECOMPRESS)")
        body = frame.unused_data or b""
    return b"".join(out)


async def _read_ask(request: web.Request) -> Ask:
    fields, body = dict(request.query), b""
    if request.content_type == "multipart/form-data":
        form = await request.post()
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        if len(texts) < len(form):
            raise RuntimeError("Code: 48. DB::Exception: External tables are not supported. (NOT_IMPLEMENTED)")
        fields |= texts
    else:
        body = await _body(request)
    database = fields.get("database") or request.headers.get("X-ClickHouse-Database")
    settings = {name: value for name, value in fields.items() if name not in _FIELDS and not name.startswith("param_")}
    if request.method != "POST":
        settings.setdefault("readonly", "2")  # as ClickHouse: only a POST may change data
    use = [f"USE {_quote(database, '`')}"] if database else []
    return Ask(
        sql=b"\n".join(part for part in (fields.get("query", "").encode(), body) if part),
        params={name.removeprefix("param_"): value for name, value in fields.items() if name.startswith("param_")},
        setup=[*use, _set_statement(settings)] if settings else use,
        default_format=fields.get("default_format") or request.headers.get("X-ClickHouse-Format") or "TabSeparated",
        wait=fields.get("wait_end_of_query") == "1",
    )


def _explain(error: RuntimeError) -> tuple[str, int]:
    """ClickHouse's message, and its code; 1002 stands for an error that is not ClickHouse's."""
    text = str(error)
    match = re.search(r"Code: (\d+)\. ", text)
    return (text[match.start() :] + "\n", int(match[1])) if match else (f"Code: 1002. DB::Exception: {text}\n", 1002)


def _failed(error: RuntimeError, headers: Mapping[str, str]) -> web.Response:
    text, code = _explain(error)
    status = 400 if code in _BAD_REQUEST else 404 if code in _NOT_FOUND else 500
    return web.Response(status=status, text=text, headers={**headers, "X-ClickHouse-Exception-Code": str(code)})


def _two(blocks: Iterator[bytes]) -> tuple[bytes, bytes]:
    """The first two blocks; an empty one stands for the end."""
    return next(blocks, b""), next(blocks, b"")


class Server:
    """The HTTP side: reads requests, runs them on worker threads, writes ClickHouse's answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(_THREADS, "query")

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/", self._query)
        app.router.add_post("/", self._query)
        return app

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _query(self, request: web.Request) -> web.StreamResponse:
        headers = {
            "X-ClickHouse-Query-Id": request.query.get("query_id") or str(uuid.uuid4()),
            "X-ClickHouse-Timezone": self._engine.timezone,
        }
        try:
            ask = await _read_ask(request)
            if not ask.sql.strip():
                if request.method != "POST":
                    return await self._ping(request)
                raise RuntimeError("Code: 62. DB::Exception: Syntax error: Empty query. (SYNTAX_ERROR)")
            if ask.word in _READS:
                headers["X-ClickHouse-Format"] = ask.parts[1]
            if ask.streams:
                return await self._stream(request, ask, headers)
            body, counts = await self._in_thread(self._engine.whole, ask)
        except RuntimeError as error:
            return _failed(error, headers)
        headers["X-ClickHouse-Summary"] = json.dumps({name: str(count) for name, count in counts.items()})
        return web.Response(body=body, headers=headers)

    async def _stream(self, request: web.Request, ask: Ask, headers: dict[str, str]) -> web.StreamResponse:
        """Send block after block; raises RuntimeError only while the answer can still be an error."""
        blocks = self._engine.blocks(ask)
        first, block = await self._in_thread(_two, blocks)
        if not block:  # as most answers: it leaves at once
            return web.Response(body=first, headers=headers)
        tag = uuid.uuid4().hex[:16]
        response = web.StreamResponse(headers={**headers, "X-ClickHouse-Exception-Tag": tag})
        try:
            await response.prepare(request)
            await response.write(first)
            while block:
                await response.write(block)
                block = await self._in_thread(next, blocks, b"")
        except RuntimeError as error:
            text = _explain(error)[0]
            size = len(text.encode())
            await response.write(f"\r\n__exception__\r\n{tag}\r\n{text}{size} {tag}\r\n__exception__\r\n".encode())
            if request.transport is not None:
                request.transport.close()  # no last chunk: whoever does not know the tag sees a broken answer
        except ConnectionError:
            pass  # the client left; so does its query
        finally:
            await self._in_thread(blocks.close)
        return response


def serve(path: Path, port: int) -> NoReturn:
    """Serve the tables in `path` on a loopback port until SIGTERM or SIGINT, then end the process."""
    web.run_app(
        Server(Engine(str(path))).application(),
        host="127.0.0.1",
        port=port,
        shutdown_timeout=_SHUTDOWN_SECONDS,
        access_log=None,
        print=None,
        max_line_size=_MAX_URL_BYTES,
    )
    os._exit(0)  # a query still running would hold up an ordinary exit; what was acknowledged is already on disk


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="store_server")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--path", type=Path, required=True)
    chosen = options.parse_args()
    serve(chosen.path, chosen.port)
