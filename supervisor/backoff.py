"""Exponential back-off between the restarts of one child."""

from __future__ import annotations

from supervisor.spec import BackoffSpec


class Backoff:
    """Gives the delay of each restart in turn: 0, `first_s`, then twice the one before, `limit_s` at most."""

    __slots__ = ("_failures", "_spec")

    def __init__(self, spec: BackoffSpec) -> None:
        self._spec = spec
        self._failures = 0

    def next_delay(self, up_s: float) -> float:
        """Return the seconds to wait before restarting a child that had been ready for `up_s` seconds."""
        if up_s >= self._spec.reset_after_s:
            self._failures = 0
        delay = 0.0
        if self._failures:
            # The exponent is capped so that a child failing for weeks does not overflow a float.
            delay = min(self._spec.first_s * 2.0 ** min(self._failures - 1, 60), self._spec.limit_s)
        self._failures += 1
        return delay

    def clear(self) -> None:
        """Forget all failures."""
        self._failures = 0
