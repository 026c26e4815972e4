"""The wish that the tree stops, and how far it has come true."""

from __future__ import annotations

from supervisor.action import Outcome


class StopWish:
    """`asked`: somebody wants the tree to stop, `since` when, `until` when; `forced`: without asking anybody."""

    __slots__ = ("_faults", "_until", "asked", "forced", "since")

    def __init__(self) -> None:
        self.asked = False
        self.forced = False
        self.since = 0.0
        self._until: float | None = None
        self._faults: dict[str, None] = {}

    def begin(self, now: float, grace_s: float | None) -> None:
        """Wish from `now` on that everything stops, within `grace_s` seconds if given."""
        self.asked = True
        self.since = now
        self._until = None if grace_s is None else now + grace_s

    def remaining(self, now: float) -> float | None:
        """Return how many seconds are left for everything, negative when they are over; None for no limit."""
        return None if self._until is None else self._until - now

    def note_fault(self, name: str) -> None:
        """Note that `name` failed or had to be killed for being late; before the wish that is no business of it."""
        if self.asked:
            self._faults[name] = None

    def outcome(self, reason: str) -> Outcome:
        """Return what a tree ends with that stopped because it was asked to."""
        if self.forced:
            return Outcome(f"{reason} by force", clean=False)
        if self._faults:
            return Outcome(f"{reason}; not in order: {', '.join(self._faults)}", clean=False)
        return Outcome(reason, clean=True)
