"""Connections that count as open, by the process that holds them.

The count of a source is exact over all holders, and a holder that dies gives back all it held at once. Memory is
bound by the connections that are open, not by the sources that were ever seen.
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

    def acquire(self, holder: object, key: HeldKey, limit: int) -> bool:
        """Count one more connection of `key`, unless it has `limit` already."""
        count = self._open.get(key, 0)
        if count >= limit:
            return False
        self._open[key] = count + 1
        held = self._by_holder.get(holder)
        if held is None:
            held = self._by_holder[holder] = {}
        held[key] = held.get(key, 0) + 1
        return True

    def release(self, holder: object, key: HeldKey) -> bool:
        """Give one back; False when this holder has none, as after it was dropped."""
        held = self._by_holder.get(holder)
        count = 0 if held is None else held.get(key, 0)
        if held is None or not count:
            return False
        if count == 1:
            del held[key]
        else:
            held[key] = count - 1
        self._give_back(key, 1)
        return True

    def drop(self, holder: object) -> int:
        """Give back all that `holder` had, which is gone; return how many."""
        held = self._by_holder.pop(holder, {})
        for key, count in held.items():
            self._give_back(key, count)
        return sum(held.values())

    def add(self, holder: object, key: HeldKey, count: int) -> None:
        """Take a holder's word that it has `count` more open. The limits play no part: these are open."""
        self._open[key] = self._open.get(key, 0) + count
        held = self._by_holder.get(holder)
        if held is None:
            held = self._by_holder[holder] = {}
        held[key] = held.get(key, 0) + count

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

    def _give_back(self, key: HeldKey, count: int) -> None:
        left = self._open[key] - count
        if left:
            self._open[key] = left
        else:
            del self._open[key]
