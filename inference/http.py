"""HTTP with a model server: JSON in, JSON out, and what each failure means."""

import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from inference import retry_after
from inference.errors import EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.text import one_line

log = logging.getLogger(__name__)

_BUSY_STATUS = frozenset({429, 503})
_TRANSIENT_STATUS = frozenset({408, 409, 425})
_ERROR_TEXT_CHARACTERS = 300


class Http:
    """The connection to one server."""

    def __init__(self, url: str, api_key: str, timeout: float, ca_file: str = "") -> None:
        """url: root of the server, with or without /v1. api_key: may be empty. timeout: seconds for one exchange.
        ca_file: certificate authority for https; empty: the system's.
        """
        self._root = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self._root)
        # In messages: a user and a password in the address are nobody's business.
        self.root = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._api_key = api_key
        self._timeout = timeout
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        """Make ready to call. Must be called inside the event loop. Raises EngineMisconfigured."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
                timeout=aiohttp.ClientTimeout(total=self._timeout, connect=10),
                connector=aiohttp.TCPConnector(limit=0, ssl=self._tls()),
            )

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._ca_file:
            return True
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise EngineMisconfigured(f"WEIR_ENGINE_CA_FILE: {self._ca_file} cannot be used: {error}") from error

    async def close(self) -> None:
        """Give connections back."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, read: Callable[[bytes], Any] = orjson.loads
    ) -> dict[str, Any]:
        """The JSON object that the server answers with.

        read: makes it of the bytes; raises ValueError if they are no JSON. Raises EngineBusy, EngineUnavailable,
        PromptRejected or EngineMisconfigured, by what the failure means.
        """
        content = await self._exchange(method, path, body)
        try:
            answer = read(content)
        except ValueError as error:
            raise EngineUnavailable(
                f"engine {self.root}{path} answered something that is not JSON", "bad_answer"
            ) from error
        if not isinstance(answer, dict):
            raise EngineUnavailable(f"engine {self.root}{path} answered JSON of an unknown shape", "bad_answer")
        return answer

    async def text(self, path: str) -> str:
        """The text at a path. Raises like `call`."""
        return (await self._exchange("GET", path, None)).decode(errors="replace")

    async def _exchange(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        if self._session is None:
            raise RuntimeError("open() first")
        data = None if body is None else orjson.dumps(body)
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(method, self._root + path, data=data, headers=headers) as response:
                content = await response.read()
                status = response.status
                wait = retry_after.seconds(response.headers.get("Retry-After"), datetime.now(UTC))
        except (aiohttp.ClientError, OSError) as error:
            told = str(error) or type(error).__name__
            raise EngineUnavailable(
                f"engine {self.root} cannot be reached: {told}",
                "timeout" if isinstance(error, TimeoutError) else "connection",
            ) from error
        if status == 200:
            return content
        if self._api_key:  # some servers quote the key that they refuse
            content = content.replace(self._api_key.encode(), b"***")
        message = f"engine {self.root}{path} answered {status}: {_error_text(content)}"
        if status in _BUSY_STATUS:
            raise EngineBusy(message, wait)
        if status >= 500 or status in _TRANSIENT_STATUS:
            raise EngineUnavailable(message, "status")
        if status in (401, 403):
            raise EngineMisconfigured(f"{message} (WEIR_ENGINE_API_KEY)")
        if status == 404:
            raise EngineMisconfigured(f"{message} (WEIR_ENGINE_URL, WEIR_ENGINE_MODEL)")
        raise PromptRejected(message)


def _error_text(content: bytes) -> str:
    """What a server says of an error, in whichever of the known shapes it says it, without quoting the prompt.

    A list, as FastAPI gives it, has the input beside each reason; an answer of no known shape may be anything.
    """
    try:
        body = orjson.loads(content)
        error = body.get("error", body.get("detail", body))
        if isinstance(error, list):
            error = "; ".join(str(item.get("msg", "")) for item in error)
        text = error.get("message", "") if isinstance(error, dict) else str(error)
    except (orjson.JSONDecodeError, AttributeError):
        text = ""
    return one_line(str(text))[:_ERROR_TEXT_CHARACTERS] or "without a reason that can be shown"
