"""HTTP with a model server: what each failure means, and what is told of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from inference.errors import EngineBusy, EngineMisconfigured, EngineUnavailable, PromptRejected
from inference.http import Http
from tests.inference.conftest import Handler, Server, busy, half_body, hang, hang_up, reply

Open = Callable[..., Awaitable[Http]]


class Answers(Server):
    """Answers everything in one way."""

    def __init__(self) -> None:
        super().__init__()
        self.handler: Handler = reply(200, {})
        self.calls: list[tuple[str, str, Any]] = []

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        self.calls.append((request.method, request.path, body))
        return await self.handler(request)


@pytest.fixture
async def server() -> AsyncIterator[Answers]:
    async with Answers() as answers:
        yield answers


@pytest.fixture
async def opened(server: Answers) -> AsyncIterator[Open]:
    """Makes an open connection. The test's end closes it."""
    made: list[Http] = []

    async def make(url: str = "", api_key: str = "", seconds: float = 60.0) -> Http:
        made.append(Http(url or server.url, api_key, seconds))
        made[-1].open()
        return made[-1]

    yield make
    for http in made:
        await http.close()


async def test_json_goes_and_comes(server: Answers, opened: Open) -> None:
    server.handler = reply(200, {"text": "\U0001f98a"})

    assert await (await opened()).call("POST", "/v1/completions", {"prompt": "\u2028"}) == {"text": "\U0001f98a"}
    assert server.calls == [("POST", "/v1/completions", {"prompt": "\u2028"})]
    assert server.headers[0]["Content-Type"] == "application/json"


async def test_call_without_a_body_sends_none(server: Answers, opened: Open) -> None:
    await (await opened()).call("GET", "/v1/models")

    assert server.calls == [("GET", "/v1/models", None)]


async def test_text_comes_as_it_is(server: Answers, opened: Open) -> None:
    server.handler = reply(200, b"up 1\n\xff")

    assert await (await opened()).text("/metrics") == "up 1\n\ufffd"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_url_may_have_the_version(suffix: str, server: Answers, opened: Open) -> None:
    http = await opened(server.url + suffix)
    await http.call("GET", "/v1/models")

    assert http.root == server.url
    assert server.calls == [("GET", "/v1/models", None)]


async def test_key_is_sent_where_there_is_one(server: Answers, opened: Open) -> None:
    await (await opened(api_key="secret")).call("GET", "/v1/models")
    await (await opened()).call("GET", "/v1/models")

    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize(
    ("handler", "kind", "reason", "told"),
    [
        (reply(429, {"error": "slow down"}), EngineBusy, "busy", "answered 429: slow down"),
        (reply(503), EngineBusy, "busy", "answered 503: "),
        (reply(500, {"error": {"message": "out of memory"}}), EngineUnavailable, "status", "500: out of memory"),
        (reply(502, b"<html>"), EngineUnavailable, "status", "answered 502: "),
        (reply(408), EngineUnavailable, "status", "answered 408: "),
        (reply(409), EngineUnavailable, "status", "answered 409: "),
        (reply(425), EngineUnavailable, "status", "answered 425: "),
        (reply(200, b"<html>"), EngineUnavailable, "bad_answer", "not JSON"),
        (reply(200, b""), EngineUnavailable, "bad_answer", "not JSON"),
        (reply(200, [1]), EngineUnavailable, "bad_answer", "unknown shape"),
        (reply(200, "text"), EngineUnavailable, "bad_answer", "unknown shape"),
        (half_body, EngineUnavailable, "connection", "cannot be reached"),
        (hang_up, EngineUnavailable, "connection", "cannot be reached"),
    ],
)
async def test_failure_of_the_engine_may_be_tried_again(
    handler: Handler, kind: type[EngineUnavailable], reason: str, told: str, server: Answers, opened: Open
) -> None:
    server.handler = handler

    with pytest.raises(EngineUnavailable) as caught:
        await (await opened()).call("POST", "/v1/completions", {"prompt": "hello"})
    assert (type(caught.value), caught.value.reason) == (kind, reason)
    assert told in str(caught.value)
    assert server.url in str(caught.value)


async def test_server_that_hangs_times_out(server: Answers, opened: Open) -> None:
    server.handler = hang

    with pytest.raises(EngineUnavailable, match="cannot be reached") as caught:
        await (await opened(seconds=0.1)).call("GET", "/v1/models")
    assert caught.value.reason == "timeout"


async def test_nobody_listening_is_no_connection(server: Answers, opened: Open) -> None:
    await server.down()

    with pytest.raises(EngineUnavailable, match="cannot be reached") as caught:
        await (await opened()).text("/metrics")
    assert caught.value.reason == "connection"


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_says_when_to_come_back(status: int, server: Answers, opened: Open) -> None:
    server.handler = busy(status, "7")

    with pytest.raises(EngineBusy) as caught:
        await (await opened()).call("GET", "/v1/models")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("status", [400, 405, 413, 422])
async def test_other_statuses_are_about_the_request(status: int, server: Answers, opened: Open) -> None:
    server.handler = reply(status, {"error": {"message": "too long", "code": status}})

    with pytest.raises(PromptRejected, match=f"/v1/completions answered {status}: too long$"):
        await (await opened()).call("POST", "/v1/completions", {})


@pytest.mark.parametrize(
    ("status", "setting"),
    [(401, "WEIR_ENGINE_API_KEY"), (403, "WEIR_ENGINE_API_KEY"), (404, "WEIR_ENGINE_URL, WEIR_ENGINE_MODEL")],
)
async def test_misconfiguration_names_the_setting(status: int, setting: str, server: Answers, opened: Open) -> None:
    server.handler = reply(status, {"detail": "no"})

    with pytest.raises(EngineMisconfigured, match=rf"answered {status}: no \({setting}\)$"):
        await (await opened(api_key="secret")).call("GET", "/v1/models")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "why"}}, "why"),
        ({"error": "why"}, "why"),
        ({"detail": "why"}, "why"),
        ({"error": {"message": "why\n\x1b[31m"}}, "why [31m"),
        ({"detail": [{"msg": "too long", "input": "hello"}, {"msg": "why"}]}, "too long; why"),
        ({"error": {"type": "x", "input": "hello"}}, "without a reason that can be shown"),
        (["hello"], "without a reason that can be shown"),
        (b"hello", "without a reason that can be shown"),
        (b"", "without a reason that can be shown"),
        ({"error": {"message": "x" * 5000}}, "x" * 300),
    ],
)
async def test_error_quotes_the_server_in_short(body: Any, told: str, server: Answers, opened: Open) -> None:
    server.handler = reply(400, body)

    with pytest.raises(PromptRejected) as caught:
        await (await opened()).call("POST", "/v1/completions", {"prompt": "hello"})
    assert str(caught.value).endswith(f"answered 400: {told}")
    assert "hello" not in str(caught.value)


async def test_key_is_in_no_error(server: Answers, opened: Open) -> None:
    server.handler = reply(401)

    with pytest.raises(EngineMisconfigured) as caught:
        await (await opened(api_key="secret")).call("GET", "/v1/models")
    assert "secret" not in str(caught.value)


async def test_must_be_open(server: Answers) -> None:
    with pytest.raises(RuntimeError, match=r"open\(\) first"):
        await Http(server.url, "", 60.0).call("GET", "/v1/models")


async def test_open_twice_keeps_the_connection(server: Answers, opened: Open) -> None:
    http = await opened()
    session = http._session
    http.open()

    assert http._session is session


async def test_close_gives_connections_back_and_may_come_twice(opened: Open) -> None:
    http = await opened()
    await http.call("GET", "/v1/models")
    await http.close()
    await http.close()

    assert http._session is not None
    assert http._session.closed
