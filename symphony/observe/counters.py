"""Totals in shared memory: one page per acceptor, made before the fork.

An acceptor adds to its own page; every process of the tree can read every page. So totals survive a SIGKILL to the
last unit, nobody has to ask a busy process for them, and no total ever goes back. Each slot is one aligned 64-bit
integer with one writer, which is all the synchronisation that x86-64 and AArch64 need for that.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

from symphony.observe import histogram
from symphony.observe.histogram import Histogram
from symphony.observe.reasons import BLOCKED, Reason
from symphony.observe.record_area import route_area, upstream_area
from symphony.protection.hold_cells import HoldCells

_WORD = 8

ACCEPTED = 0
ACTIVE = 1
BYTES_UP = 2
BYTES_DOWN = 3
HANDSHAKES = 4
RESUMED = 5
DECIDED_ALONE = 6
"""Connections of limited sources that an acceptor decided on alone."""
ROUTE_DECIDED_ALONE = 7
"""Connections of limited routes that were decided on without the rate limiter's answer."""
ROUTE_DENIED = 8
"""Connections of limited routes that were refused, by the rate limiter or without it."""

HANDSHAKE_TIME = 9
"""A histogram of the time from accept to the end of the handshake."""

CONNECT_TIME = HANDSHAKE_TIME + histogram.WORDS
"""A histogram of the time that connecting to an upstream took."""

_FIRST_SUITE = CONNECT_TIME + histogram.WORDS
SUITES = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "other",
)
"""All that are offered, by OpenSSL's names; those of TLS 1.3 begin with TLS_."""

SUITE_SLOT = {name: _FIRST_SUITE + 2 * at for at, name in enumerate(SUITES)}
"""Where full handshakes with a cipher suite are counted; resumed ones stand in the slot after it."""

_FIRST_REASON = _FIRST_SUITE + 2 * len(SUITES)
_FIRST_LISTENER = _FIRST_REASON + len(Reason)
LISTENER_HANDSHAKES = 2
LISTENER_UP = 3
LISTENER_DOWN = 4
"""Where a listener counts handshakes and bytes, beginning at its own slot."""
_LISTENER_REASONS = 5
_PER_LISTENER = _LISTENER_REASONS + len(Reason)

REASON_SLOT: dict[Reason, int] = {reason: _FIRST_REASON + at for at, reason in enumerate(Reason)}
LISTENER_REASON_SLOT: dict[Reason, int] = {reason: _LISTENER_REASONS + at for at, reason in enumerate(Reason)}
"""Where a listener counts why connections ended early, beginning at its own slot."""
BLOCKED_SLOT: dict[Reason, int] = {reason: LISTENER_REASON_SLOT[reason] for reason in BLOCKED}
"""Those of them that are refusals."""


class CounterPage:
    """One acceptor's totals. `values` is the page itself, indexed by the constants of this module.

    Beside it are the acceptor's `upstreams` and `routes` (:mod:`symphony.observe.record_area`) and what it `holds` of
    each source (:mod:`symphony.protection.hold_cells`).
    """

    __slots__ = ("_listener_slots", "_memory", "holds", "routes", "upstreams", "values")

    def __init__(self, listener_ids: Sequence[str]) -> None:
        self._listener_slots = {
            listener_id: _FIRST_LISTENER + at * _PER_LISTENER for at, listener_id in enumerate(listener_ids)
        }
        words = _FIRST_LISTENER + len(listener_ids) * _PER_LISTENER
        self._memory = mmap.mmap(-1, words * _WORD)
        self.values: memoryview = memoryview(self._memory).cast("q")
        self.upstreams = upstream_area()
        self.routes = route_area()
        self.holds = HoldCells()

    @property
    def listener_ids(self) -> tuple[str, ...]:
        """The listeners that it has slots for."""
        return tuple(self._listener_slots)

    def listener_slot(self, listener_id: str) -> int:
        """The first slot of a listener: its accepted connections, then its active ones, then what the constants say."""
        return self._listener_slots[listener_id]

    def claim(self) -> None:
        """Be its acceptor from now on, who holds no connection of the last one."""
        self.forget_active()
        self.holds.claim()

    def forget_active(self) -> None:
        """Set the gauges to zero: whoever it belonged to is gone."""
        self.values[ACTIVE] = 0
        for slot in self._listener_slots.values():
            self.values[slot + 1] = 0
        self.upstreams.forget_active()
        self.routes.forget_active()

    def errors(self) -> dict[str, int]:
        """How many connections each reason ended; reasons that never did are left out."""
        return _named(self.values, REASON_SLOT)

    def active_at(self, listener_id: str) -> int:
        """How many connections of a listener are open; 0 for one that it has no slots for."""
        slot = self._listener_slots.get(listener_id)
        return 0 if slot is None else self.values[slot + 1]

    def of_listener(self, listener_id: str) -> Sequence[int]:
        """A listener's slots, from the first one on."""
        slot = self._listener_slots[listener_id]
        return self.values[slot : slot + _PER_LISTENER]

    def blocked(self, listener_slot: int) -> dict[str, int]:
        """How many connections a listener refused, by reason; reasons that never were are left out."""
        return _named(self.values[listener_slot : listener_slot + _PER_LISTENER], BLOCKED_SLOT)


class Totals:
    """Pages added up, whichever listeners each of them has. Slots are those of one page."""

    __slots__ = ("listeners", "values")

    def __init__(self) -> None:
        self.values = [0] * _FIRST_LISTENER
        self.listeners: dict[str, list[int]] = {}

    def add(self, more: CounterPage | Totals) -> None:
        """Add what stands in `more`."""
        for slot in range(_FIRST_LISTENER):
            self.values[slot] += more.values[slot]
        for listener_id in more.listener_ids if isinstance(more, CounterPage) else more.listeners:
            mine = self.listeners.setdefault(listener_id, [0] * _PER_LISTENER)
            theirs = more.of_listener(listener_id)
            for at in range(_PER_LISTENER):
                mine[at] += theirs[at]

    def of_listener(self, listener_id: str) -> Sequence[int]:
        """A listener's accepted connections, its active ones, then what stands at the other constants for it."""
        return self.listeners.get(listener_id, _NOTHING)

    def errors(self) -> dict[str, int]:
        """How many connections each reason ended; reasons that never did are left out."""
        return _named(self.values, REASON_SLOT)

    def blocked(self, listener_id: str) -> dict[str, int]:
        """How many connections a listener refused, by reason; reasons that never were are left out."""
        return _named(self.of_listener(listener_id), BLOCKED_SLOT)

    def failed(self, listener_id: str) -> dict[str, int]:
        """How many connections of a listener each reason ended; reasons that never did are left out."""
        return _named(self.of_listener(listener_id), LISTENER_REASON_SLOT)

    def suites(self) -> dict[str, tuple[int, int]]:
        """How many full and resumed handshakes came to each cipher suite; those that never did are left out."""
        values = self.values
        found = {name: (values[slot], values[slot + 1]) for name, slot in SUITE_SLOT.items()}
        return {name: counts for name, counts in found.items() if any(counts)}

    def histogram(self, slot: int) -> Histogram:
        """HANDSHAKE_TIME or CONNECT_TIME as it stands."""
        return histogram.read(self.values, slot)


_NOTHING = (0,) * _PER_LISTENER


def _named(values: Sequence[int], slots: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.value: values[slot] for reason, slot in slots.items() if values[slot]}
