"""What is known of sources, in memory that all acceptors share: it is made before the fork and outlives each of them.

A source has its place in one of many sets, chosen by its hash, each of which fills a page of memory. Whoever decides
about a source holds the lock of its set (sets share a few). A process that dies while it holds one has lost nothing
and broken nothing: every number is one aligned store of eight bytes, a place is marked as used after it is filled and
as free before it is, and a listener's clocks are written beside those in use, before one store makes them valid.

With twice as many places as sources that are asked for, a set runs full for one source in a billion.

Hashes are the same in all processes, since they are forked from one; and nobody else can know them, so that nobody can
choose addresses which meet in one set.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from symphony.host.shared_memory import attach, share
from symphony.protection.shared_locks import LOCK_SIZE, SharedLocks

SOURCES = 1_000_000
"""How many sources are remembered at most, some 100 bytes each."""

MAX_LISTENERS = 1024
LONGEST_NAME = 510
LONGEST_KEY = 16
WAYS = 85
"""How many sources a set has places for."""

_LAYOUT = "sets of 85, 1"
"""Raised when anything about it changes that :func:`symphony.protection.inheritance.inherit` reads."""
_MEAN = 42
_PAGE = 4096
_WORD = 8
_LOCKS = 64
_NAME_SIZE = 512
_CLOCK_NUMBERS = 4
_CLOCKS = 2
_HALF = _CLOCK_NUMBERS * _CLOCKS

# A set, in words: its heads, the numbers of each place, the keys of two words each.
SET_WORDS = _PAGE // _WORD
SECOND = WAYS
MINUTE = 2 * WAYS
BOXED = 3 * WAYS
_KEYS = 4 * WAYS

# A head: the listener's number plus one, the key's length, a part of the hash, and a bit that is always set.
_NUMBER_MASK = 0x7FF
_LENGTH_SHIFT = 11
_LENGTH_MASK = 0x1F
_HASH_MASK = 0x7FFF_FFFF_FFFF_0000
_USED = 1 << 63
_FREE = bytes(_WORD)

ClockNumbers = tuple[float, float, float, float]
"""A clock's rate, burst, reading, and the time of that reading."""

assert max(_NUMBER_MASK - 1, 0) >= MAX_LISTENERS and _KEYS + 2 * WAYS <= SET_WORDS


def sets_for(capacity: int) -> int:
    """How many sets make a store for so many sources."""
    return 1 if capacity <= WAYS else -(-capacity // _MEAN)


class SourceStore:
    """Room for about `capacity` sources of up to :data:`MAX_LISTENERS` listeners; memory is used as they come.

    `words` and `numbers` are the same memory, as heads and as numbers. The head of a source is at its `place`; the
    clock readings at which its buckets are full are at `place` + :data:`SECOND` and :data:`MINUTE`, and the time up to
    which it is in the box is at `place` + :data:`BOXED`. `states` has a number for each listener that changes whenever
    its clocks do. `layout` says how the memory of `descriptor` is to be read.
    """

    __slots__ = (
        "_clocks",
        "_counts",
        "_end",
        "_memory",
        "_names",
        "_span",
        "_table",
        "_touched",
        "capacity",
        "descriptor",
        "layout",
        "locks",
        "numbers",
        "sets",
        "states",
        "ways",
        "words",
    )

    def __init__(self, capacity: int = SOURCES, descriptor: int = -1) -> None:
        """`descriptor` is that of another instance's store, to be read and not written; it is taken over.

        Raises :class:`UnusableMemory`.
        """
        if capacity < 1:
            raise ValueError("a source table needs room for one source")
        self.capacity = capacity
        self.sets = sets_for(capacity)
        self.ways = min(capacity, WAYS)
        locks = _LOCKS * LOCK_SIZE
        counts = _WORD
        states = MAX_LISTENERS * _WORD
        clocks = MAX_LISTENERS * 2 * _HALF * _WORD
        names = MAX_LISTENERS * _NAME_SIZE
        before = locks + counts + states + clocks + names + self.sets
        self._table = -(-before // _PAGE) * _PAGE
        size = self._table + self.sets * _PAGE
        self.layout = f"{_LAYOUT} {capacity}"
        if descriptor < 0:
            self._memory, self.descriptor = share("symphony-sources", size)
            self.locks = SharedLocks(self._memory, 0, _LOCKS)
        else:
            self._memory, self.descriptor = attach(descriptor, size)
        whole, at = memoryview(self._memory), locks
        parts: list[memoryview] = []
        for size in (counts, states, clocks, names, self.sets):
            parts.append(whole[at : at + size])
            at += size
        self._counts = parts[0].cast("Q")
        self.states = parts[1].cast("Q")
        self._clocks = parts[2].cast("d")
        self._names = parts[3]
        self._touched = parts[4]
        self.words = whole[self._table :].cast("Q")
        self.numbers = whole[self._table :].cast("d")
        self._span = self.ways * _WORD

    @property
    def cells(self) -> int:
        """How many cells :meth:`cell` chooses from."""
        return self.sets * WAYS

    def find(self, number: int, key: bytes, mixed: int) -> int:
        """Return the place of a source of listener `number`, -1 when there is none. `mixed` is its hash."""
        memory = self._memory
        base = self._table + mixed % self.sets * _PAGE
        end = base + self._span
        head = _head(number, key, mixed).to_bytes(_WORD, sys.byteorder)
        at = memory.find(head, base, end)
        while at >= 0:
            if not at & 7:
                key_at = base + _KEYS * _WORD + ((at - base) << 1)
                if memory[key_at : key_at + LONGEST_KEY] == key.ljust(LONGEST_KEY, b"\0"):
                    return (at - self._table) >> 3
            at = memory.find(head, at + 1, end)
        return -1

    def free_place(self, mixed: int) -> int:
        """Return a place in the set of a hash where no source is, -1 when there is none."""
        base = self._table + mixed % self.sets * _PAGE
        end = base + self._span
        at = self._memory.find(_FREE, base, end)
        while at & 7 and at >= 0:  # zeros across two heads
            at = self._memory.find(_FREE, (at | 7) + 1, end)
        return -1 if at < 0 else (at - self._table) >> 3

    def fill(self, place: int, number: int, key: bytes, mixed: int) -> None:
        """Begin a source of listener `number`, with full buckets, where there is none."""
        numbers = self.numbers
        numbers[place + SECOND] = numbers[place + MINUTE] = numbers[place + BOXED] = 0.0
        way = place % SET_WORDS
        at = self._table + (place - way + _KEYS + 2 * way) * _WORD
        self._memory[at : at + LONGEST_KEY] = key.ljust(LONGEST_KEY, b"\0")
        self._touched[place // SET_WORDS] = 1
        self.words[place] = _head(number, key, mixed)

    def free(self, place: int) -> None:
        """Forget the source at `place`."""
        self.words[place] = 0

    def owner(self, place: int) -> int:
        """The number of the listener whose source is at `place`, -1 where there is none."""
        return (self.words[place] & _NUMBER_MASK) - 1

    def key(self, place: int) -> bytes:
        """The key of the source at `place`."""
        length = self.words[place] >> _LENGTH_SHIFT & _LENGTH_MASK
        way = place % SET_WORDS
        at = self._table + (place - way + _KEYS + 2 * way) * _WORD
        return self._memory[at : at + min(length, LONGEST_KEY)]

    def cell(self, place: int) -> int:
        """A number from 0 for each place, with none left out."""
        return (place >> 9) * WAYS + (place & 511)

    def lock_of(self, mixed: int) -> int:
        """Which of the locks guards the source with that hash."""
        return mixed % self.sets % _LOCKS

    def places(self, mixed: int) -> range:
        """All places in the set of a hash."""
        base = mixed % self.sets * SET_WORDS
        return range(base, base + self.ways)

    def used(self, step: int = 100) -> Iterator[list[int]]:
        """Go through the places of all sources, `step` sets at a time. The store may change meanwhile."""
        found: list[int] = []
        seen = 0
        for index in range(self.sets):
            if self._touched[index]:
                base = index * SET_WORDS
                found += [place for place in range(base, base + self.ways) if self.words[place]]
                seen += 1
                if seen % step == 0:
                    yield found
                    found = []
        yield found

    def names(self) -> list[str]:
        """The listeners' names, by number."""
        found = []
        for number in range(min(int(self._counts[0]), MAX_LISTENERS)):
            at = number * _NAME_SIZE
            size = int.from_bytes(self._names[at : at + 2], "big")
            found.append(bytes(self._names[at + 2 : at + 2 + size]).decode("utf-8", "replace"))
        return found

    def name(self, number: int, name: str) -> None:
        """Give `number` a name. Raises ValueError for one that is too long or for too many listeners."""
        data = name.encode()
        if number >= MAX_LISTENERS or len(data) > LONGEST_NAME:
            raise ValueError(f"no room for listener {number} in the source table, or its name is too long")
        at = number * _NAME_SIZE
        self._names[at : at + 2 + len(data)] = len(data).to_bytes(2, "big") + data
        if number >= self._counts[0]:
            self._counts[0] = number + 1

    def clocks(self, number: int) -> tuple[ClockNumbers, ClockNumbers]:
        """The clocks of a listener, that of a second and that of a minute; all zero before :meth:`keep_clocks`."""
        at = (number * 2 + (self.states[number] & 1)) * _HALF
        a, b, c, d, e, f, g, h = self._clocks[at : at + _HALF]
        return (a, b, c, d), (e, f, g, h)

    def version(self, number: int) -> int:
        """Of which version a listener's clocks are."""
        return int(self.states[number]) >> 1

    def keep_clocks(self, number: int, second: ClockNumbers, minute: ClockNumbers, version: int) -> None:
        """Put other clocks of a listener in the place of those in use."""
        half = (self.states[number] & 1) ^ 1
        at = (number * 2 + half) * _HALF
        for index, value in enumerate(second + minute):
            self._clocks[at + index] = value
        self.states[number] = version << 1 | half


def _head(number: int, key: bytes, mixed: int) -> int:
    return mixed & _HASH_MASK | len(key) << _LENGTH_SHIFT | (number + 1) | _USED
