"""A timer wheel: the time limits of any number of connections on one timer of the event loop.

Entries are kept by the tick at which they are due, so that scheduling, cancelling and firing cost the same with ten
entries and with a million, and an idle connection costs no timer object. Limits are met to within one tick, late
rather than early.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

TICK_S = 0.05


class Timed(Protocol):
    """What can be scheduled: it keeps its own place in the wheel, 0 when it has none."""

    timer_tick: int

    def on_timer(self) -> None:
        """The time is up. The entry is out of the wheel by now and may schedule itself again."""


class TimerWheel:
    """Schedules :class:`Timed` entries, each at most once at a time."""

    __slots__ = ("_clock", "_handle", "_loop", "_on_error", "_slots", "_tick")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[BaseException], None]) -> None:
        """`on_error` is called with what an entry raised; the other entries go on."""
        self._loop = loop
        self._on_error = on_error
        self._clock: Callable[[], float] = loop.time
        self._slots: dict[int, set[Timed]] = {}
        self._tick = self._now()
        self._handle: asyncio.TimerHandle | None = None

    def _now(self) -> int:
        return int(self._clock() / TICK_S)

    def schedule(self, entry: Timed, delay_s: float) -> None:
        """Call `entry.on_timer()` after `delay_s` seconds; what was scheduled for it before is forgotten."""
        if entry.timer_tick:
            self.cancel(entry)
        # One tick more than asked: the present tick has partly gone by.
        now = int(self._clock() / TICK_S)
        tick = now + 1 + math.ceil(delay_s / TICK_S)
        entry.timer_tick = tick
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = {entry}
        else:
            slot.add(entry)
        if self._handle is None:
            self._tick = now
            self._handle = self._loop.call_later(TICK_S, self._turn)

    def cancel(self, entry: Timed) -> None:
        """Forget `entry`, scheduled or not."""
        slot = self._slots.get(entry.timer_tick)
        if slot is not None:
            slot.discard(entry)
            if not slot:
                del self._slots[entry.timer_tick]
        entry.timer_tick = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def _turn(self) -> None:
        slots = self._slots
        # Set first, so that an entry which raises loses its own turn only, and the wheel goes on.
        self._handle = self._loop.call_later(TICK_S, self._turn) if slots else None
        now = self._now()
        due: list[Timed] = []
        # After a long pause of the process the ticks that went by may outnumber the slots.
        if now - self._tick > len(slots):
            for tick in sorted(tick for tick in slots if tick <= now):
                due.extend(slots.pop(tick))
        else:
            for tick in range(self._tick, now + 1):
                slot = slots.pop(tick, None)
                if slot:
                    due.extend(slot)
        self._tick = now
        for entry in due:
            # Else an earlier entry of this turn has cancelled it (0) or scheduled it anew (later than now).
            if 0 < entry.timer_tick <= now:
                entry.timer_tick = 0
                try:
                    entry.on_timer()
                except Exception as error:  # noqa: BLE001 - told; the other entries are not to suffer
                    self._on_error(error)
