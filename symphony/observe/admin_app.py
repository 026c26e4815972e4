"""The admin interface: metrics and health over HTTP, read-only.

GET /metrics        for Prometheus
GET /metrics.json   the same and more, for programs
GET /health/live    200 while the supervisor answers
GET /health/ready   200 while at least one acceptor lets clients in, by the present configuration or an earlier one
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from symphony.observe import exposition
from symphony.observe.telemetry import Telemetry

FRESH_S = 0.25
"""So old may be what is answered: a crowd of scrapers costs the actors no more than one."""

Gather = Callable[[], Awaitable[Telemetry]]

_JSON = "application/json"


class AdminApp:
    """Answers from what `gather` returns."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._latest: Telemetry | None = None
        self._stale_at = 0.0
        self._asking: asyncio.Lock = asyncio.Lock()
        self._rendered: tuple[Telemetry, bytes] | None = None
        self._rendering: asyncio.Lock = asyncio.Lock()
        self.asgi = Starlette(
            routes=[
                Route("/metrics", self._metrics),
                Route("/metrics.json", self._metrics_json),
                Route("/health/live", self._live),
                Route("/health/ready", self._ready),
            ]
        )

    async def _telemetry(self) -> Telemetry:
        async with self._asking:
            if self._latest is None or time.monotonic() >= self._stale_at:
                self._latest = await self._gather()
                self._stale_at = time.monotonic() + FRESH_S
            return self._latest

    async def _metrics(self, request: Request) -> Response:
        telemetry = await self._telemetry()
        if not telemetry.counted:
            # Zeros would be taken for counters that went back.
            return Response("the supervisor has not told any totals yet\n", status_code=503)
        return Response(await self._text(telemetry), media_type=exposition.CONTENT_TYPE)

    async def _text(self, telemetry: Telemetry) -> bytes:
        """Rendered once for all who ask, and apart: 100,000 routes take seconds, in which health is asked for."""
        async with self._rendering:
            if self._rendered is None or self._rendered[0] is not telemetry:
                self._rendered = telemetry, await asyncio.to_thread(exposition.render, telemetry)
            return self._rendered[1]

    async def _metrics_json(self, request: Request) -> Response:
        return Response(msgspec.json.encode(await self._telemetry()), media_type=_JSON)

    async def _live(self, request: Request) -> Response:
        telemetry = await self._telemetry()
        return _health(telemetry.pid != 0, "the supervisor does not answer")

    async def _ready(self, request: Request) -> Response:
        telemetry = await self._telemetry()
        if telemetry.draining:
            return _health(False, f"draining: {telemetry.totals.active} connections left")
        return _health(bool(telemetry.applied), "no acceptor serves")


def _health(well: bool, why: str) -> Response:
    body = {"status": "ok"} if well else {"status": "unavailable", "reason": why}
    return Response(msgspec.json.encode(body), status_code=200 if well else 503, media_type=_JSON)
