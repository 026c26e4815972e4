"""Whether connections should go to an upstream: a state machine that is told what happened, and when.

Two judges, each with a veto:

- Passive: an upstream on which enough attempts have failed lately is OUT for a while. Then one connection may try it
  (TRYING), and how that ends decides: IN again, or OUT for as long again.
- Active, where the upstream has a health check: it is down after `fall` failed checks in a row, and up again after
  `rise` good ones.

Acceptors share what they find out. What one of them says is a single integer that begins with the time, so the newest
of several is the greatest, and each is written and read as a whole: a *statement* that the upstream is out for some
time or in again, a *check* with its outcome, and a *tally* of failures since some time. All times are in milliseconds
of the system's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

LEARNT_MS = 1000
"""Who has only heard that an upstream is out tries it so much later: one connection over all acceptors is enough."""

_OUT_BITS = 20
_OUT_UNIT_MS = 100  # so that 20 bits hold a day
_COUNT_BITS = 16
_CHECK_BITS = 16
_DOWN = 1 << 15
_EVEN = 1 << 14
LONGEST_STREAK = 1000


class Passive(Enum):
    """What the outcome of connections says."""

    IN = "in"
    OUT = "out"
    TRYING = "trying"


def tally_failure(tally: int, now: int, within_ms: int) -> int:
    """Return a tally of failures with one more at `now`. Failures before `within_ms` ago begin a new one."""
    since, count = tally >> _COUNT_BITS, tally & (1 << _COUNT_BITS) - 1
    if now - since > within_ms:
        since, count = now, 0
    return since << _COUNT_BITS | min(count + 1, (1 << _COUNT_BITS) - 1)


def failures(tallies: Iterable[int], since: int) -> int:
    """How many failures are in those tallies that began at `since` or later."""
    return sum(tally & (1 << _COUNT_BITS) - 1 for tally in tallies if tally >> _COUNT_BITS >= since and tally)


def checked_at(check: int) -> int:
    """When a check was done; 0 for none."""
    return check >> _CHECK_BITS


class Health:
    """What one acceptor knows of one upstream.

    `statement` and `check` are the newest known, whoever made them; 0 for none. `retry_at` is when one connection may
    try an upstream that is out.
    """

    __slots__ = ("check", "passive", "retry_at", "statement")

    def __init__(self) -> None:
        self.passive = Passive.IN
        self.statement = 0
        self.check = 0
        self.retry_at = 0

    @property
    def stated_at(self) -> int:
        """When the upstream was last said to be out or in."""
        return self.statement >> _OUT_BITS

    @property
    def down(self) -> bool:
        """Whether the health check says so."""
        return bool(self.check & _DOWN)

    @property
    def impaired(self) -> bool:
        """Whether there is anything against the upstream."""
        return self.passive is not Passive.IN or self.down

    @property
    def state(self) -> str:
        """``up``, ``down`` (its checks fail), ``out`` (connections failed) or ``trying`` (one is on its way)."""
        if self.down:
            return "down"
        return "up" if self.passive is Passive.IN else self.passive.value

    @property
    def badness(self) -> tuple[bool, int]:
        """The least is the best to try when all are out."""
        return self.down, self.retry_at if self.passive is not Passive.IN else 0

    def available(self, now: int) -> bool:
        """Whether a connection that comes now should go there."""
        if self.check & _DOWN:
            return False
        return self.passive is Passive.IN or (self.passive is Passive.OUT and now >= self.retry_at)

    def attempt(self) -> None:
        """A connection goes there."""
        if self.passive is Passive.OUT:
            self.passive = Passive.TRYING

    def abandoned(self) -> None:
        """It was given up, and says nothing."""
        if self.passive is Passive.TRYING:
            self.passive = Passive.OUT

    def failed(self, now: int, enough: bool, for_ms: int) -> bool:
        """It has failed. `enough` is whether that is one too many. Returns whether there is a new statement."""
        if self.passive is Passive.IN and not enough:
            return False
        self._state_out(now, for_ms)
        self.passive = Passive.OUT
        self.retry_at = now + for_ms
        return True

    def succeeded(self, now: int) -> bool:
        """It was taken. Returns whether there is a new statement."""
        if self.passive is Passive.IN:
            return False
        self._state(now, 0)
        self.passive = Passive.IN
        return True

    def checked(self, now: int, good: bool, rise: int, fall: int) -> None:
        """A health check has ended."""
        streak = (self.check & _DOWN - 1) - _EVEN if self.check else 0
        streak = max(streak, 0) + 1 if good else min(streak, 0) - 1
        streak = min(max(streak, -LONGEST_STREAK), LONGEST_STREAK)
        down = self.down
        if down and streak >= rise:
            down = False
        elif not down and -streak >= fall:
            down = True
        self.check = now << _CHECK_BITS | down * _DOWN | streak + _EVEN

    def forget_checks(self) -> None:
        """There is no health check any more."""
        self.check = 0

    def hear(self, statement: int, check: int) -> None:
        """Take what other acceptors say, as far as it is newer than what is known."""
        if check > self.check:
            self.check = check
        if statement <= self.statement:
            return
        self.statement = statement
        out_ms = (statement & (1 << _OUT_BITS) - 1) * _OUT_UNIT_MS
        if out_ms:
            self.passive = Passive.OUT
            self.retry_at = self.stated_at + out_ms + LEARNT_MS
        else:
            self.passive = Passive.IN

    def _state_out(self, now: int, for_ms: int) -> None:
        self._state(now, max(1, min(-(-for_ms // _OUT_UNIT_MS), (1 << _OUT_BITS) - 1)))

    def _state(self, now: int, units: int) -> None:
        # Never behind a statement that this one contradicts, made elsewhere within the same millisecond.
        self.statement = max(now << _OUT_BITS | units, (self.stated_at + 1) << _OUT_BITS | units)
