"""Reads what was counted for routes and upstreams, giving way to other work: there may be 100,000 routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic

from symphony.observe.histogram import Histogram
from symphony.observe.record_area import RecordArea
from symphony.observe.record_totals import Totals, read_whole

LONGEST_TURN_S = 0.002


async def read_records(
    areas: Sequence[RecordArea], closed: RecordArea | None, keys: Iterable[tuple[str, int]]
) -> tuple[dict[str, Totals], dict[str, Histogram]]:
    """Add up `areas` and `closed` for `keys` and their numbers; those that were never used are left out.

    Likewise those that no time was taken of.
    """
    all_areas = (*areas, closed) if closed is not None else areas
    found: dict[str, Totals] = {}
    times: dict[str, Histogram] = {}
    turn_ends = monotonic() + LONGEST_TURN_S
    for key, number in keys:
        if any(area.is_used(number) for area in all_areas):
            totals, took = read_whole(areas, closed, number, key)
            if totals.connections or totals.failures or totals.active:
                found[key] = totals
                if took.count:
                    times[key] = took
        if monotonic() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = monotonic() + LONGEST_TURN_S
    return found, times
