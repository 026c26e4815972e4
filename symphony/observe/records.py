"""Totals per upstream and per route in shared memory, at the place that the snapshot's numbers say.

Each acceptor has one area per kind, made before the fork: a record of fixed size per number. It alone writes there, and
everybody reads everywhere; so what all acceptors do at one upstream is one addition over the areas, without a message.
The memory is backed only where it is used.

A record bears its owner's mark. Whoever is given a number whose record bears another mark clears it first, and who
held it before counts on in memory of its own: so a number can be given on while connections of its former owner are
still open. What has no number at all counts in memory of its own from the beginning.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from symphony.config.numbering import ROUTE_CAPACITY, UPSTREAM_CAPACITY
from symphony.observe.histogram import Histogram, observe, read
from symphony.observe.timings import TimingArea

_WORD = 8
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
_TRIES = 100


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
        self._memory = mmap.mmap(-1, (_HEADER + capacity * size) * _WORD, flags=flags)
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
    return int.from_bytes(blake2b(key.encode(), digest_size=_WORD).digest(), "little") >> 1 | 1


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
            found = _read(area.words, area.at(number), area.size)
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


def _is_of(area: RecordArea, number: int, mark: int) -> bool:
    return 0 <= number < area.capacity and area.words[area.at(number) + OWNER] == mark


def _read(words: memoryview, at: int, size: int) -> Totals:
    return Totals(
        words[at + ACTIVE],
        words[at + CONNECTIONS],
        words[at + FAILURES],
        words[at + BYTES_UP],
        words[at + BYTES_DOWN],
        words[at + CONNECT_US] if size > CONNECT_US else 0,
    )


def _private(size: int) -> memoryview:
    return memoryview(bytearray(size * _WORD)).cast("q")


class Places:
    """Where this process' records are. `changes` is another number whenever one of them has moved."""

    __slots__ = ("changes",)

    def __init__(self) -> None:
        self.changes = 0


PLACES = Places()


class Record:
    """What this acceptor counts for one upstream or route. Its totals are at `words[at:]`.

    `views` has the words of all acceptors that count for it at the same place, this one's included.
    """

    __slots__ = ("__weakref__", "_times", "_times_at", "at", "key", "number", "views", "words")

    SIZE = ROUTE_WORDS

    def __init__(self, key: str) -> None:
        self.key = key
        self.number = -1
        self.at = 0
        self.words: memoryview = _private(self.SIZE)
        self.views: tuple[memoryview, ...] = (self.words,)
        self._times: memoryview = self.words
        self._times_at = -1

    def took(self, seconds: float) -> None:
        """Count how long it took, where there is a histogram."""
        if self._times_at >= 0:
            observe(self._times, self._times_at, seconds)

    @property
    def active(self) -> int:
        """Connections open now, over all acceptors."""
        at = self.at
        return sum(view[at] for view in self.views)

    def said(self, word: int) -> list[int]:
        """What stands at `word` in the records of all acceptors that count for the same owner, this one's included."""
        at = self.at
        owner = self.words[at + OWNER]
        return [view[at + word] for view in self.views if view[at + OWNER] == owner]

    @property
    def totals(self) -> Totals:
        """All that this acceptor alone has counted."""
        return _read(self.words, self.at, self.SIZE)

    def take(self, area: RecordArea, views: tuple[memoryview, ...], number: int) -> None:
        """Count at `number` from now on; what was counted elsewhere comes along."""
        at = area.claim(number, owner_mark(self.key))
        self._move(area.words, at)
        if self.number >= 0:
            area.timings.move(self.number, area.timings, number)
        self._times, self._times_at = area.timings.words, area.timings.at(number)
        self.number = number
        self.views = views

    def make_private(self) -> None:
        """Count in memory of its own from now on: the number goes to another owner."""
        self._move(_private(self.SIZE), 0)
        self._times_at = -1
        self.number = -1
        self.views = (self.words,)

    def _move(self, words: memoryview, at: int) -> None:
        """Add what is counted here to what stands at `at`: after a restart of this process, that is something."""
        old, old_at = self.words, self.at
        for word in range(self.SIZE):
            if word != OWNER:
                mine, there = old[old_at + word], words[at + word]
                words[at + word] = mine + there if word < TALLY else max(mine, there)
                old[old_at + word] = 0
        self.words, self.at = words, at
        PLACES.changes += 1


class RouteRecord(Record):
    """A route's record: connections from the moment on in which their route was known."""

    __slots__ = ()

    def opened(self) -> None:
        """A connection has asked for this route."""
        words, at = self.words, self.at
        words[at] += 1
        words[at + CONNECTIONS] += 1

    def closed(self, up: int, down: int, failed: bool) -> None:
        """A connection is over, for better or worse, with so many bytes moved."""
        words, at = self.words, self.at
        words[at] -= 1
        if failed:
            words[at + FAILURES] += 1
        if up or down:
            words[at + BYTES_UP] += up
            words[at + BYTES_DOWN] += down


R = TypeVar("R", bound=Record)


class RecordBook(Generic[R]):
    """All records of one kind that this acceptor counts in, one per key. A record that nobody holds is forgotten."""

    def __init__(
        self, make: Callable[[str], R], areas: Sequence[RecordArea] = (), own: RecordArea | None = None
    ) -> None:
        """`areas` are those of all acceptors, and `own` is one of them; without, all records are private."""
        self._make = make
        self._views = tuple(area.words for area in areas)
        self._own = own
        self._by_key: WeakValueDictionary[str, R] = WeakValueDictionary()
        self._by_number: WeakValueDictionary[int, R] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[R]:
        return iter(list(self._by_key.values()))

    def at_number(self, number: int) -> R | None:
        """The record that has `number`, if this acceptor counts for it."""
        return self._by_number.get(number)

    def record(self, key: str, number: int = -1) -> R:
        """Return the record of `key`, the same one for as long as somebody holds it. -1 changes no number."""
        record = self._by_key.get(key)
        if record is None:
            record = self._by_key[key] = self._make(key)
        own = self._own
        if own is not None and 0 <= number < own.capacity and number != record.number:
            former = self._by_number.get(number)
            if former is not None:
                former.make_private()
            if record.number >= 0:
                self._by_number.pop(record.number, None)
            record.take(own, self._views, number)
            self._by_number[number] = record
        return record
