"""Where sources stand in the store, and which of them makes way for a new one.

A source makes way for another one only when it says nothing that a fresh one would not: both buckets full, out of the
box, and nothing open. Anything else would hand tokens out twice, or let someone out of the box who opens connections
from many addresses.
"""

from __future__ import annotations

from symphony.protection.hold_cells import LOOK_EVERY_S, Holds
from symphony.protection.listener_clocks import ListenerClocks
from symphony.protection.source_store import BOXED, MINUTE, SECOND, SourceStore

_LOOK_AGAIN_S = 1.0
"""So long it is taken for granted that a set is full when nobody in it can make way before."""


class SourcePlaces:
    """One process' way to find places. Without `holds`, nobody is kept in place by open connections."""

    def __init__(self, store: SourceStore, holds: Holds | None) -> None:
        self._store = store
        self._holds = holds
        self._numbers = store.numbers
        self._clocks: dict[int, ListenerClocks] = {}
        self._full_until: dict[int, float] = {}  # by the first place of a set
        self._hand = 0

    def take(self, number: int, key: bytes, mixed: int, now: float) -> int:
        """Return the place of the source `key` of a listener, given to it now if it is new; -1 when there is no room.

        `mixed` is the hash of both. For who holds the lock of the source's set.
        """
        place = self._store.find(number, key, mixed)
        return place if place >= 0 else self._begin(number, key, mixed, now)

    def _begin(self, number: int, key: bytes, mixed: int, now: float) -> int:
        """Give a source that is not known a place, -1 when there is no room."""
        place = self._store.free_place(mixed)
        if place < 0:
            place = self._make_room(mixed, now)
            if place < 0:
                return -1
        self._store.fill(place, number, key, mixed)
        return place

    def _make_room(self, mixed: int, now: float) -> int:
        """Forget a source of the same set that says nothing; return its place, -1 when there is none."""
        places = self._store.places(mixed)
        if self._full_until.get(places.start, 0.0) > now:
            return -1
        self._hand += 1
        earliest = now + _LOOK_AGAIN_S
        for turn in range(len(places)):
            place = places[(self._hand + turn) % len(places)]
            free_at = self._free_at(place, now)
            if free_at > now:
                earliest = min(earliest, free_at)
                continue
            self._store.free(place)
            # Somebody who could not wait for the lock may have counted on it at this very moment.
            if self._holds is None or self._holds.is_free(self._store.cell(place), now):
                return place
        self._full_until[places.start] = earliest
        return -1

    def _free_at(self, place: int, now: float) -> float:
        """When a source says nothing any more, at the earliest."""
        number = self._store.owner(place)
        clocks = self._clocks.get(number)
        if clocks is None:
            clocks = self._clocks[number] = ListenerClocks(self._store, number)
        clocks.refresh()
        numbers = self._numbers
        free_at: float = numbers[place + BOXED]
        for clock, at in ((clocks.second, SECOND), (clocks.minute, MINUTE)):
            if clock.rate:
                free_at = max(free_at, now + (numbers[place + at] - clock.read(now)) / clock.rate)
        if (
            free_at <= now
            and self._holds is not None
            and not self._holds.is_free(self._store.cell(place), now)
        ):
            return now + LOOK_EVERY_S
        return free_at
