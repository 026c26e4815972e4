"""Totals per upstream and per route in shared memory, at the place that the snapshot's numbers say.

Each acceptor has one area per kind, made before the fork: a record of fixed size per number. It alone writes there, and
everybody reads everywhere; so what all acceptors do at one upstream is one addition over the areas, without a message.
The memory is backed only where it is used. A record bears its owner's mark.
"""

from __future__ import annotations

import mmap
from hashlib import blake2b

from symphony.config.numbering import ROUTE_CAPACITY, UPSTREAM_CAPACITY
from symphony.observe.timings import TimingArea

WORD = 8
"""Bytes in a word, of which records are made."""
_NORESERVE = 0x4000  # MAP_NORESERVE of mmap(2): address space alone is not to count as memory in use

ACTIVE = 0
OWNER = 1
CONNECTIONS = 2
FAILURES = 3
BYTES_UP = 4
BYTES_DOWN = 5
CONNECT_US = 6
"""Upstreams only, from here on: what connecting took, added up, in microseconds."""
TALLY = 7
STATEMENT = 8
CHECK = 9
CHECKING = 10
"""What this acceptor says of the upstream's health (:mod:`symphony.routing.health`), and since when it checks it."""

ROUTE_WORDS = 6
UPSTREAM_WORDS = 11

_HIGHEST = 0
_CHANGES = 1
_CHANGED = 2
CHANGES_KEPT = 62
_MOVES = _CHANGED + CHANGES_KEPT
_HEADER = _MOVES + 1


class RecordArea:
    """One acceptor's records of one kind. Before them, `words` has which numbers were used, and which changed last.

    Beside them are `timings`, of the same owners.
    """

    __slots__ = ("_memory", "capacity", "size", "timings", "words")

    def __init__(self, size: int, capacity: int) -> None:
        """`size` is that of a record in words, and `capacity` how many there are."""
        self.size = size
        self.capacity = capacity
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE
        self._memory = mmap.mmap(-1, (_HEADER + capacity * size) * WORD, flags=flags)
        self.words: memoryview = memoryview(self._memory).cast("q")
        self.timings = TimingArea()

    def at(self, number: int) -> int:
        """Where the record of `number` begins."""
        return _HEADER + number * self.size

    def is_used(self, number: int) -> bool:
        """Whether anything stands in the record of `number`, whoever it belongs to."""
        if not 0 <= number < self.capacity:
            return False
        words, at = self.words, self.at(number)
        return bool(words[at + CONNECTIONS] or words[at + FAILURES] or words[at + ACTIVE])

    def claim(self, number: int, owner: int) -> int:
        """Return where the record of `number` begins, cleared unless it is the record of `owner` already."""
        words, at = self.words, self.at(number)
        former = words[at + OWNER]
        if former != owner:
            for word in range(at, at + self.size):
                words[word] = 0
            if former:
                self.timings.clear(number)
            words[at + OWNER] = owner
        if number >= words[_HIGHEST]:
            words[_HIGHEST] = number + 1
        return at

    def announce(self, number: int) -> None:
        """Let the others know that there is news in the record of `number`."""
        words = self.words
        count = words[_CHANGES]
        words[_CHANGED + count % CHANGES_KEPT] = number
        words[_CHANGES] = count + 1

    @property
    def changes(self) -> int:
        """How often there has been news."""
        count: int = self.words[_CHANGES]
        return count

    def changed_since(self, seen: int) -> list[int] | None:
        """The numbers that there was news of since :attr:`changes` was `seen`; None when there are too many to tell."""
        count = self.changes
        if count - seen > CHANGES_KEPT:
            return None
        words = self.words
        return [words[_CHANGED + change % CHANGES_KEPT] for change in range(seen, count)]

    def forget_active(self) -> None:
        """Set the gauges to zero: a new incarnation holds no connection of the old one."""
        for number in range(self.words[_HIGHEST]):
            self.words[self.at(number) + ACTIVE] = 0

    def take_over(self, other: RecordArea) -> None:
        """Add all that was counted in `other`, an area of the same kind, whose process is gone, and clear it there.

        So whoever reads both finds everything once, but for the moment in which a record is moved: :attr:`moves` is odd
        then, and another number afterwards.
        """
        words = self.words
        for number in range(other.words[_HIGHEST]):
            start = other.at(number)
            record = other.words[start : start + other.size].tolist()
            if record[OWNER]:
                words[_MOVES] += 1
                at = self.claim(number, record[OWNER])
                for word in range(CONNECTIONS, min(self.size, TALLY)):
                    words[at + word] += record[word]
                other.timings.move(number, self.timings, number)
                for word in range(start, start + other.size):
                    other.words[word] = 0
                words[_MOVES] += 1

    @property
    def moves(self) -> int:
        """Twice as many as the records that were taken over, and one more while one is."""
        count: int = self.words[_MOVES]
        return count


def upstream_area() -> RecordArea:
    """An acceptor's records of upstreams."""
    return RecordArea(UPSTREAM_WORDS, UPSTREAM_CAPACITY)


def route_area() -> RecordArea:
    """An acceptor's records of routes."""
    return RecordArea(ROUTE_WORDS, ROUTE_CAPACITY)


def owner_mark(key: str) -> int:
    """The mark of an upstream's label or a route's name: never 0, which is nobody's."""
    return int.from_bytes(blake2b(key.encode(), digest_size=WORD).digest(), "little") >> 1 | 1
