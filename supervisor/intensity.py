"""Restart intensity: how many restarts a group may need before it is given up."""

from __future__ import annotations

from collections import deque


class Intensity:
    """Counts restarts over a sliding period, as OTP's supervisor does: both ends of the period belong to it."""

    __slots__ = ("_limit", "_period_s", "_restarts")

    def __init__(self, limit: int, period_s: float) -> None:
        self._limit = limit
        self._period_s = period_s
        self._restarts: deque[float] = deque()

    def add(self, now: float) -> bool:
        """Count a restart that is due at `now`; return whether it is one too many and must not be made."""
        self._restarts.append(now)
        while self._restarts[0] < now - self._period_s:
            self._restarts.popleft()
        return len(self._restarts) > self._limit

    def clear(self) -> None:
        """Forget all restarts."""
        self._restarts.clear()
