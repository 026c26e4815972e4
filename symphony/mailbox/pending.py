"""Requests that have been sent and not answered yet.

Theory: every request has an id in one table of callbacks; whatever ends the request (reply, deadline, loss of the
connection) takes it out of the table, and what is not in the table is not answered a second time. Deadlines cost no
timer each: a request is noted under the 2 ms tick in which it becomes late, and one timer, which runs only while
requests are pending, goes through the ticks in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

TICKS_PER_S = 500
_TICK_S = 1 / TICKS_PER_S

Callback = Callable[[Any], None]


class PendingRequests:
    """The requests of one connection; `end(callback)` is called for each that is late or given up.

    `take` takes a request out, as its reply comes: with its id and None, it returns its callback, or None for one
    that is not there any more.
    """

    __slots__ = ("_by_id", "_due", "_end", "_loop", "_swept", "_timer", "take")

    def __init__(self, end: Callable[[Callback], None]) -> None:
        self._end = end
        self._loop: asyncio.AbstractEventLoop
        self._by_id: dict[int, Callback] = {}
        self.take = self._by_id.pop  # as it is: once for each reply
        self._due: dict[int, list[int]] = {}
        self._swept = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self, loop: asyncio.AbstractEventLoop, id: int, callback: Callback, now: float, deadline: float
    ) -> None:
        """Note a request; `now` and `deadline` are of :func:`time.monotonic`."""
        self._by_id[id] = callback
        if self._timer is None:
            self._loop = loop
            self._swept = int(now * TICKS_PER_S)
            self._timer = loop.call_later(_TICK_S, self._sweep)
        tick = max(int(deadline * TICKS_PER_S), self._swept) + 1
        due = self._due.get(tick)
        if due is None:
            self._due[tick] = [id]
        else:
            due.append(id)

    def end_all(self) -> None:
        """Give up everything."""
        given_up = list(self._by_id.values())
        self._by_id.clear()
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for callback in given_up:
            self._end(callback)

    def _sweep(self) -> None:
        """End what has become late, in the order of its ticks."""
        now = int(time.monotonic() * TICKS_PER_S)
        while self._swept < now and self._due:
            self._swept += 1
            for id in self._due.pop(self._swept, ()):
                callback = self._by_id.pop(id, None)
                if callback is not None:
                    self._end(callback)
        self._swept = max(self._swept, now)
        if self._by_id:
            self._timer = self._loop.call_later(_TICK_S, self._sweep)
        else:
            self._due.clear()
            self._timer = None
