"""Servers behind TLS and passwords, with certificates of the test's own authority; and servers that quote secrets."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Certificates:
    """Files of an authority, and of a server and a client that it knows."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("weir@example.org")
        self.authority, self.other = folder / "ca.pem", folder / "other.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        trustme.CA().cert_pem.write_to_path(str(self.other))
        self.cert, self.key = folder / "client.pem", folder / "client.key"
        client.private_key_pem.write_to_path(str(self.key))
        self.cert.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
        key = load_pem_private_key(server.private_key_pem.bytes(), None)
        chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
        self.identity = folder / "server.pem"  # as Kafka wants it
        self.identity.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain)

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.identity)
        return context


@contextmanager
def behind_tls(url: str, certificates: Certificates) -> Iterator[str]:
    """The address at which an HTTP server answers by TLS as well."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    port = urlsplit(url).port

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = asyncio.run_coroutine_threadsafe(
        asyncio.start_server(pipe, "127.0.0.1", 0, ssl=certificates.server), loop
    ).result()
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class _Quotes(BaseHTTPRequestHandler):
    """Refuses every request, and says with which secret it came."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = " ".join(f"{name}: {value}" for name, value in self.headers.items())
        store = "X-ClickHouse-User" in self.headers or "Basic" in told
        body = (
            f"Code: 516. DB::Exception: no: {told} (AUTHENTICATION_FAILED)"
            if store
            else f'{{"error": {{"message": "wrong: {told}"}}}}'
        )
        self.send_response(403 if store else 401)
        self.send_header("X-ClickHouse-Exception-Code", "516")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def quoting() -> Iterator[str]:
    """The address of a server that refuses every request and quotes its headers."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quotes) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def environment(settings: Any) -> dict[str, str]:
    """What a process is told, secrets included."""
    values = {name: getattr(settings, name) for name in settings.model_fields_set}
    plain = {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in values.items()}
    return {f"WEIR_{name.upper()}": str(value) for name, value in plain.items()}
