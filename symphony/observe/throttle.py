"""A bound on how often something is told, so that a flood of failures is not also a flood of lines."""

from __future__ import annotations

import time


class Throttle:
    """Lets through at most `per_second` events in each second, and says how many it left out."""

    __slots__ = ("_left_out", "_per_second", "_second", "_spent")

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._second = 0
        self._spent = 0
        self._left_out = 0

    def allow(self) -> int | None:
        """None when this event is to be left out, else how many were left out since the last one let through."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._spent = 0
        if self._spent >= self._per_second:
            self._left_out += 1
            return None
        self._spent += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
