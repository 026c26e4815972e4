"""Which listening sockets an acceptor serves besides its own.

With SO_REUSEPORT the kernel goes on giving the socket of an acceptor that is gone its share of new connections. All
acceptors hold all sockets, so while one is down its next live neighbour, counted upwards and around, serves its
sockets. Every acceptor hears of every death and so comes to the same answer alone.
"""

from __future__ import annotations

ADOPT_AFTER_S = 0.15
"""How long a successor may take before a neighbour steps in; well under the 200 ms that clients may have to wait."""


class Neighbourhood:
    """The acceptors 0 to `count` - 1, as number `own` sees them."""

    def __init__(self, own: int, count: int) -> None:
        self._own = own
        self._count = count
        self._down: set[int] = set()

    def mark_down(self, index: int) -> None:
        """Acceptor `index` is gone."""
        if index != self._own:
            self._down.add(index)

    def mark_up(self, index: int) -> None:
        """Acceptor `index` serves its sockets again."""
        self._down.discard(index)

    def duties(self) -> frozenset[int]:
        """The acceptors that are down and whose next live neighbour is this one."""
        return frozenset(index for index in self._down if self._heir(index) == self._own)

    def _heir(self, index: int) -> int:
        for step in range(1, self._count):
            candidate = (index + step) % self._count
            if candidate not in self._down:
                return candidate
        return self._own
