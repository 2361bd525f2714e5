"""An HTTP proxy on loopback that misbehaves on demand, between a worker and the engine or the store."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from tally import Tally
from yarl import URL

_LARGEST = 1 << 30
_HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "content-length", "expect", "date", "server"}


class Mode(StrEnum):
    """What the proxy does with a request."""

    PASS = "pass"
    REFUSE = "refuse"  # reset the connection
    HANG = "hang"  # no answer until the mode changes, then a reset
    STATUS_429 = "429"
    STATUS_500 = "500"
    STATUS_503 = "503"
    GARBAGE = "garbage"  # status 200 with a body that is not what anybody asked for
    HALF_BODY = "half_body"  # true headers, half of the body, end of the connection
    LATE = "late"  # the true answer, after the caller has given up
    SLOW = "slow"  # the true answer, a little later
    FAIL_AFTER = "fail_after"  # what was asked for is done, but nobody hears of it


_STATUS = {Mode.STATUS_429: 429, Mode.STATUS_500: 500, Mode.STATUS_503: 503}


@dataclass(frozen=True, slots=True)
class Call:
    """A request that counts. kind: what it was. who: the worker that sent it. texts: names of what it is about."""

    kind: str
    who: str
    texts: tuple[str, ...] = ()


Classify = Callable[[web.Request, bytes], Call | None]
Hook = Callable[[Call], Awaitable[bool]]


@dataclass(slots=True)
class _Answer:
    status: int
    headers: CIMultiDict[str]
    body: bytes


@dataclass(slots=True)
class _Log:
    """What one run did; a new run begins with an empty one."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    hooks: list[tuple[str, int, Hook]] = field(default_factory=list)
    passed: list[Call] = field(default_factory=list)


class Proxy:
    """`async with` it. Requests are answered by `upstream` unless the mode says otherwise."""

    def __init__(
        self, port: int, upstream: str, classify: Classify, late_seconds: float = 7.0, slow_seconds: float = 0.3
    ) -> None:
        """classify: which requests count, and as what."""
        self.url = f"http://127.0.0.1:{port}"
        self._port = port
        self.upstream = upstream
        self._classify = classify
        self._late_seconds = late_seconds
        self._slow_seconds = slow_seconds
        self._mode = Mode.PASS
        self._changed = asyncio.Event()
        self._log = _Log()

    @property
    def mode(self) -> Mode:
        """What happens to requests now. Setting it ends those that hang."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        before, self._changed = self._changed, asyncio.Event()
        before.set()

    @property
    def passed(self) -> list[Call]:
        """The calls that upstream answered with 200 and whose answer was passed on whole, since `reset`."""
        return self._log.passed

    def tally(self, kind: str) -> Tally:
        """Calls of this kind that upstream answered with 200 since `reset`, whether anybody heard of it or not."""
        return self._log.tallies.setdefault(kind, Tally())

    def before_answer(self, kind: str, number: int, hook: Hook) -> None:
        """Call `hook` once, when upstream has answered the `number`-th call of `kind` and nobody knows yet.

        The answer is passed on if the hook returns True; otherwise the connection is cut.
        """
        self._log.hooks.append((kind, number, hook))

    def reset(self) -> None:
        """Pass everything on, and forget what was counted, recorded and hooked."""
        self.mode = Mode.PASS
        self._log = _Log()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            # A kept connection to a server that was killed in between would fail a request that the new one would take.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
        )
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, max_line_size=1 << 20, shutdown_timeout=1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.mode = Mode.REFUSE
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        mode, changed, log = self._mode, self._changed, self._log
        if mode is Mode.HANG:
            await changed.wait()
        if mode in {Mode.HANG, Mode.REFUSE}:
            return _cut(request)
        if mode in _STATUS:
            return web.Response(status=_STATUS[mode], headers={"Retry-After": "1"}, text="chaos")
        if mode is Mode.GARBAGE:
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if mode is Mode.SLOW:
            await asyncio.sleep(self._slow_seconds)
        call = self._classify(request, body)
        answer = await self._forward(request, body)
        if answer is None:
            return _cut(request)
        if call is not None and answer.status == 200 and not await self._count(log, call):
            return _cut(request)
        if mode is Mode.FAIL_AFTER and call is not None:
            return _cut(request)
        if mode is Mode.LATE:
            await asyncio.sleep(self._late_seconds)
        if mode is Mode.HALF_BODY:
            return await _half(request, answer)
        return await _pass_on(request, answer, log, call)

    async def _forward(self, request: web.Request, body: bytes) -> _Answer | None:
        url = URL(self.upstream + request.raw_path, encoded=True)
        headers = _end_to_end(request.headers)
        try:
            async with self._session.request(request.method, url, headers=headers, data=body) as response:
                return _Answer(response.status, _end_to_end(response.headers), await response.read())
        except (aiohttp.ClientError, OSError):
            return None

    async def _count(self, log: _Log, call: Call) -> bool:
        """Count a call and run the hooks that wait for it; whether its answer is to be passed on."""
        tally = log.tallies.setdefault(call.kind, Tally())
        tally.add()
        due = [entry for entry in log.hooks if entry[0] == call.kind and entry[1] <= tally.value]
        log.hooks = [entry for entry in log.hooks if entry not in due]
        return all([await hook(call) for _, _, hook in due])


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def _cut(request: web.Request) -> web.Response:
    """End the connection with a reset; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, answer: _Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    with contextlib.suppress(ConnectionError):
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def _pass_on(request: web.Request, answer: _Answer, log: _Log, call: Call | None) -> web.StreamResponse:
    response = web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:  # the caller has gone
        return response
    if call is not None and answer.status == 200:
        log.passed.append(call)
    return response
