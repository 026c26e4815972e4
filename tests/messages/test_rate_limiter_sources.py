"""What the rate limiter tells of sources: asked over its socket, as acceptors and the command line do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from actors.rate_limiter import LimiterSettings, run_rate_limiter
from symphony.mailbox.client import MailboxClient
from symphony.messages.limiter import (
    AtLimit,
    BlockedSources,
    Configure,
    DescribeLimiter,
    LimiterDescription,
    LimiterReply,
    ListBlocked,
)
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from symphony.protection.sources import SourceTable
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage

NAME = "rate-limiter"
SLOW = 0.001
A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"


class Limiter:
    """The process, whom it takes for its acceptors, and what they decide."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.store = SourceStore(1000)
        self.table = SourceTable(self.store)
        self.process = self.start()

    def start(self) -> ActorProcess:
        settings = LimiterSettings(self._stage.runtime_dir, sources=self.store)
        self.process = self._stage.start(NAME, run_rate_limiter, settings)
        return self.process

    @asynccontextmanager
    async def acceptor(self, limits: SourceLimits | None, version: int = 1) -> AsyncIterator[MailboxClient]:
        client = MailboxClient(self._stage.mailbox(NAME), LimiterReply)
        await client.connect()
        try:
            if limits is not None:
                assert self.table.configure("web", limits, time.monotonic(), version)
                client.cast(Configure(version, (("web", limits),)))
            yield client
        finally:
            await client.close()

    def exceed(self, key: bytes, times: int) -> None:
        for _ in range(times):
            self.table.decide("web", key, time.monotonic())


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    with Stage() as stage:
        yield Limiter(stage)


async def description(client: MailboxClient) -> LimiterDescription:
    reply = await client.call(DescribeLimiter())
    assert isinstance(reply, LimiterDescription)
    return reply


async def blocked(client: MailboxClient, limit: int = 100) -> BlockedSources:
    reply = await client.call(ListBlocked(limit))
    assert isinstance(reply, BlockedSources)
    return reply


async def until(client: MailboxClient, condition: Callable[[LimiterDescription], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition(await description(client)):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_sources_are_those_that_acceptors_know(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 2.0)) as client:
        assert (await description(client)).sources == 0
        for number in range(300):
            limiter.exceed(number.to_bytes(4, "big"), 1)
        assert (await description(client)).sources == 300


async def test_who_is_blocked(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 1.0, penalty_s=60.0)) as client:
        for number in range(20):
            limiter.exceed(bytes([127, 0, 0, number]), 2)
        limiter.exceed(bytes([127, 0, 1, 1]), 1)
        reply = await blocked(client, 15)
        assert (len(reply.sources), reply.left_out) == (15, 6)
        reply = await blocked(client)
        found = {source.key[2:]: source for source in reply.sources}
        assert found.pop(b"\1\1").verdict is Verdict.RATE_LIMITED, "its only token is gone"
        assert {source.verdict for source in found.values()} == {Verdict.PENALTY_BOXED}
        assert all(59 < source.seconds <= 60 for source in found.values())
        assert len(found) == 20
    limiter.process.kill()
    limiter.start()
    async with limiter.acceptor(None) as client:
        assert (await blocked(client)).sources == (), "it does not know the limits yet"
    async with limiter.acceptor(SourceLimits(SLOW, 1.0, penalty_s=60.0)) as client:
        assert len((await blocked(client)).sources) == 21


async def test_who_is_at_the_limit(limiter: Limiter) -> None:
    limits = SourceLimits(max_concurrent=3)
    async with limiter.acceptor(limits) as one:
        async with limiter.acceptor(limits) as two:
            one.cast(AtLimit("web", (A, B)))
            two.cast(AtLimit("web", (A, b"more")))
            two.cast(AtLimit("web", (A,)))
            await until(two, lambda found: found.at_limit == 2)
            reply = await blocked(one)
            assert {(source.listener, source.key, source.verdict) for source in reply.sources} == {
                ("web", A, Verdict.TOO_MANY_CONNECTIONS),
                ("web", B, Verdict.TOO_MANY_CONNECTIONS),
            }
            one.cast(AtLimit("web", ()))
            await until(one, lambda found: found.at_limit == 1)
            assert [source.key for source in (await blocked(one)).sources] == [A]
        # The other one is gone, and with it what it told.
        await until(one, lambda found: found.at_limit == 0)
        assert (await blocked(one)).sources == ()


async def test_an_older_configuration_changes_nothing(limiter: Limiter) -> None:
    async with (
        limiter.acceptor(SourceLimits(max_concurrent=2), version=7) as client,
        limiter.acceptor(SourceLimits(max_concurrent=9), version=6) as late,
    ):
        late.cast(AtLimit("web", (A,)))
        await until(late, lambda found: found.at_limit == 1)
        assert [source.key for source in (await blocked(client)).sources] == [A]
        late.cast(Configure(8, (("web", SourceLimits()),)))
        await until(late, lambda found: found.at_limit == 1)
        assert (await blocked(late)).sources == ()
