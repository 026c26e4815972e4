"""The numbers of a source table in memory that is made before the fork, and so outlives the process that writes them.

A limiter that is killed has lost nothing by it: its successor finds every bucket and every penalty as they were at
the last decision, with no file and no copy made meanwhile. There is one writer at a time. Every number is one aligned
store of eight bytes, and a slot is marked as used after it is filled and as free before it is, so that a process which
dies half-way through leaves a table that can be read.
"""

from __future__ import annotations

import mmap

MAX_LISTENERS = 1024
LONGEST_NAME = 510
LONGEST_KEY = 16
_NAME_SIZE = 512
_KEY_SIZE = 1 + LONGEST_KEY
_CLOCK_NUMBERS = 4
_WORD = 8


class SourceStore:
    """Room for `capacity` sources of up to :data:`MAX_LISTENERS` listeners; memory is used as they come.

    By slot: `full_second` and `full_minute` are clock readings, `boxed_until` a time, `owner` the number of the
    listener plus one, or 0 for a slot that is free. `used` slots have ever been in use.
    """

    __slots__ = (
        "_clocks",
        "_counts",
        "_keys",
        "_memory",
        "_names",
        "boxed_until",
        "capacity",
        "full_minute",
        "full_second",
        "owner",
    )

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("a source table needs room for one source")
        self.capacity = capacity
        counts = 2 * _WORD
        clocks = MAX_LISTENERS * 2 * _CLOCK_NUMBERS * _WORD
        names = MAX_LISTENERS * _NAME_SIZE
        column = capacity * _WORD
        sizes = (
            counts,
            clocks,
            names,
            column,
            column,
            column,
            (capacity + 1) // 2 * _WORD,
            capacity * _KEY_SIZE,
        )
        self._memory = mmap.mmap(-1, sum(sizes))
        parts: list[memoryview] = []
        whole, at = memoryview(self._memory), 0
        for size in sizes:
            parts.append(whole[at : at + size])
            at += size
        self._counts = parts[0].cast("Q")
        self._clocks = parts[1].cast("d")
        self._names = parts[2]
        self.full_second = parts[3].cast("d")
        self.full_minute = parts[4].cast("d")
        self.boxed_until = parts[5].cast("d")
        self.owner = parts[6].cast("I")
        self._keys = parts[7]

    @property
    def used(self) -> int:
        """How many slots have ever been used; those from here on are untouched."""
        return int(self._counts[0])

    def fill(self, slot: int, key: bytes, number: int) -> None:
        """Begin a source of listener `number` in a free slot, with full buckets."""
        if slot >= self._counts[0]:
            self._counts[0] = slot + 1
        self.full_second[slot] = self.full_minute[slot] = self.boxed_until[slot] = 0.0
        at = slot * _KEY_SIZE
        self._keys[at : at + 1 + len(key)] = bytes((len(key),)) + key
        self.owner[slot] = number + 1

    def key(self, slot: int) -> bytes:
        """The key of a used slot."""
        at = slot * _KEY_SIZE
        return bytes(self._keys[at + 1 : at + 1 + min(self._keys[at], LONGEST_KEY)])

    def names(self) -> list[str]:
        """The listeners' names, by number."""
        found = []
        for number in range(min(int(self._counts[1]), MAX_LISTENERS)):
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
        if number >= self._counts[1]:
            self._counts[1] = number + 1

    def clock(self, number: int, which: int) -> tuple[float, float, float, float]:
        """What :meth:`keep_clock` kept of clock `which` (0 or 1) of a listener."""
        at = (number * 2 + which) * _CLOCK_NUMBERS
        rate, burst, reading, since = self._clocks[at : at + _CLOCK_NUMBERS]
        return rate, burst, reading, since

    def keep_clock(self, number: int, which: int, numbers: tuple[float, float, float, float]) -> None:
        """Keep a clock's rate, burst, reading, and the time of that reading."""
        at = (number * 2 + which) * _CLOCK_NUMBERS
        for index, value in enumerate(numbers):
            self._clocks[at + index] = value
