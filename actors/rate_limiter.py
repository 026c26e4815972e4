"""The rate limiter: one token bucket per key for all acceptors.

It needs nothing from anybody: limits come with each question, and a limiter that starts again begins with full
buckets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from actors.runtime import Actor, Birth, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.limiter import (
    Acquire,
    Denied,
    DescribeLimiter,
    Granted,
    LimiterDescription,
    LimiterReply,
    LimiterRequest,
)
from symphony.protection.token_bucket import BucketTable

NAME = "rate-limiter"


@dataclass(frozen=True, slots=True)
class LimiterSettings:
    """`capacity` is how many buckets are kept at most (some 250 bytes each)."""

    runtime_dir: str
    capacity: int = 262_144


class RateLimiter(Actor):
    """Answers Acquire and DescribeLimiter."""

    def __init__(
        self, settings: LimiterSettings, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = BucketTable(settings.capacity)
        self._clock = clock
        self._granted = 0
        self._denied = 0
        path = mailbox_path(settings.runtime_dir, name)
        self.mailbox = MailboxServer(path, LimiterRequest, self._answer)

    def _answer(self, message: LimiterRequest, sender: Sender) -> LimiterReply:
        match message:
            case Acquire(key, rate, burst):
                return self._acquire(key, rate, burst)
            case DescribeLimiter():
                return LimiterDescription(len(self._buckets), self._granted, self._denied)

    def _acquire(self, key: str, rate: float, burst: float) -> LimiterReply:
        try:
            retry_after = self._buckets.take(key, rate, burst, self._clock())
        except ValueError as error:
            return Refused(str(error))
        if retry_after > 0.0:
            self._denied += 1
            return Denied(retry_after)
        self._granted += 1
        return _GRANTED


_GRANTED = Granted()


def run_rate_limiter(birth: Birth, settings: LimiterSettings) -> None:
    """Be the rate limiter's process."""
    run_actor(birth, lambda: RateLimiter(settings, birth.name))
