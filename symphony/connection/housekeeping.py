"""When an acceptor collects garbage: at times of its own, never in the middle of a burst.

Connections are freed by their reference counts; cycles are rare. The automatic collector would still walk through all
young objects again and again as connections come (3 to 4 % of the data path). So it is off, what exists at the start is
frozen, and the young generations are looked through by the clock.
"""

from __future__ import annotations

import asyncio
import gc

YOUNG_EVERY_S = 1.0
MIDDLE_EVERY = 30
"""After so many looks at the youngest generation the next older one is looked through too."""


class GarbageClock:
    """Collects by the clock while it runs. One per process, since the collector is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn = 0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take the collector over."""
        gc.collect()
        gc.freeze()
        gc.disable()
        self._handle = self._loop.call_later(YOUNG_EVERY_S, self._tick)

    def stop(self) -> None:
        """Give the collector back."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            gc.enable()

    def _tick(self) -> None:
        self._turn += 1
        gc.collect(1 if self._turn % MIDDLE_EVERY == 0 else 0)
        self._handle = self._loop.call_later(YOUNG_EVERY_S, self._tick)
