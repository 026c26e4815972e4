"""Totals in shared memory: one page per acceptor, made before the fork.

An acceptor adds to its own page; every process of the tree can read every page. So totals survive a SIGKILL to the
last unit, nobody has to ask a busy process for them, and no total ever goes back. Each slot is one aligned 64-bit
integer with one writer, which is all the synchronisation that x86-64 and AArch64 need for that.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from symphony.observe.reasons import BLOCKED, Reason
from symphony.observe.records import route_area, upstream_area

_WORD = 8

ACCEPTED = 0
ACTIVE = 1
BYTES_UP = 2
BYTES_DOWN = 3
HANDSHAKES = 4
RESUMED = 5
_FIRST_REASON = 6
_FIRST_LISTENER = _FIRST_REASON + len(Reason)
_FIRST_BLOCKED = 2
_PER_LISTENER = _FIRST_BLOCKED + len(BLOCKED)

REASON_SLOT: dict[Reason, int] = {reason: _FIRST_REASON + at for at, reason in enumerate(Reason)}
BLOCKED_SLOT: dict[Reason, int] = {reason: _FIRST_BLOCKED + at for at, reason in enumerate(BLOCKED)}
"""Where a listener counts a refusal, beginning at its own slot."""


class CounterPage:
    """One acceptor's totals. `values` is the page itself, indexed by the constants of this module.

    Beside it are the acceptor's `upstreams` and `routes` (:mod:`symphony.observe.records`).
    """

    __slots__ = ("_listener_slots", "_memory", "routes", "upstreams", "values")

    def __init__(self, listener_ids: Sequence[str]) -> None:
        self._listener_slots = {
            listener_id: _FIRST_LISTENER + at * _PER_LISTENER for at, listener_id in enumerate(listener_ids)
        }
        words = _FIRST_LISTENER + len(listener_ids) * _PER_LISTENER
        self._memory = mmap.mmap(-1, words * _WORD)
        self.values: memoryview = memoryview(self._memory).cast("q")
        self.upstreams = upstream_area()
        self.routes = route_area()

    def listener_slot(self, listener_id: str) -> int:
        """The first slot of a listener: its accepted connections, then its active ones, then :data:`BLOCKED_SLOT`."""
        return self._listener_slots[listener_id]

    def forget_active(self) -> None:
        """Set the gauges to zero: a new incarnation holds no connection of the old one."""
        self.values[ACTIVE] = 0
        for slot in self._listener_slots.values():
            self.values[slot + 1] = 0
        self.upstreams.forget_active()
        self.routes.forget_active()

    def errors(self) -> dict[str, int]:
        """How many connections each reason ended; reasons that never did are left out."""
        values = self.values
        return {reason.value: values[slot] for reason, slot in REASON_SLOT.items() if values[slot]}

    def blocked(self, listener_slot: int) -> dict[str, int]:
        """How many connections a listener refused, by reason; reasons that never were are left out."""
        values = self.values
        return {
            reason.value: values[listener_slot + at]
            for reason, at in BLOCKED_SLOT.items()
            if values[listener_slot + at]
        }
