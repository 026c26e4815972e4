"""The decision over one more connection of a source, by what all acceptors know of it together.

Decisions are made in this order: penalty box, bucket per second, bucket per minute, connections open at once. See
:mod:`symphony.protection.penalty` for the buckets and the box. Time is passed in, in seconds of one clock.

What is known is in a :class:`SourceStore` and in the pages of :class:`Holds`; a table is one process' way to use them.
A decision is made under the lock of the source's set, so that what all acceptors let in together is exactly what one of
them would.

A new source for which there is no place (:mod:`symphony.protection.source_places`) is turned away.
"""

from __future__ import annotations

from symphony.protection.hold_cells import Holds
from symphony.protection.listener_clocks import ListenerClocks
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_places import SourcePlaces
from symphony.protection.source_store import BOXED, MINUTE, SECOND, WAYS, SourceStore

NO_CELL = -1
_MOST_FULL = 4096
_MOST_KNOWN = 8192

_ADMITTED = Verdict.ADMITTED  # an enumeration's member takes long to look up
_HELD = Verdict.HELD
_PENALTY_BOXED = Verdict.PENALTY_BOXED
_RATE_LIMITED = Verdict.RATE_LIMITED
_SUSTAINED_LIMITED = Verdict.SUSTAINED_LIMITED
_ADMITTED_DECISION = Verdict.ADMITTED, NO_CELL
_TURNED_AWAY = Verdict.TABLE_FULL, NO_CELL

Decision = tuple[Verdict, int]
"""What becomes of a connection; and after HELD the cell in which it counts, to be released."""


class UnknownListener(KeyError):
    """No limits are known for that listener."""


class _Listener(ListenerClocks):
    """A listener that this process serves, with its limits."""

    __slots__ = ("known", "limits", "metered")

    def __init__(self, store: SourceStore, number: int) -> None:
        super().__init__(store, number)
        self.limits = SourceLimits()
        self.metered = False
        self.known: dict[bytes, tuple[int, int, int, int]] = {}
        """Place, head, lock and hash of sources that came before. A place is another's when the head is another."""


class SourceTable:
    """Every source of every listener. Without `holds`, open connections are not counted, and not limited."""

    def __init__(self, store: SourceStore, holds: Holds | None = None) -> None:
        if holds is not None and holds.size < store.cells:
            raise ValueError(f"pages of {holds.size} cells for a store of {store.cells} places")
        self._store = store
        self._holds = holds
        self._locks = store.locks
        self._numbers = store.numbers
        self._words = store.words
        self.full: dict[tuple[str, bytes], int] = {}
        """Sources with as much open as they may have, and where that is counted; see :meth:`at_limit`."""
        self._states = store.states
        self._listeners: dict[str, _Listener] = {}
        self._places = SourcePlaces(store, holds)

    def configure(self, listener: str, limits: SourceLimits, now: float, version: int = 0) -> bool:
        """Set a listener's limits from now on; what is known of its sources stays. False when that has to wait.

        The rates of the newest `version` hold for all processes; 0 is newer than what there is.
        """
        if not self._locks.take_all():
            return False
        try:
            entry = self._listeners.get(listener)
            if entry is None:
                entry = self._listeners[listener] = _Listener(self._store, self._number(listener))
            entry.refresh()
            known = self._store.version(entry.number)
            if not version or version > known:
                self._change(entry, limits, now, version or known + 1)
            entry.limits = limits
            entry.metered = limits.metered
        finally:
            self._locks.give_all_back()
        return True

    def decide(self, listener: str, key: bytes, now: float) -> Decision | None:
        """Judge one more connection of a source; None when that has to wait. Raises UnknownListener."""
        entry = self._listeners.get(listener)
        if entry is None:
            raise UnknownListener(listener)
        limits = entry.limits
        limit = limits.max_concurrent
        if not entry.metered and not limit:
            return _ADMITTED_DECISION
        # This is gone through once for each connection, when nothing of it is in the processor's caches any more: every
        # call and every object that is touched counts.
        known = entry.known.get(key)
        if known is None:
            mixed = hash((entry.number, key))
            place, head, lock = -1, 0, self._store.lock_of(mixed)
        else:
            place, head, lock, mixed = known
        locks = self._locks
        if not locks.take(lock):
            return None
        try:
            if self._states[entry.number] != entry.state:
                entry.refresh()
            if place < 0 or self._words[place] != head:
                place = self._places.take(entry.number, key, mixed, now)
                if place < 0:
                    return _TURNED_AWAY
                if len(entry.known) >= _MOST_KNOWN:
                    entry.known.clear()
                entry.known[key] = place, self._words[place], lock, mixed
            if entry.metered:
                verdict = self._meter(entry, place, limits.penalty_s, now)
                if verdict is not _ADMITTED:
                    return verdict, NO_CELL
            holds = self._holds
            if not limit or holds is None:
                return _ADMITTED_DECISION
            cell = (place >> 9) * WAYS + (place & 511)  # as SourceStore.cell has it
            total = holds.take(cell, limit, now)
            if not 0 < total < limit:
                self._note_full(listener, key, cell)
                if not total:
                    return Verdict.TOO_MANY_CONNECTIONS, NO_CELL
            return _HELD, cell
        finally:
            locks.give_back(lock)

    def decide_unlocked(self, listener: str, key: bytes, now: float) -> Decision:
        """Look whether a source that nobody could decide about is refused; take no token. Raises UnknownListener.

        Of a source that is not known yet nothing can be counted: with a limit on open connections it is refused.
        """
        entry = self._listeners.get(listener)
        if entry is None:
            raise UnknownListener(listener)
        mixed = hash((entry.number, key))
        place = self._store.find(entry.number, key, mixed)
        limit = entry.limits.max_concurrent if self._holds is not None else 0
        if place < 0:
            return _TURNED_AWAY if limit else (_ADMITTED, NO_CELL)
        if entry.metered:
            if entry.limits.penalty_s and self._numbers[place + BOXED] > now:
                return _PENALTY_BOXED, NO_CELL
            if self._numbers[place + SECOND] > entry.second.empty_above(now):
                return _RATE_LIMITED, NO_CELL
            if self._numbers[place + MINUTE] > entry.minute.empty_above(now):
                return _SUSTAINED_LIMITED, NO_CELL
        if not limit:
            return _ADMITTED, NO_CELL
        assert self._holds is not None, "there is no limit without"
        cell = self._store.cell(place)
        if not self._holds.take(cell, limit, now):
            return Verdict.TOO_MANY_CONNECTIONS, NO_CELL
        if self._store.find(entry.number, key, mixed) != place:  # it had to make way just then
            self._holds.give_back(cell)
            return _TURNED_AWAY
        return _HELD, cell

    def hold(self, listener: str, key: bytes, now: float) -> int | None:
        """Count a connection as open that is so already, and return its cell; None when that has to wait.

        NO_CELL when there is no room to count it.
        """
        entry = self._listeners.get(listener)
        if entry is None or self._holds is None:
            return NO_CELL
        mixed = hash((entry.number, key))
        lock = self._store.lock_of(mixed)
        if not self._locks.take(lock):
            return None
        try:
            place = self._places.take(entry.number, key, mixed, now)
            if place < 0:
                return NO_CELL
            cell = self._store.cell(place)
            self._holds.add(cell)
            if self._holds.count(cell) >= entry.limits.max_concurrent:
                self._note_full(listener, key, cell)
            return cell
        finally:
            self._locks.give_back(lock)

    def release(self, cell: int) -> None:
        """Take note of the end of a connection that was HELD."""
        if self._holds is not None and cell != NO_CELL:
            self._holds.give_back(cell)

    def at_limit(self) -> dict[str, tuple[bytes, ...]]:
        """The sources that have as much open as they may have, by listener, as far as they were seen to."""
        found: dict[str, list[bytes]] = {}
        for (listener, key), cell in tuple(self.full.items()):
            entry = self._listeners[listener]
            place = self._store.find(entry.number, key, hash((entry.number, key)))
            limit = entry.limits.max_concurrent
            same = place >= 0 and self._store.cell(place) == cell
            if same and limit and self._holds is not None and self._holds.count(cell) >= limit:
                found.setdefault(listener, []).append(key)
            else:
                del self.full[listener, key]
        return {listener: tuple(keys) for listener, keys in found.items()}

    def count(
        self, listener: str, key: bytes, connections: int, let_in: int, first: float, last: float
    ) -> bool:
        """Count connections that came, evenly from `first` to `last`, and were not decided on here.

        They take tokens as far as there are any, and when there are too few the source is in the box from `last`
        on, as if each had been asked for. For those that were let in all the same tokens are owed. False when that has
        to wait. Raises UnknownListener.
        """
        entry = self._listeners.get(listener)
        if entry is None:
            raise UnknownListener(listener)
        if not entry.metered:
            return True
        mixed = hash((entry.number, key))
        lock = self._store.lock_of(mixed)
        if not self._locks.take(lock):
            return False
        try:
            entry.refresh()
            place = self._places.take(entry.number, key, mixed, last)
            if place >= 0:
                self._count(entry, place, connections, let_in, first, last)
        finally:
            self._locks.give_back(lock)
        return True

    def _change(self, entry: _Listener, limits: SourceLimits, now: float, version: int) -> None:
        second, minute = entry.second, entry.minute
        before = second.numbers, minute.numbers
        if not entry.state:
            second.restore((0.0, 0.0, 0.0, now))
            minute.restore((0.0, 0.0, 0.0, now))
        second.change(limits.per_second, limits.per_second_burst, now)
        minute.change(limits.per_minute / 60.0, limits.per_minute_burst, now)
        after = second.numbers, minute.numbers
        if after != before or not entry.state:
            self._store.keep_clocks(entry.number, *after, version)
            entry.state = int(self._store.states[entry.number])

    def _note_full(self, listener: str, key: bytes, cell: int) -> None:
        if len(self.full) < _MOST_FULL:
            self.full[listener, key] = cell

    def _number(self, listener: str) -> int:
        names = self._store.names()
        if listener in names:
            return names.index(listener)
        self._store.name(len(names), listener)
        return len(names)

    def _meter(self, entry: _Listener, place: int, penalty_s: float, now: float) -> Verdict:
        """Take a token from each bucket, as far as the box and the bucket before allow."""
        numbers = self._numbers
        verdict = _ADMITTED
        if entry.second.rate and not entry.second.take(numbers, place + SECOND, now):
            verdict = _RATE_LIMITED
        elif entry.minute.rate and not entry.minute.take(numbers, place + MINUTE, now):
            verdict = _SUSTAINED_LIMITED
        if penalty_s:
            until = numbers[place + BOXED]
            if verdict is not _ADMITTED and until < now + penalty_s:
                numbers[place + BOXED] = now + penalty_s
            if until > now:
                return _PENALTY_BOXED
        return verdict

    def _count(
        self, entry: _Listener, place: int, connections: int, let_in: int, first: float, last: float
    ) -> None:
        numbers = self._numbers
        passed, exceeded = float(connections), False
        if entry.second.rate:
            passed, exceeded = entry.second.take_many(numbers, place + SECOND, passed, let_in, first, last)
        if entry.minute.rate:
            passed = max(passed, float(let_in))
            exceeded |= entry.minute.take_many(numbers, place + MINUTE, passed, let_in, first, last)[1]
        penalty_s = entry.limits.penalty_s
        if exceeded and penalty_s and numbers[place + BOXED] < last + penalty_s:
            numbers[place + BOXED] = last + penalty_s
