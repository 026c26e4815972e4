"""What one listener allows a source address, and the clock that its token buckets are kept by.

A bucket is one number: the reading of a token clock at which it is full again. The clock counts the tokens that a
bucket would have been given since the listener began, so a bucket lacks ``full_at - clock`` tokens, never less than
none, and taking one moves `full_at` up by one. A bucket that is full needs no number at all. When a listener's rate
changes, the clock goes on from its reading at the new rate, and every bucket of the listener keeps what it lacks,
without being looked at.

A bucket may owe tokens: up to as many as it holds, for connections that were let in when it could not be asked. They
are paid back before the next one is let in, so that in the long run no more are than the rate allows.

The penalty box: a source that finds a bucket empty is refused for `penalty_s`. While it is in the box its
connections are still counted against its buckets, and each that finds one empty begins the time anew. So a source
that goes on exceeding its limits stays in, and one that has slowed down to what it is allowed comes out.
"""

from __future__ import annotations

import math
from enum import StrEnum

from msgspec import Struct

ROUNDING = 1e-6
"""Tokens. Lets one through that is only missing because of rounding, as after waiting exactly long enough."""


class Verdict(StrEnum):
    """What becomes of a connection. The refusals have the names under which they are counted."""

    ADMITTED = "admitted"
    HELD = "held"
    """Admitted and counted against `max_concurrent`: the holder has to release it when it ends."""
    PENALTY_BOXED = "penalty_boxed"
    RATE_LIMITED = "rate_limited"
    SUSTAINED_LIMITED = "sustained_limited"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    TABLE_FULL = "table_full"
    """There is no room to count another source, and nobody's state may be forgotten for it."""


class SourceLimits(Struct, frozen=True, array_like=True):
    """A listener's limits for each source; 0 stands for no limit.

    `per_second` and `per_minute` are connections in that time, each with the `burst` that its bucket holds (at least
    1). Raises ValueError for limits that no bucket can have.
    """

    per_second: float = 0.0
    per_second_burst: float = 0.0
    per_minute: float = 0.0
    per_minute_burst: float = 0.0
    penalty_s: float = 0.0
    max_concurrent: int = 0

    def __post_init__(self) -> None:
        for rate, burst in (
            (self.per_second, self.per_second_burst),
            (self.per_minute, self.per_minute_burst),
        ):
            if not rate >= 0.0 or (rate > 0.0 and not burst >= 1.0):
                raise ValueError(f"a bucket of rate {rate}, burst {burst}; expected above 0 and at least 1")
        if not self.penalty_s >= 0.0 or self.max_concurrent < 0:
            raise ValueError(
                f"penalty_s {self.penalty_s}, max_concurrent {self.max_concurrent}; expected 0 or more"
            )

    @property
    def metered(self) -> bool:
        """Whether anything has to be remembered of a source that has no connection open."""
        return self.per_second > 0.0 or self.per_minute > 0.0


UNLIMITED = SourceLimits()


class TokenClock:
    """Counts tokens at `rate` a second; see the module's text. Time that goes back is no time."""

    __slots__ = ("burst", "rate", "reading", "since")

    def __init__(self, now: float) -> None:
        self.rate = 0.0
        self.burst = 0.0
        self.reading = 0.0  # at the time `since`
        self.since = now

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """All that :meth:`restore` needs."""
        return self.rate, self.burst, self.reading, self.since

    def restore(self, numbers: tuple[float, float, float, float]) -> None:
        """Be the clock that had these :attr:`numbers`."""
        self.rate, self.burst, self.reading, self.since = numbers

    def read(self, now: float) -> float:
        """How many tokens have been made up to `now`."""
        elapsed = now - self.since
        return self.reading + elapsed * self.rate if elapsed > 0.0 else self.reading

    def read_at(self, time: float) -> float:
        """How many tokens there were at a time in the past, had the rate always been what it is."""
        return self.reading + (time - self.since) * self.rate

    def take(self, full_at: memoryview[float], place: int, now: float) -> bool:
        """Take a token from the bucket at that place of `full_at` if it has one."""
        elapsed = now - self.since
        reading = self.reading + elapsed * self.rate if elapsed > 0.0 else self.reading
        missing: float = full_at[place] - reading
        if missing <= 0.0:
            full_at[place] = reading + 1.0
            return True
        if missing + 1.0 - ROUNDING <= self.burst:
            full_at[place] += 1.0
            return True
        if missing > 2.0 * self.burst:  # which has been made smaller
            full_at[place] = reading + 2.0 * self.burst
        return False

    def empty_above(self, now: float) -> float:
        """The number above which a bucket has no token; infinite where there is no limit."""
        return self.read(now) + self.burst - 1.0 + ROUNDING if self.rate else math.inf

    def take_many(
        self,
        full_at: memoryview[float],
        place: int,
        count: float,
        let_in: float,
        first: float,
        last: float,
    ) -> tuple[float, bool]:
        """Take `count` tokens, spread evenly from `first` to `last`, as far as the bucket has them.

        Of those that it does not have, `let_in` are owed. Returns how many it had, and whether these were too few.
        """
        end = self.read_at(last)
        missing = max(full_at[place], self.read_at(first)) + count - end
        lacking = max(0.0, missing - max(self.burst, missing - count))
        passed = count - lacking
        full_at[place] = end + min(missing - lacking + max(0.0, let_in - passed), 2.0 * self.burst)
        return passed, lacking > ROUNDING

    def change(self, rate: float, burst: float, now: float) -> None:
        """Go on at another rate (0 stands still), for buckets that hold `burst`."""
        if (rate, burst) == (self.rate, self.burst):
            return
        self.reading = self.read(now)
        self.since = max(now, self.since)
        self.rate = rate
        self.burst = burst
