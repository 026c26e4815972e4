"""What the rate limiter remembers of every source address, and its decision over one more connection.

Decisions are made in this order: penalty box, bucket per second, bucket per minute, connections open at once. See
:mod:`symphony.protection.penalty` for the buckets and the box. Time is passed in, in seconds of one clock.

A source takes a slot in a few columns of numbers (some 220 bytes with its key and its place in the index). A slot is
freed only when it says nothing that a fresh one would not: both buckets full, and out of the box. Anything else would
hand tokens out twice, or let someone out of the box who opens connections from many addresses. Slots are looked at in
the order of the time at which they may be free at the earliest, filed by whole seconds, a few with every decision and
more when there is no room. When there is none even then, a new source is turned away.

The columns are in a :class:`SourceStore`, which may outlive the process; see :meth:`SourceTable.recover`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

from msgspec import Struct

from symphony.protection.holders import Holders
from symphony.protection.penalty import SourceLimits, TokenClock, Verdict
from symphony.protection.source_store import SourceStore

_LOOKS = 4  # at filed slots, with every decision
_LOOKS_WITHOUT_ROOM = 1000
_ADMITTED = Verdict.ADMITTED  # an enumeration's member takes long to look up
_HELD = Verdict.HELD
_PENALTY_BOXED = Verdict.PENALTY_BOXED
_RATE_LIMITED = Verdict.RATE_LIMITED
_SUSTAINED_LIMITED = Verdict.SUSTAINED_LIMITED


class BlockedSource(Struct, frozen=True, array_like=True):
    """A source that would be refused now: why, and for how many seconds if nothing happens (0 when unknown)."""

    listener: str
    key: bytes
    verdict: Verdict
    seconds: float


class _Listener:
    """One listener's limits and the slots of its sources. Not `configured` while only its sources are known."""

    __slots__ = (
        "configured",
        "index",
        "limits",
        "metered",
        "minute",
        "name",
        "number",
        "second",
        "settled_after",
    )

    def __init__(self, name: str, number: int, now: float) -> None:
        self.name = name
        self.number = number
        self.limits = SourceLimits()
        self.second = TokenClock(now)
        self.minute = TokenClock(now)
        self.index: dict[bytes, int] = {}
        self.configured = False
        self.metered = False
        self.settled_after = 0.0  # seconds until both buckets are full again that lack one token

    def configure(self, limits: SourceLimits, now: float) -> None:
        self.configured = True
        self.limits = limits
        self.metered = limits.metered
        self.settled_after = max(
            (1.0 / rate for rate in (limits.per_second, limits.per_minute / 60.0) if rate), default=0.0
        )
        self.second.change(limits.per_second, limits.per_second_burst, now)
        self.minute.change(limits.per_minute / 60.0, limits.per_minute_burst, now)

    def empty_above(self, now: float) -> tuple[float, float]:
        """Above which numbers its sources' two buckets have no token now."""
        return self.second.empty_above(now), self.minute.empty_above(now)


class UnknownListener(KeyError):
    """No limits are known for that listener."""


class SourceTable:
    """Every source of every listener, as many as `store` has room for. `recover` first what the store may hold."""

    def __init__(self, store: SourceStore, now: float) -> None:
        self.capacity = store.capacity
        self.holders = Holders()
        self.turned_away = 0
        """Connections refused because there was no room to count their source."""
        self._store = store
        self._listeners: dict[str, _Listener] = {}
        self._by_number: list[_Listener] = []
        # One entry per slot that was ever in use. A slot that is free has the key None.
        self._keys: list[bytes | None] = []
        # Cached: a decision looks at each of them.
        self._second = store.full_second  # clock readings at which the buckets are full
        self._minute = store.full_minute
        self._boxed_until = store.boxed_until
        self._free = array("I")
        self._filed: dict[int, array[int]] = {}  # by the second in which slots may be free at the earliest
        self._looked_at = int(now)  # every second before this one has been dealt with

    def __len__(self) -> int:
        return len(self._keys) - len(self._free)

    def recover(self, now: float, step: int = 10_000) -> Iterator[None]:
        """Take up what an earlier process left in the store, `step` slots at a time.

        To be gone through before anything else is asked. `now` must be of that process' clock. The listeners'
        limits are not known until they are configured again.
        """
        for number, name in enumerate(self._store.names()):
            entry = _Listener(name, number, now)
            entry.second.restore(self._store.clock(number, 0))
            entry.minute.restore(self._store.clock(number, 1))
            self._by_number.append(entry)
            self._listeners[name] = entry
        for start in range(0, self._store.used, step):
            for slot in range(start, min(start + step, self._store.used)):
                self._recover(slot, now)
            yield

    def _recover(self, slot: int, now: float) -> None:
        store = self._store
        number = store.owner[slot] - 1
        numbers = store.full_second[slot], store.full_minute[slot], store.boxed_until[slot]
        key = store.key(slot)
        if (
            not 0 <= number < len(self._by_number)
            or not all(map(math.isfinite, numbers))
            or key in self._by_number[number].index
        ):
            store.owner[slot] = 0
            self._keys.append(None)
            self._free.append(slot)
            return
        self._keys.append(key)
        self._by_number[number].index[key] = slot
        self._look(slot, now)

    def configure(self, listener: str, limits: SourceLimits, now: float) -> None:
        """Set a listener's limits from now on; what is known of its sources stays."""
        entry = self._listeners.get(listener)
        if entry is None:
            entry = _Listener(listener, len(self._by_number), now)
            self._store.name(entry.number, listener)
            self._by_number.append(entry)
            self._listeners[listener] = entry
        entry.configure(limits, now)
        self._store.keep_clock(entry.number, 0, entry.second.numbers)
        self._store.keep_clock(entry.number, 1, entry.minute.numbers)

    def decide(self, listener: str, key: bytes, holder: object, now: float) -> Verdict:
        """Judge one more connection of a source, which `holder` accepted. Raises UnknownListener."""
        entry = self._listeners.get(listener)
        if entry is None or not entry.configured:
            raise UnknownListener(listener)
        if self._looked_at < now - 1.0:
            self.sweep(now, _LOOKS)
        if entry.metered:
            verdict = self._meter(entry, key, now)
            if verdict is not _ADMITTED:
                return verdict
        limit = entry.limits.max_concurrent
        if not limit:
            return _ADMITTED
        if self.holders.acquire(holder, (listener, key), limit):
            return _HELD
        return Verdict.TOO_MANY_CONNECTIONS

    def wait(self, listener: str, key: bytes, now: float) -> float:
        """For how many seconds a source that was just refused will be refused at least; 0.0 when unknown."""
        entry = self._entry(listener)
        slot = entry.index.get(key)
        if slot is None:
            return 0.0
        boxed_for: float = self._boxed_until[slot] - now
        if boxed_for > 0.0 and entry.limits.penalty_s:
            return boxed_for
        waits = (
            (full_at[slot] - clock.empty_above(now)) / clock.rate
            for clock, full_at in ((entry.second, self._second), (entry.minute, self._minute))
            if clock.rate
        )
        return max(0.0, *waits, 0.0)

    def release(self, listener: str, key: bytes, holder: object) -> bool:
        """Take note of the end of a connection that was HELD."""
        return self.holders.release(holder, (listener, key))

    def drop_holder(self, holder: object) -> int:
        """Give back every connection of a process that is gone; return how many."""
        return self.holders.drop(holder)

    def charge(self, listener: str, key: bytes, connections: float, now: float) -> None:
        """Count connections that were let in without asking.

        Nothing is refused, and a bucket is at worst empty afterwards. Raises UnknownListener.
        """
        entry = self._entry(listener)
        if self._looked_at < now - 1.0:
            self.sweep(now, _LOOKS)
        if entry.metered:
            slot = self._slot(entry, key, now)
            if slot >= 0:
                entry.second.take_many(self._second, slot, connections, 0.0, now, now)
                entry.minute.take_many(self._minute, slot, connections, 0.0, now, now)

    def count(
        self, listener: str, key: bytes, connections: int, let_in: int, first: float, last: float
    ) -> None:
        """Count connections that came, evenly from `first` to `last`, and were decided on without this table.

        They take tokens as far as there are any, and when there are too few the source is in the box from `last`
        on, as if each had been asked for. For those that were let in all the same tokens are owed. Raises
        UnknownListener.
        """
        entry = self._entry(listener)
        if not entry.metered:
            return
        slot = self._slot(entry, key, last)
        if slot < 0:
            return
        passed, exceeded = float(connections), False
        if entry.second.rate:
            passed, exceeded = entry.second.take_many(self._second, slot, passed, let_in, first, last)
        if entry.minute.rate:
            passed = max(passed, float(let_in))
            exceeded |= entry.minute.take_many(self._minute, slot, passed, let_in, first, last)[1]
        penalty_s = entry.limits.penalty_s
        if exceeded and penalty_s and self._boxed_until[slot] < last + penalty_s:
            self._boxed_until[slot] = last + penalty_s

    def sweep(self, now: float, looks: int) -> None:
        """Look at up to `looks` slots that may be free by now, and free those that are."""
        second = int(now)
        while self._looked_at < second:
            due = self._filed.get(self._looked_at)
            while due:
                if not looks:
                    return
                looks -= 1
                self._look(due.pop(), now)
            self._filed.pop(self._looked_at, None)
            self._looked_at = self._looked_at + 1 if self._filed else second

    def blocked(self, now: float, step: int = 4000) -> Iterator[list[BlockedSource]]:
        """Go through the sources that would be refused now, looking at `step` slots at a time.

        The table may be used and changed between two lists.
        """
        for listener in list(self._listeners.values()):
            limit = listener.limits.max_concurrent
            if limit:
                yield [
                    BlockedSource(listener.name, key, Verdict.TOO_MANY_CONNECTIONS, 0.0)
                    for key, _ in self.holders.at_least(listener.name, limit)
                ]
        for start in range(0, len(self._keys), step):
            empty = [entry.empty_above(now) for entry in self._by_number]
            found: list[BlockedSource] = []
            for slot in range(start, min(start + step, len(self._keys))):
                key = self._keys[slot]
                if key is None:
                    continue
                number = self._store.owner[slot] - 1
                entry, above = self._by_number[number], empty[number]
                if self._boxed_until[slot] > now and entry.limits.penalty_s:
                    seconds = self._boxed_until[slot] - now
                    found.append(BlockedSource(entry.name, key, _PENALTY_BOXED, seconds))
                elif self._second[slot] > above[0]:
                    seconds = (self._second[slot] - above[0]) / entry.second.rate
                    found.append(BlockedSource(entry.name, key, _RATE_LIMITED, seconds))
                elif self._minute[slot] > above[1]:
                    seconds = (self._minute[slot] - above[1]) / entry.minute.rate
                    found.append(BlockedSource(entry.name, key, _SUSTAINED_LIMITED, seconds))
            yield found

    def _entry(self, listener: str) -> _Listener:
        entry = self._listeners.get(listener)
        if entry is None or not entry.configured:
            raise UnknownListener(listener)
        return entry

    def _meter(self, entry: _Listener, key: bytes, now: float) -> Verdict:
        """Take a token from each bucket, as far as the box and the bucket before allow."""
        slot = entry.index.get(key, -1)
        if slot < 0:
            slot = self._slot(entry, key, now)
            if slot < 0:
                self.turned_away += 1
                return Verdict.TABLE_FULL
        verdict = _ADMITTED
        if entry.second.rate and not entry.second.take(self._second, slot, now):
            verdict = _RATE_LIMITED
        elif entry.minute.rate and not entry.minute.take(self._minute, slot, now):
            verdict = _SUSTAINED_LIMITED
        penalty_s = entry.limits.penalty_s
        if penalty_s:
            until = self._boxed_until[slot]
            if verdict is not _ADMITTED and until < now + penalty_s:
                self._boxed_until[slot] = now + penalty_s
            if until > now:
                return _PENALTY_BOXED
        return verdict

    def _slot(self, entry: _Listener, key: bytes, now: float) -> int:
        """Return a source's slot, a fresh one if need be, or -1 when there is no room."""
        slot = entry.index.get(key)
        if slot is not None:
            return slot
        if len(self._keys) >= self.capacity and not self._free:
            self.sweep(now, _LOOKS_WITHOUT_ROOM)
            if not self._free:
                return -1
        if self._free:
            slot = self._free.pop()
            self._keys[slot] = key
        else:
            slot = len(self._keys)
            self._keys.append(key)
        self._store.fill(slot, key, entry.number)
        entry.index[key] = slot
        self._file(slot, max(int(now + entry.settled_after), self._looked_at) + 1)
        return slot

    def _file(self, slot: int, second: int) -> None:
        due = self._filed.get(second)
        if due is None:
            due = self._filed[second] = array("I")
        due.append(slot)

    def _look(self, slot: int, now: float) -> None:
        """Free a slot, or file it for the second in which it may be free."""
        entry = self._by_number[self._store.owner[slot] - 1]
        key = self._keys[slot]
        assert key is not None, "a slot that is filed is in use"
        free_at: float = self._boxed_until[slot]
        for clock, full_at in ((entry.second, self._second), (entry.minute, self._minute)):
            if clock.rate:
                free_at = max(free_at, now + (full_at[slot] - clock.read(now)) / clock.rate)
        if free_at > now:
            self._file(slot, max(int(free_at), self._looked_at + 1))
            return
        self._store.owner[slot] = 0
        del entry.index[key]
        self._keys[slot] = None
        self._free.append(slot)
