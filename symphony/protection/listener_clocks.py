"""What the buckets of a listener's sources are filled by."""

from __future__ import annotations

from symphony.protection.penalty import TokenClock
from symphony.protection.source_store import SourceStore


class ListenerClocks:
    """The clocks of a listener's buckets, as they stand in the store."""

    __slots__ = ("_store", "minute", "number", "second", "state")

    def __init__(self, store: SourceStore, number: int) -> None:
        self._store = store
        self.number = number
        self.state = 0
        self.second = TokenClock(0.0)
        self.minute = TokenClock(0.0)
        self.refresh()

    def refresh(self) -> None:
        """Take over what another process has made of them."""
        state = int(self._store.states[self.number])
        if state != self.state:
            second, minute = self._store.clocks(self.number)
            self.second.restore(second)
            self.minute.restore(minute)
            self.state = state
