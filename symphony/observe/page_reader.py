"""Reads a page of totals out of shared memory, giving way to other work: a page may have 100,000 routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

from symphony.config.snapshot import RouteEntry
from symphony.messages.totals import ListenerCounts, PageTotals
from symphony.observe.counters import (
    ACCEPTED,
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_TIME,
    HANDSHAKE_TIME,
    HANDSHAKES,
    RESUMED,
    CounterPage,
)
from symphony.observe.records import RecordArea, Totals, add_up

LONGEST_TURN_S = 0.002


async def read_page(
    name: str,
    page: CounterPage,
    addresses: Mapping[str, str],
    routes: Sequence[RouteEntry],
) -> PageTotals:
    """Read `page`, which is that of acceptor `name`.

    `addresses` maps a listener's id to its address as bound; `routes` are those whose records are read, and whose
    upstreams' are.
    """
    upstreams = (
        (upstream.label, number)
        for route in routes
        for upstream, number in zip(route.upstreams, route.upstream_numbers, strict=False)
    )
    values = page.values
    listeners = []
    for id, address in addresses.items():
        slot = page.listener_slot(id)
        listeners.append(ListenerCounts(id, address, values[slot], values[slot + 1], page.blocked(slot)))
    return PageTotals(
        name=name,
        accepted=values[ACCEPTED],
        active=values[ACTIVE],
        bytes_up=values[BYTES_UP],
        bytes_down=values[BYTES_DOWN],
        handshakes=values[HANDSHAKES],
        resumed=values[RESUMED],
        errors=page.errors(),
        listeners=tuple(listeners),
        suites=page.suites(),
        handshake_time=page.histogram(HANDSHAKE_TIME),
        connect_time=page.histogram(CONNECT_TIME),
        routes=await _read_area(page.routes, ((route.sni, route.number) for route in routes)),
        upstreams=await _read_area(page.upstreams, upstreams),
    )


async def _read_area(area: RecordArea, keys: Iterable[tuple[str, int]]) -> dict[str, Totals]:
    found: dict[str, Totals] = {}
    turn_ends = monotonic() + LONGEST_TURN_S
    for key, number in keys:
        totals = add_up((area,), number, key)
        if totals.connections or totals.failures:
            found[key] = totals
        if monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = monotonic() + LONGEST_TURN_S
    return found
