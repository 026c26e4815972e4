"""How the upstreams of a plan fare, for those who watch."""

from __future__ import annotations

import asyncio

from symphony.config.snapshot import RouteEntry
from symphony.messages.upstreams import RouteUpstreams, UpstreamDescription, UpstreamsDescription
from symphony.routing.plan import Modes, Plan
from symphony.routing.pool import UpstreamPool

_ROUTES_AT_ONCE = 32


async def describe_upstreams(
    plan: Plan, pool: UpstreamPool, first: int, at_most: int
) -> UpstreamsDescription:
    """Describe some routes of `plan`, giving way to other work now and then."""
    routes: list[RouteUpstreams] = []
    for entry in plan.routes[max(0, first) : max(0, first + at_most)]:
        routes.append(_describe(entry, pool, plan.modes.get(entry.name, {})))
        if len(routes) % _ROUTES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return UpstreamsDescription(plan.version, len(plan.routes), tuple(routes))


def _describe(entry: RouteEntry, pool: UpstreamPool, modes: Modes) -> RouteUpstreams:
    upstreams = []
    for upstream in entry.upstreams:
        slot = pool.slot(upstream)
        totals = pool.totals(slot)
        upstreams.append(
            UpstreamDescription(
                upstream=upstream.label,
                weight=upstream.weight,
                state=slot.record.health.state,
                active=totals.active,
                connections=totals.connections,
                failures=totals.failures,
                bytes_up=totals.bytes_up,
                bytes_down=totals.bytes_down,
                connect_us=totals.connect_us,
                mode=modes.get(upstream.label, "ready"),
            )
        )
    return RouteUpstreams(entry.name, entry.balance, tuple(upstreams))
