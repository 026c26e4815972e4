"""The rate limiter: one token bucket per route and per source address for all acceptors, and who has how much open.

It needs nothing from anybody: a route's limits come with each question, and those of sources from the acceptors that
ask. What it knows of sources is in memory that outlives it, so that a limiter which starts again goes on where the last
one was; of routes' buckets it knows nothing and begins with full ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from actors.runtime import Actor, Birth, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.limiter import (
    Acquire,
    Admit,
    Attempts,
    BlockedSources,
    Configure,
    Count,
    Denied,
    DescribeLimiter,
    Granted,
    Hold,
    Holding,
    LimiterDescription,
    LimiterReply,
    LimiterRequest,
    ListBlocked,
    Release,
    Ruling,
)
from symphony.protection.penalty import Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import BlockedSource, SourceTable, UnknownListener
from symphony.protection.token_bucket import BucketTable

NAME = "rate-limiter"
SOURCES = 1_000_000
"""How many sources are remembered at most, some 220 bytes each."""

log = structlog.get_logger()


# All that acceptors send.
_FROM_WORKERS = (Acquire, Admit, Release, Configure, Hold, Count, DescribeLimiter)


@dataclass(frozen=True, slots=True)
class LimiterSettings:
    """`capacity` is how many routes' buckets are kept at most (some 250 bytes each).

    `sources` is what is known of sources. To outlive the limiter, it must be made by the process that forks it.
    """

    runtime_dir: str
    capacity: int = 262_144
    sources: SourceStore = field(default_factory=lambda: SourceStore(SOURCES))


class RateLimiter(Actor):
    """Answers all of :data:`LimiterRequest`."""

    def __init__(
        self, settings: LimiterSettings, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = BucketTable(settings.capacity)
        self._sources = SourceTable(settings.sources, clock())
        self._clock = clock
        self._version = 0
        self._holders: set[Sender] = set()
        self._granted = 0
        self._denied = 0
        path = mailbox_path(settings.runtime_dir, name)
        self.mailbox = MailboxServer(path, LimiterRequest, self._answer, from_workers=_FROM_WORKERS)

    async def start(self) -> None:
        """Take up what the last limiter knew."""
        for _ in self._sources.recover(self._clock()):
            await asyncio.sleep(0)
        if len(self._sources):
            log.info("sources taken up", sources=len(self._sources))

    def _answer(
        self, message: LimiterRequest, sender: Sender
    ) -> LimiterReply | Awaitable[LimiterReply] | None:
        match message:
            case Admit(listener, key):
                return self._admit(listener, key, sender)
            case Release(listener, key):
                self._sources.release(listener, key, sender)
            case Acquire(key, rate, burst):
                return self._acquire(key, rate, burst)
            case Hold(listener, counts):
                self._hold(listener, counts, sender)
            case Count(listener, attempts):
                self._count(listener, attempts)
            case Configure(version, limits):
                if version > self._version:
                    self._version = version
                    for listener, each in limits:
                        self._sources.configure(listener, each, self._clock())
            case ListBlocked(limit):
                return self._blocked(limit)
            case DescribeLimiter():
                return self._describe()
        return None

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

    def _admit(self, listener: str, key: bytes, sender: Sender) -> LimiterReply:
        now = self._clock()
        try:
            verdict = self._sources.decide(listener, key, sender, now)
        except UnknownListener:
            return Refused(f"no limits are known for {listener}")
        if verdict is Verdict.ADMITTED:
            return _ADMITTED
        if verdict is Verdict.HELD:
            self._watch(sender)
            return Holding(listener, key)
        wait = self._sources.wait(listener, key, now)
        return Ruling(verdict, now + wait if wait else 0.0)

    def _hold(self, listener: str, counts: tuple[tuple[bytes, int], ...], sender: Sender) -> None:
        self._watch(sender)
        for key, count in counts:
            self._sources.holders.add(sender, (listener, key), count)

    def _watch(self, sender: Sender) -> None:
        """Give back all that `sender` holds when its connection ends."""
        if sender not in self._holders:
            self._holders.add(sender)
            sender.on_close(lambda: self._leave(sender))

    def _leave(self, sender: Sender) -> None:
        self._holders.discard(sender)
        self._sources.drop_holder(sender)

    def _count(self, listener: str, attempts: tuple[Attempts, ...]) -> None:
        try:
            for each in attempts:
                self._sources.count(listener, each.key, each.times, each.let_in, each.first, each.last)
        except UnknownListener:
            log.warning("connections of an unknown listener are not counted", listener=listener)

    async def _blocked(self, limit: int) -> BlockedSources:
        found: list[BlockedSource] = []
        left_out = 0
        for part in self._sources.blocked(self._clock()):
            room = max(0, limit - len(found))
            found += part[:room]
            left_out += len(part[room:])
            await asyncio.sleep(0)  # decisions come between
        return BlockedSources(tuple(found), left_out)

    def _describe(self) -> LimiterDescription:
        sources = self._sources
        return LimiterDescription(
            len(self._buckets),
            self._granted,
            self._denied,
            len(sources),
            len(sources.holders),
            sources.turned_away,
        )


_GRANTED = Granted()
_ADMITTED = Ruling(Verdict.ADMITTED, 0.0)


def run_rate_limiter(birth: Birth, settings: LimiterSettings) -> None:
    """Be the rate limiter's process."""
    run_actor(birth, lambda: RateLimiter(settings, birth.name))
