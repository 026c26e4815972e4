"""The rate limiter: one token bucket per route for all acceptors, and who can say which sources are refused.

It needs nothing from anybody: a route's limits come with each question. One that starts again begins with full buckets.
About sources it decides nothing: acceptors do that, in memory that they share, and that it only reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from actors.runtime import Actor, Birth, run_actor
from symphony.mailbox.address import mailbox_path
from symphony.mailbox.envelope import Refused
from symphony.mailbox.server import MailboxServer, Sender
from symphony.messages.limiter import (
    Acquire,
    BlockedSources,
    Configure,
    Denied,
    DescribeLimiter,
    Granted,
    Hold,
    LimiterDescription,
    LimiterReply,
    LimiterRequest,
    ListBlocked,
)
from symphony.protection import census
from symphony.protection.census import BlockedSource
from symphony.protection.holders import Holders
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.token_bucket import BucketTable

NAME = "rate-limiter"

# All that acceptors send.
_FROM_WORKERS = (Acquire, Configure, Hold, DescribeLimiter)


@dataclass(frozen=True, slots=True)
class LimiterSettings:
    """`capacity` is how many routes' buckets are kept at most (some 250 bytes each).

    `sources` is what acceptors know of sources.
    """

    runtime_dir: str
    capacity: int = 262_144
    sources: SourceStore = field(default_factory=SourceStore)


class RateLimiter(Actor):
    """Answers all of :data:`LimiterRequest`."""

    def __init__(
        self, settings: LimiterSettings, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets = BucketTable(settings.capacity)
        self._sources = settings.sources
        self._limits: dict[str, SourceLimits] = {}
        self._open = Holders()
        self._clock = clock
        self._version = 0
        self._holders: set[Sender] = set()
        self._granted = 0
        self._denied = 0
        path = mailbox_path(settings.runtime_dir, name)
        self.mailbox = MailboxServer(path, LimiterRequest, self._answer, from_workers=_FROM_WORKERS)

    def _answer(
        self, message: LimiterRequest, sender: Sender
    ) -> LimiterReply | Awaitable[LimiterReply] | None:
        match message:
            case Acquire(key, rate, burst):
                return self._acquire(key, rate, burst)
            case Hold(listener, counts):
                self._hold(listener, counts, sender)
            case Configure(version, limits):
                if version > self._version:
                    self._version = version
                    self._limits.update(limits)
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

    def _hold(self, listener: str, counts: tuple[tuple[bytes, int], ...], sender: Sender) -> None:
        self._watch(sender)
        for key, count in counts:
            self._open.put(sender, (listener, key), count)

    def _watch(self, sender: Sender) -> None:
        """Forget all that `sender` holds when its connection ends."""
        if sender not in self._holders:
            self._holders.add(sender)
            sender.on_close(lambda: self._leave(sender))

    def _leave(self, sender: Sender) -> None:
        self._holders.discard(sender)
        self._open.drop(sender)

    async def _blocked(self, limit: int) -> BlockedSources:
        found: list[BlockedSource] = []
        left_out = 0
        for part in self._parts():
            room = max(0, limit - len(found))
            found += part[:room]
            left_out += len(part[room:])
            await asyncio.sleep(0)  # questions come between
        return BlockedSources(tuple(found), left_out)

    def _parts(self) -> Iterator[list[BlockedSource]]:
        for listener, limits in tuple(self._limits.items()):
            if limits.max_concurrent:
                yield [
                    BlockedSource(listener, key, Verdict.TOO_MANY_CONNECTIONS, 0.0)
                    for key, _ in self._open.at_least(listener, limits.max_concurrent)
                ]
        yield from census.blocked(self._sources, self._limits, self._clock())

    async def _describe(self) -> LimiterDescription:
        sources = 0
        for some in census.count(self._sources):
            sources += some
            await asyncio.sleep(0)
        return LimiterDescription(len(self._buckets), self._granted, self._denied, sources, len(self._open))


_GRANTED = Granted()


def run_rate_limiter(birth: Birth, settings: LimiterSettings) -> None:
    """Be the rate limiter's process."""
    run_actor(birth, lambda: RateLimiter(settings, birth.name))
