"""What this process counts for upstreams and routes.

Whoever is given a number whose record bears another mark clears it first, and who held it before counts on in memory of
its own: so a number can be given on while connections of its former owner are still open. What has no number at all
counts in memory of its own from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from symphony.observe.histogram import observe
from symphony.observe.record_area import (
    BYTES_DOWN,
    BYTES_UP,
    CONNECTIONS,
    FAILURES,
    OWNER,
    ROUTE_WORDS,
    TALLY,
    WORD,
    RecordArea,
    owner_mark,
)
from symphony.observe.record_totals import Totals, read_totals


def _private(size: int) -> memoryview:
    return memoryview(bytearray(size * WORD)).cast("q")


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
        return read_totals(self.words, self.at, self.SIZE)

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
