"""The routes of a running instance: what each does, and how its upstreams fare."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from symphony.api.telemetry import TelemetrySource
from symphony.observe.histogram import Histogram
from symphony.observe.telemetry import NO_TOTALS, Telemetry


class RouteUpstream(Struct, frozen=True):
    """An upstream of a route; its figures are over all routes. For `state` see `symphony.messages.upstreams`."""

    upstream: str
    state: str
    mode: str
    active: int
    connections: int
    failures: int
    connect_p50_ms: float | None
    connect_p99_ms: float | None


class RouteReport(Struct, frozen=True):
    """A route, "" for the default one: since the start, over all acceptors.

    Times are of its handshakes; None where there were none, or where they are not kept (beyond the first 1024 routes).
    """

    route: str
    active: int
    connections: int
    failures: int
    bytes_up: int
    bytes_down: int
    handshake_p50_ms: float | None
    handshake_p99_ms: float | None
    upstreams: tuple[RouteUpstream, ...]


async def gather_routes(runtime_dir: str) -> tuple[tuple[RouteReport, ...], tuple[str, ...]]:
    """Ask the instance in `runtime_dir`; return its routes in the configuration's order, and who did not answer."""
    telemetry = await TelemetrySource(runtime_dir).gather()
    return tuple(_reports(telemetry)), telemetry.silent


def _reports(telemetry: Telemetry) -> Iterable[RouteReport]:
    totals = telemetry.totals
    for route in telemetry.route_states:
        found = totals.routes.get(route.route, NO_TOTALS)
        upstreams = []
        for each in route.upstreams:
            counted = totals.upstreams.get(each.upstream, NO_TOTALS)
            times = totals.connect_times.get(each.upstream, Histogram())
            upstreams.append(
                RouteUpstream(
                    each.upstream,
                    each.state,
                    each.mode,
                    counted.active,
                    counted.connections,
                    counted.failures,
                    *_quantiles_ms(times),
                )
            )
        yield RouteReport(
            route.route,
            found.active,
            found.connections,
            found.failures,
            found.bytes_up,
            found.bytes_down,
            *_quantiles_ms(totals.handshake_times.get(route.route, Histogram())),
            tuple(upstreams),
        )


def _quantiles_ms(times: Histogram) -> tuple[float | None, float | None]:
    half, most = times.quantile(0.5), times.quantile(0.99)
    return (
        None if half is None else round(half * 1000, 3),
        None if most is None else round(most * 1000, 3),
    )
