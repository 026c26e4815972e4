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
    AtLimit,
    BlockedSources,
    Configure,
    Denied,
    DescribeLimiter,
    Granted,
    LimiterDescription,
    LimiterReply,
    LimiterRequest,
    ListBlocked,
)
from symphony.protection import census
from symphony.protection.census import BlockedSource
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.token_bucket import BucketTable

NAME = "rate-limiter"

# All that acceptors send.
_FROM_WORKERS = (Acquire, Configure, AtLimit, DescribeLimiter)


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
        self._at_limit: dict[Sender, dict[str, tuple[bytes, ...]]] = {}
        self._clock = clock
        self._version = 0
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
            case AtLimit(listener, keys):
                self._note(listener, keys, sender)
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

    def _note(self, listener: str, keys: tuple[bytes, ...], sender: Sender) -> None:
        told = self._at_limit.get(sender)
        if told is None:
            told = self._at_limit[sender] = {}
            sender.on_close(lambda: self._forget(sender))
        told[listener] = keys

    def _forget(self, sender: Sender) -> None:
        del self._at_limit[sender]

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
                    for key in self._full(listener)
                ]
        yield from census.blocked(self._sources, self._limits, self._clock())

    def _full(self, listener: str) -> set[bytes]:
        return {key for told in self._at_limit.values() for key in told.get(listener, ())}

    async def _describe(self) -> LimiterDescription:
        sources = 0
        for some in census.count(self._sources):
            sources += some
            await asyncio.sleep(0)
        at_limit = sum(len(self._full(listener)) for listener in self._limits)
        return LimiterDescription(len(self._buckets), self._granted, self._denied, sources, at_limit)


_GRANTED = Granted()


def run_rate_limiter(birth: Birth, settings: LimiterSettings) -> None:
    """Be the rate limiter's process."""
    run_actor(birth, lambda: RateLimiter(settings, birth.name))
