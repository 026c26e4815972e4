"""What the rate limiter remembers of every source address, and its decision over one more connection.

Decisions are made in this order: penalty box, bucket per second, bucket per minute, connections open at once. See
:mod:`symphony.protection.penalty` for the buckets and the box. Time is passed in, in seconds of one clock.

A source takes a slot in a few arrays (less than 200 bytes with its key and its place in the index). A slot is freed
only when it says nothing that a fresh one would not: both buckets full, and out of the box. Anything else would hand
tokens out twice, or let someone out of the box who opens connections from many addresses. Slots are looked at in the
order of the time at which they may be free at the earliest, filed by whole seconds, a few with every decision and
more when there is no room. When there is none even then, a new source is turned away.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from msgspec import Struct

from symphony.protection.holders import HeldKey, Holders
from symphony.protection.penalty import SourceLimits, TokenClock, Verdict

_LOOKS = 4  # at filed slots, with every decision
_LOOKS_WITHOUT_ROOM = 1000
_ADMITTED = Verdict.ADMITTED  # an enumeration's member takes long to look up
_HELD = Verdict.HELD
_PENALTY_BOXED = Verdict.PENALTY_BOXED
_RATE_LIMITED = Verdict.RATE_LIMITED
_SUSTAINED_LIMITED = Verdict.SUSTAINED_LIMITED


class SourceRecord(Struct, frozen=True, array_like=True):
    """What is known of one source, in terms that another process and another time can use.

    `second` and `minute` are the tokens that its buckets lack, `boxed_for` the seconds that it stays in the box.
    """

    listener: str
    key: bytes
    second: float
    minute: float
    boxed_for: float


class BlockedSource(Struct, frozen=True, array_like=True):
    """A source that would be refused now: why, and for how many seconds if nothing happens (0 when unknown)."""

    listener: str
    key: bytes
    verdict: Verdict
    seconds: float


class _Listener:
    """One listener's limits and the slots of its sources."""

    __slots__ = ("index", "limits", "metered", "minute", "name", "number", "second", "settled_after")

    def __init__(self, name: str, number: int, now: float) -> None:
        self.name = name
        self.number = number
        self.limits = SourceLimits()
        self.second = TokenClock(now)
        self.minute = TokenClock(now)
        self.index: dict[bytes, int] = {}
        self.metered = False
        self.settled_after = 0.0  # seconds until both buckets are full again that lack one token

    def configure(self, limits: SourceLimits, now: float) -> None:
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
    """Every source of every listener, at most `capacity` of them."""

    def __init__(self, capacity: int, now: float) -> None:
        self.capacity = capacity
        self.holders = Holders()
        self.turned_away = 0
        """Connections refused because there was no room to count their source."""
        self._listeners: dict[str, _Listener] = {}
        self._by_number: list[_Listener | None] = []
        # One entry per slot. A slot that is not in use has the key None.
        self._keys: list[bytes | None] = []
        self._owner = array("I")
        self._second = array("d")  # clock readings at which the buckets are full
        self._minute = array("d")
        self._boxed_until = array("d")
        self._free = array("I")
        self._filed: dict[int, array[int]] = {}  # by the second in which slots may be free at the earliest
        self._looked_at = int(now)  # every second before this one has been dealt with

    def __len__(self) -> int:
        return len(self._keys) - len(self._free)

    def configure(self, listener: str, limits: SourceLimits, now: float) -> None:
        """Set a listener's limits from now on; what is known of its sources stays."""
        entry = self._listeners.get(listener)
        if entry is None:
            entry = self._listeners[listener] = self._number(listener, now)
        entry.configure(limits, now)

    def forget(self, listener: str) -> None:
        """Forget a listener that is gone, with its sources. Does nothing when it is unknown."""
        entry = self._listeners.pop(listener, None)
        if entry is not None:
            for slot in entry.index.values():
                self._keys[slot] = None
            # their places in `_filed` remain: a slot that is looked at with no key in it is freed then
            entry.index.clear()
            self._by_number[entry.number] = None
            self.holders.forget(listener)

    def decide(self, listener: str, key: bytes, holder: int, now: float) -> Verdict:
        """Judge one more connection of a source, which `holder` accepted. Raises UnknownListener."""
        entry = self._listeners.get(listener)
        if entry is None:
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

    def release(self, listener: str, key: bytes, holder: int) -> bool:
        """Take note of the end of a connection that was HELD."""
        return self.holders.release(holder, (listener, key))

    def drop_holder(self, holder: int) -> int:
        """Give back every connection of a process that is gone; return how many."""
        return self.holders.drop(holder)

    def report_held(self, holder: int, counts: Iterable[tuple[HeldKey, int]]) -> None:
        """Take a holder's word for all that it has open."""
        self.holders.replace(holder, counts)

    def charge(self, listener: str, key: bytes, connections: float, now: float) -> None:
        """Count connections that were let in without asking, as while there was nobody to ask.

        Nothing is refused, and a bucket is at worst empty afterwards. Raises UnknownListener.
        """
        entry = self._entry(listener)
        if entry.limits.metered:
            slot = self._slot(entry, key, now)
            if slot >= 0:
                for clock, full_at in ((entry.second, self._second), (entry.minute, self._minute)):
                    reading = clock.read(now)
                    missing = max(0.0, full_at[slot] - reading) + connections
                    full_at[slot] = reading + min(missing, clock.burst)

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

    def records(self, now: float, count: int = 500) -> Iterator[list[SourceRecord]]:
        """Go through all that is worth keeping, in lists of at most `count`.

        The table may be used and changed between two lists, so that saving it holds nobody up; the ages of all
        records are as of `now`, and a source that changes meanwhile may be told as it was or as it is.
        """
        start, step = 0, 4 * count
        while start < len(self._keys):
            readings = [
                (entry.second.read(now), entry.minute.read(now)) if entry else None
                for entry in self._by_number
            ]
            found: list[SourceRecord] = []
            for slot in range(start, min(start + step, len(self._keys))):
                key, number = self._keys[slot], self._owner[slot]
                reading, entry = readings[number], self._by_number[number]
                if key is None or reading is None or entry is None:
                    continue
                second, minute = self._second[slot] - reading[0], self._minute[slot] - reading[1]
                boxed_for = self._boxed_until[slot] - now
                if second > 0.0 or minute > 0.0 or boxed_for > 0.0:
                    found.append(
                        SourceRecord(entry.name, key, max(0.0, second), max(0.0, minute), max(0.0, boxed_for))
                    )
                    if len(found) == count:
                        break
            start = slot + 1
            yield found

    def restore(self, records: Iterable[SourceRecord], elapsed: float, now: float) -> int:
        """Take in records that are `elapsed` seconds old; return how many there was room for.

        Where a source is known already, the stricter of both counts; those of unknown listeners are left out.
        """
        elapsed = max(0.0, elapsed)
        taken = 0
        for record in records:
            entry = self._listeners.get(record.listener)
            if entry is None or not entry.limits.metered:
                continue
            slot = self._slot(entry, record.key, now)
            if slot < 0:
                continue
            taken += 1
            for clock, full_at, lacking in (
                (entry.second, self._second, record.second),
                (entry.minute, self._minute, record.minute),
            ):
                missing = min(lacking, clock.burst) - elapsed * clock.rate
                full_at[slot] = max(full_at[slot], clock.read(now) + missing)
            self._boxed_until[slot] = max(self._boxed_until[slot], now + record.boxed_for - elapsed)
        return taken

    def blocked(self, now: float, step: int = 4000) -> Iterator[list[BlockedSource]]:
        """Go through the sources that would be refused now, looking at `step` slots at a time.

        As with :meth:`records`, the table may be used between two lists.
        """
        for listener in list(self._listeners.values()):
            limit = listener.limits.max_concurrent
            if limit:
                yield [
                    BlockedSource(listener.name, key, Verdict.TOO_MANY_CONNECTIONS, 0.0)
                    for key, _ in self.holders.at_least(listener.name, limit)
                ]
        for start in range(0, len(self._keys), step):
            empty = [entry.empty_above(now) if entry else None for entry in self._by_number]
            found: list[BlockedSource] = []
            for slot in range(start, min(start + step, len(self._keys))):
                number, key = self._owner[slot], self._keys[slot]
                entry, above = self._by_number[number], empty[number]
                if key is None or entry is None or above is None:
                    continue
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
        try:
            return self._listeners[listener]
        except KeyError:
            raise UnknownListener(listener) from None

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
            self._owner[slot] = entry.number
            self._second[slot] = self._minute[slot] = self._boxed_until[slot] = 0.0
        else:
            slot = len(self._keys)
            self._keys.append(key)
            self._owner.append(entry.number)
            self._second.append(0.0)
            self._minute.append(0.0)
            self._boxed_until.append(0.0)
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
        key = self._keys[slot]
        entry = self._by_number[self._owner[slot]]
        if key is not None and entry is not None:
            free_at = self._boxed_until[slot]
            for clock, full_at in ((entry.second, self._second), (entry.minute, self._minute)):
                if clock.rate:
                    free_at = max(free_at, now + (full_at[slot] - clock.read(now)) / clock.rate)
            if free_at > now:
                self._file(slot, max(int(free_at), self._looked_at + 1))
                return
            del entry.index[key]
            self._keys[slot] = None
        self._free.append(slot)

    def _number(self, name: str, now: float) -> _Listener:
        """Give a listener a number that no slot in use has."""
        entry = _Listener(name, len(self._by_number), now)
        self._by_number.append(entry)
        return entry
