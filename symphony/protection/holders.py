"""Connections that count as open, by the process that holds them.

It is what the holders have told, and a holder that dies has told nothing. Memory is bound by the connections that are
open, not by the sources that were ever seen.
"""

from __future__ import annotations

HeldKey = tuple[str, bytes]
"""A listener and a source key."""


class Holders:
    """How many connections each source has open, and who holds them. A holder is anything that can be hashed."""

    __slots__ = ("_by_holder", "_open")

    def __init__(self) -> None:
        self._open: dict[HeldKey, int] = {}
        self._by_holder: dict[object, dict[HeldKey, int]] = {}

    def __len__(self) -> int:
        return sum(self._open.values())

    def put(self, holder: object, key: HeldKey, count: int) -> None:
        """Take a holder's word that it has `count` open."""
        held = self._by_holder.setdefault(holder, {})
        total = self._open.get(key, 0) - held.pop(key, 0) + count
        if count:
            held[key] = count
        if total:
            self._open[key] = total
        else:
            self._open.pop(key, None)

    def drop(self, holder: object) -> int:
        """Give back all that `holder` had, which is gone; return how many."""
        held = self._by_holder.pop(holder, {})
        for key, count in held.items():
            left = self._open[key] - count
            if left:
                self._open[key] = left
            else:
                del self._open[key]
        return sum(held.values())

    def count(self, key: HeldKey) -> int:
        """How many connections a source has open."""
        return self._open.get(key, 0)

    def at_least(self, listener: str, limit: int) -> list[tuple[bytes, int]]:
        """The sources of a listener with `limit` connections open or more, and how many they have."""
        return [
            (source, count)
            for (owner, source), count in self._open.items()
            if owner == listener and count >= limit
        ]
