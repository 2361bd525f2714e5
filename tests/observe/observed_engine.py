"""The instant engine with a prefix cache, and with failures on demand: POST /fail?requests=3."""

import argparse
from pathlib import Path

import orjson
from aiohttp import web

from bench.instant_engine import Server

CACHED = 8


class ObservedServer(Server):
    """Some tokens of each request are cached; the next so many requests fail with 503."""

    _failures = 0

    def application(self) -> web.Application:
        app = super().application()
        app.router.add_post("/fail", self._fail)
        return app

    async def _fail(self, request: web.Request) -> web.Response:
        self._failures = int(request.query["requests"])
        return web.Response()

    async def _completions(self, request: web.Request) -> web.Response:
        if self._failures:
            self._failures -= 1
            return web.Response(status=503)
        answer = await super()._completions(request)
        assert isinstance(answer.body, bytes)
        return web.Response(
            body=answer.body.replace(b'"cached_tokens":0', b'"cached_tokens":%d' % CACHED),
            content_type="application/json",
        )


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--answers", type=Path, required=True)
    chosen = options.parse_args()
    records = map(orjson.loads, chosen.answers.read_bytes().splitlines())
    server = ObservedServer(0.005, {row["text"]: row["word"] for row in records})
    web.run_app(server.application(), host="127.0.0.1", port=chosen.port, access_log=None, print=None)
