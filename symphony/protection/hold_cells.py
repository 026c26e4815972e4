"""Open connections by source where every acceptor can read them.

Each acceptor counts what it holds in memory that all of them share, made before the fork: a page for each acceptor,
with a cell for each place of the source store. A source has as much open as its cells say, over all pages. Only the
owner of a page writes to it, but for the page of a process that is gone. That is found by a lock which an acceptor has
on its page for as long as it lives: whoever gets it clears the page.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence

from symphony.protection.shared_locks import SharedLocks
from symphony.protection.source_store import SOURCES, WAYS, sets_for

CELLS = sets_for(SOURCES) * WAYS
"""In a page, by default: as many as a source store has places."""

LOOK_EVERY_S = 0.05
"""How often it is looked whether an acceptor is gone, while that matters."""

_HEADER = mmap.PAGESIZE
_WORD = 4
_CLAIMED_WITHIN_S = 2.0

_owned: list[HoldCells] = []
"""Never forgotten: the C library has a list of the locks that a thread holds, and follows it into their memory."""


class HoldCells:
    """One acceptor's page."""

    __slots__ = ("_lock", "_memory", "_owner", "cells")

    def __init__(self, cells: int = CELLS) -> None:
        self._memory = mmap.mmap(-1, _HEADER + cells * _WORD)
        self._lock = SharedLocks(self._memory, 0, 1)
        self._owner = 0
        self.cells = memoryview(self._memory)[_HEADER:].cast("I")

    def claim(self) -> None:
        """Be the owner from now on, who holds nothing of what the last one held.

        Raises RuntimeError when another process is the owner.
        """
        if self._owner != os.getpid():
            deadline = time.monotonic() + _CLAIMED_WITHIN_S
            while not self._lock.take(0):
                if time.monotonic() > deadline:
                    raise RuntimeError("the page belongs to another process")
                time.sleep(0.001)  # somebody clears it
            self._owner = os.getpid()
            _owned.append(self)
        self._clear()

    def clear_if_left(self) -> bool:
        """Clear the page unless its owner lives; return whether it is clear."""
        if not self._lock.take(0):
            return False
        try:
            self._clear()
        finally:
            self._lock.give_back(0)
        return True

    def _clear(self) -> None:
        try:
            # Gives the memory back, and touches none that was never used.
            self._memory.madvise(mmap.MADV_REMOVE, _HEADER)
        except OSError:
            self._memory[_HEADER:] = bytes(len(self._memory) - _HEADER)


class Holds:
    """The pages of all acceptors, as the one with number `own` uses them."""

    __slots__ = ("_cells", "_looked_at", "_others", "_pages")

    def __init__(self, own: int, pages: Sequence[HoldCells]) -> None:
        self._cells = pages[own].cells
        self._pages = [page for at, page in enumerate(pages) if at != own]
        self._others = [page.cells for page in self._pages]
        self._looked_at = 0.0

    @property
    def size(self) -> int:
        """How many cells there are."""
        return min(map(len, (self._cells, *self._others)))

    def take(self, cell: int, limit: int, now: float) -> int:
        """Count one more, and return how many that are; 0, and it is not counted, when there are `limit` already.

        It is counted first, so that two which do this at once may both get 0, but never both be let in as the last.
        """
        own = self._cells
        own[cell] += 1
        total = self.count(cell)
        if total > limit and self._clear_the_dead(now):
            total = self.count(cell)
        if total <= limit:
            return total
        own[cell] -= 1
        return 0

    def add(self, cell: int) -> None:
        """Count one more, whatever the limit."""
        self._cells[cell] += 1

    def give_back(self, cell: int) -> None:
        """Count one less."""
        self._cells[cell] -= 1

    def count(self, cell: int) -> int:
        """How many there are over all acceptors."""
        total = int(self._cells[cell])
        for cells in self._others:
            total += cells[cell]
        return total

    def is_free(self, cell: int, now: float) -> bool:
        """Whether nobody holds anything."""
        return not self.count(cell) or (self._clear_the_dead(now) and not self.count(cell))

    def _clear_the_dead(self, now: float) -> bool:
        """Look for owners that are gone, unless it was done just now; return whether there was one."""
        if now - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = now
        cleared = [page.clear_if_left() for page in self._pages]
        return any(cleared)
