"""Open connections by source where every acceptor can read them, for when the limiter cannot be asked.

The limiter knows exactly who has how much open. While it is away, or does not yet know all that acceptors hold, a limit
on connections open at once must hold all the same. So each acceptor also counts what it holds in memory that all of
them share, made before the fork, one page for each. A page has no keys: a source is counted in two cells, chosen by
its hash, and has at most as much open as the emptier of the two says over all pages. That may be too much when others
share both cells, and is never too little. Each acceptor counts before it looks, so that two which decide at once may
both refuse, but never both let in one that is too many.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

CELLS = 1 << 17
"""In each of the two rows. With 10,000 sources open, one in 150 shares both its cells with others."""

_MASK = CELLS - 1
_HEADER = 16
_WORD = 4


class HoldCells:
    """One acceptor's page. `times` holds the time up to which it may have decided alone."""

    __slots__ = ("_memory", "cells", "times")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _HEADER + 2 * CELLS * _WORD)
        whole = memoryview(self._memory)
        self.times = whole[:8].cast("d")
        self.cells = whole[_HEADER:].cast("I")

    def clear(self) -> None:
        """Forget all: a new incarnation holds nothing of the old one."""
        try:
            self._memory.madvise(
                mmap.MADV_REMOVE
            )  # gives the memory back, and touches none that was never used
        except OSError:
            self._memory[:] = bytes(len(self._memory))


class SharedHolds:
    """The pages of all acceptors, as the one with number `own` uses them.

    Hashes are the same in all processes, since they are forked from one.
    """

    __slots__ = ("_cells", "_own_times", "_pages", "_times")

    def __init__(self, own: int, pages: Sequence[HoldCells]) -> None:
        self._pages = [page.cells for page in pages]
        self._times = [page.times for page in pages]
        self._cells = self._pages[own]
        self._own_times = pages[own].times

    def take(self, listener: str, key: bytes) -> None:
        """Count one more connection of a source."""
        mixed = hash((listener, key))
        self._cells[mixed & _MASK] += 1
        self._cells[CELLS + (mixed >> 20 & _MASK)] += 1

    def give_back(self, listener: str, key: bytes) -> None:
        """Count one less."""
        mixed = hash((listener, key))
        self._cells[mixed & _MASK] -= 1
        self._cells[CELLS + (mixed >> 20 & _MASK)] -= 1

    def count(self, listener: str, key: bytes) -> int:
        """How many connections a source has open over all acceptors, or more."""
        mixed = hash((listener, key))
        first, second = mixed & _MASK, CELLS + (mixed >> 20 & _MASK)
        return min(sum([page[first] for page in self._pages]), sum([page[second] for page in self._pages]))

    def doubt_until(self, time: float) -> None:
        """Let all acceptors know that the limiter may lack some of what this one holds, up to `time`."""
        self._own_times[0] = time

    def in_doubt(self, now: float) -> bool:
        """Whether the limiter may lack something that an acceptor holds."""
        return max([times[0] for times in self._times]) > now
