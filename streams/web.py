"""The worker's own pages: metrics and health."""

import html
import math
from collections.abc import Iterable, Mapping

import orjson
from aiohttp import web

from streams.errors import WorkerMisconfigured
from streams.health import Health
from streams.metrics import Metrics
from streams.sla import QUANTILES, StageSla


class WebServer:
    """Serves /metrics, /health/live, /health/ready and an index."""

    def __init__(
        self, host: str, port: int, metrics: Metrics, health: Health, stages: Mapping[str, StageSla] | None = None
    ) -> None:
        """port: 0 for any free one; `port` then tells which. stages: by name, for the index."""
        self._stages = stages or {}
        self._address = (host, port)
        self._metrics = metrics
        self._health = health
        app = web.Application()
        app.router.add_get("/", self._index)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        self._runner = web.AppRunner(app, access_log=None)
        self.port = port

    async def start(self) -> None:
        """Listen. Raises WorkerMisconfigured if that address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, *self._address).start()
        except OSError as error:
            raise WorkerMisconfigured(f"WEIR_WEB_HOST, WEIR_WEB_PORT: {error.strerror or error}") from error
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        await self._health.dependencies()
        return web.Response(
            body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _live(self, _: web.Request) -> web.Response:
        reason = self._health.stopped
        return _json(200 if reason is None else 503, {"live": reason is None, "reason": reason})

    async def _ready(self, _: web.Request) -> web.Response:
        dependencies = await self._health.dependencies()
        consuming = self._health.consuming and self._health.stopped is None
        ready = consuming and not any(dependencies.values())
        states = {name: reason or "up" for name, reason in dependencies.items()}
        return _json(200 if ready else 503, {"ready": ready, "consuming": consuming, "dependencies": states})

    async def _index(self, _: web.Request) -> web.Response:
        dependencies = await self._health.dependencies()
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(reason or 'up')}</td></tr>"
            for name, reason in dependencies.items()
        )
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><title>Weir worker</title>"
            "<style>body{font:16px/1.5 system-ui;margin:3rem auto;max-width:60rem;padding:0 1rem}"
            "table{border-collapse:collapse;width:100%;margin-bottom:2rem}th{text-align:left;font-weight:normal;color:#666}"
            "td{border-top:1px solid #ccc}td,th{padding:.4rem}</style>"
            f"<h1>Weir worker</h1><table>{rows}</table>{self._sla_table()}<p><a href=/metrics>metrics</a> · "
            "<a href=/health/live>live</a> · <a href=/health/ready>ready</a></p>"
        )
        return web.Response(text=page, content_type="text/html")

    def _sla_table(self) -> str:
        if not self._stages:
            return ""
        head = ("stage", "SLA", "oldest row", "p50", "p95", "p99", "within SLA", "backlog", "rows a second", "forecast")
        return _table(head, ([name, *_cells(sla)] for name, sla in self._stages.items()))


def _cells(sla: StageSla) -> list[str]:
    waiting, inside = sla.backlog(), sla.inside()
    return [
        _seconds(sla.seconds),
        _seconds(sla.oldest()),
        *(_seconds(sla.quantile(quantile)) for quantile in QUANTILES),
        "" if math.isnan(inside) else f"{inside:.2%}",
        "" if waiting is None else f"{waiting.messages}",
        f"{sla.rate():.1f}",
        _seconds(sla.forecast()) + (" (late)" if sla.will_be_missed() else ""),
    ]


def _seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f"{seconds:.1f} s" if seconds < math.inf else "never"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    others = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{first}</tr>" + "".join(f"<tr>{row}</tr>" for row in others) + "</table>"


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
