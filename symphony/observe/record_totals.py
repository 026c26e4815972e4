"""Adds up what all acceptors have counted for one upstream or route."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from symphony.observe.histogram import Histogram, read
from symphony.observe.record_area import (
    ACTIVE,
    BYTES_DOWN,
    BYTES_UP,
    CONNECT_US,
    CONNECTIONS,
    FAILURES,
    OWNER,
    RecordArea,
    owner_mark,
)
from symphony.observe.timings import TimingArea

_TRIES = 100


class Totals(NamedTuple):
    """A record as it stands, or several added up. `connect_us` is 0 for a route."""

    active: int
    connections: int
    failures: int
    bytes_up: int
    bytes_down: int
    connect_us: int


def add_up(areas: Iterable[RecordArea], number: int, key: str) -> Totals:
    """What all acceptors have counted for `key`, whose number it is. Areas that count for another one are left out."""
    mark = owner_mark(key)
    sums = [0] * len(Totals._fields)
    for area in areas:
        if _is_of(area, number, mark):
            found = read_totals(area.words, area.at(number), area.size)
            sums = [so_far + more for so_far, more in zip(sums, found, strict=True)]
    return Totals._make(sums)


def add_up_times(areas: Iterable[RecordArea], number: int, key: str) -> Histogram:
    """How long it took, over all acceptors; an empty histogram for a number that has none."""
    at = TimingArea.at(number)
    if at < 0:
        return Histogram()
    mark = owner_mark(key)
    found = [read(area.timings.words, at) for area in areas if _is_of(area, number, mark)]
    return sum(found, Histogram())


def read_whole(
    areas: Sequence[RecordArea], closed: RecordArea | None, number: int, key: str
) -> tuple[Totals, Histogram]:
    """Add up `areas` and what :meth:`RecordArea.take_over` moves from them to `closed`, which may go on meanwhile."""
    if closed is None:
        return add_up(areas, number, key), add_up_times(areas, number, key)
    all_areas = (closed, *areas)
    for _ in range(_TRIES):  # a process that is stopped in the middle of it is not waited for
        moves = closed.moves
        found = add_up(all_areas, number, key), add_up_times(all_areas, number, key)
        if moves % 2 == 0 and closed.moves == moves:
            break
    return found


def read_totals(words: memoryview, at: int, size: int) -> Totals:
    """The record of `size` words that begins at `at`."""
    return Totals(
        words[at + ACTIVE],
        words[at + CONNECTIONS],
        words[at + FAILURES],
        words[at + BYTES_UP],
        words[at + BYTES_DOWN],
        words[at + CONNECT_US] if size > CONNECT_US else 0,
    )


def _is_of(area: RecordArea, number: int, mark: int) -> bool:
    return 0 <= number < area.capacity and area.words[area.at(number) + OWNER] == mark
