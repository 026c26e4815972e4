"""The rate limiter's decisions about source addresses, asked for over its socket as acceptors do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from actors.rate_limiter import LimiterSettings, run_rate_limiter
from symphony.mailbox.client import MailboxClient, MailboxRefused
from symphony.messages.limiter import (
    Admit,
    Attempts,
    BlockedSources,
    Configure,
    Count,
    DescribeLimiter,
    Hold,
    Holding,
    LimiterDescription,
    LimiterReply,
    ListBlocked,
    Release,
    Ruling,
)
from symphony.protection.penalty import SourceLimits, Verdict
from symphony.protection.source_store import SourceStore
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage

NAME = "rate-limiter"
SLOW = 0.001
A, B = b"\x7f\0\0\1", b"\x7f\0\0\2"


class Limiter:
    """The process, and whom it takes for its acceptors."""

    def __init__(self, stage: Stage, capacity: int = 1000) -> None:
        self._stage = stage
        self._settings = LimiterSettings(stage.runtime_dir, sources=SourceStore(capacity))
        self.process = self.start()

    def start(self) -> ActorProcess:
        self.process = self._stage.start(NAME, run_rate_limiter, self._settings)
        return self.process

    @asynccontextmanager
    async def acceptor(self, limits: SourceLimits | None, version: int = 1) -> AsyncIterator[MailboxClient]:
        client = MailboxClient(self._stage.mailbox(NAME), LimiterReply)
        await client.connect()
        try:
            if limits is not None:
                client.cast(Configure(version, (("web", limits),)))
            yield client
        finally:
            await client.close()


@pytest.fixture
def limiter() -> Iterator[Limiter]:
    with Stage() as stage:
        yield Limiter(stage)


async def verdicts(client: MailboxClient, times: int, key: bytes = A, listener: str = "web") -> list[str]:
    """Asked one after the other; "held" stands for the reply that has to be given back."""
    found = []
    for _ in range(times):
        reply = await client.call(Admit(listener, key))
        if isinstance(reply, Holding):
            assert (reply.listener, reply.key) == (listener, key)
            found.append("held")
        else:
            assert isinstance(reply, Ruling)
            found.append(reply.verdict.value)
    return found


async def description(client: MailboxClient) -> LimiterDescription:
    reply = await client.call(DescribeLimiter())
    assert isinstance(reply, LimiterDescription)
    return reply


async def until_held(client: MailboxClient, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (await description(client)).held != count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_listener_without_limits_is_not_known(limiter: Limiter) -> None:
    async with limiter.acceptor(None) as client:
        with pytest.raises(MailboxRefused, match="no limits are known for web"):
            await client.call(Admit("web", A))


async def test_each_bucket_with_its_reason_and_the_time_of_the_next_token(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(10.0, 2.0, 1.0, 4.0)) as client:
        before = time.monotonic()
        assert await verdicts(client, 3) == ["admitted", "admitted", "rate_limited"]
        reply = await client.call(Admit("web", A))
        assert reply.verdict is Verdict.RATE_LIMITED
        assert before + 0.09 < reply.until <= time.monotonic() + 0.1
        await asyncio.sleep(max(0.0, reply.until - time.monotonic()))
        assert await verdicts(client, 1) == ["admitted"]
        deadline = time.monotonic() + LIMIT_S
        while (found := (await verdicts(client, 1))[0]) != "sustained_limited":
            assert found in ("admitted", "rate_limited") and time.monotonic() < deadline
        reply = await client.call(Admit("web", A))
        assert 30 < reply.until - time.monotonic() <= 60
        assert await verdicts(client, 1, B) == ["admitted"]


async def test_the_penalty_box(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 1.0, penalty_s=60.0)) as client:
        assert await verdicts(client, 2) == ["admitted", "rate_limited"]
        reply = await client.call(Admit("web", A))
        assert reply.verdict is Verdict.PENALTY_BOXED
        assert 59 < reply.until - time.monotonic() <= 60


async def test_open_at_once_over_all_acceptors_and_given_back(limiter: Limiter) -> None:
    limits = SourceLimits(max_concurrent=3)
    async with limiter.acceptor(limits) as one:
        async with limiter.acceptor(limits) as two:
            assert await verdicts(one, 2) == ["held", "held"]
            assert await verdicts(two, 2) == ["held", "too_many_connections"]
            one.cast(Release("web", A))
            assert await verdicts(one, 2) == ["held", "too_many_connections"]
            two.cast(Release("web", B))  # it has none of these
            assert await verdicts(one, 1) == ["too_many_connections"]
        # The other one is gone, and with it what it held.
        await until_held(one, 2)
        assert await verdicts(one, 2) == ["held", "too_many_connections"]


async def test_a_killed_acceptor_gives_back_at_once(limiter: Limiter) -> None:
    limits = SourceLimits(max_concurrent=1)
    async with limiter.acceptor(limits) as client, limiter.acceptor(limits) as other:
        assert await verdicts(other, 1) == ["held"]
        assert await verdicts(client, 1) == ["too_many_connections"]
        assert other._link is not None
        other._link._transport.abort()
        await until_held(client, 0)
        assert await verdicts(client, 1) == ["held"]


async def test_an_acceptor_tells_what_it_has_open(limiter: Limiter) -> None:
    limits = SourceLimits(max_concurrent=4)
    async with limiter.acceptor(limits) as client, limiter.acceptor(limits) as other:
        other.cast(Hold("web", ((A, 3), (B, 7))))
        assert (await description(other)).held == 10
        assert await verdicts(client, 2) == ["held", "too_many_connections"]
        assert await verdicts(client, 1, B) == ["too_many_connections"]
        other.cast(Release("web", A))
        assert (await description(other)).held == 10
        assert await verdicts(client, 2) == ["held", "too_many_connections"]


async def test_connections_that_were_not_asked_for_count(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 5.0, penalty_s=60.0)) as client:
        now = time.monotonic()
        client.cast(Count("web", (Attempts(A, 3, 3, now - 1.0, now), Attempts(B, 6, 5, now - 1.0, now))))
        client.cast(Count("mail", (Attempts(A, 3, 3, now, now),)))  # of nobody's listener
        assert await verdicts(client, 3) == ["admitted", "admitted", "rate_limited"]
        assert await verdicts(client, 1, B) == ["penalty_boxed"]


async def test_an_older_configuration_changes_nothing(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 3.0), version=7) as client:
        async with limiter.acceptor(SourceLimits(SLOW, 9.0), version=6) as late:
            assert Counter(await verdicts(late, 5)) == {"admitted": 3, "rate_limited": 2}
            late.cast(Configure(8, (("web", SourceLimits(SLOW, 5.0)),)))
            assert await verdicts(late, 3) == ["admitted", "admitted", "rate_limited"]
        client.cast(Configure(9, (("web", SourceLimits()), ("mail", SourceLimits(SLOW, 1.0)))))
        assert Counter(await verdicts(client, 9)) == {"admitted": 9}
        assert await verdicts(client, 2, listener="mail") == ["admitted", "rate_limited"]


async def test_when_there_is_no_room_a_new_source_is_turned_away() -> None:
    with Stage() as stage:
        limiter = Limiter(stage, capacity=2)
        async with limiter.acceptor(SourceLimits(SLOW, 2.0)) as client:
            assert await verdicts(client, 1, b"one.") == ["admitted"]
            assert await verdicts(client, 1, b"two.") == ["admitted"]
            assert await verdicts(client, 1, b"more") == ["table_full"]
            assert await verdicts(client, 2, b"one.") == ["admitted", "rate_limited"]
            found = await description(client)
            assert (found.sources, found.turned_away) == (2, 1)


async def test_everything_but_what_is_open_survives_a_kill(limiter: Limiter) -> None:
    limits = SourceLimits(SLOW, 5.0, penalty_s=60.0, max_concurrent=2)
    async with limiter.acceptor(limits) as client:
        assert await verdicts(client, 2) == ["held", "held"]
        assert Counter(await verdicts(client, 6, B)) == Counter(
            {"held": 2, "too_many_connections": 3, "rate_limited": 1}
        )
    limiter.process.kill()
    limiter.start()
    async with limiter.acceptor(limits) as client:
        assert (await description(client)).held == 0
        client.cast(Hold("web", ((A, 1),)))
        assert await verdicts(client, 2) == ["held", "too_many_connections"]
        assert await verdicts(client, 2) == ["too_many_connections", "rate_limited"]
        assert await verdicts(client, 1, B) == ["penalty_boxed"]


async def test_who_is_blocked(limiter: Limiter) -> None:
    async with limiter.acceptor(SourceLimits(SLOW, 1.0, penalty_s=60.0)) as client:
        for number in range(20):
            await verdicts(client, 2, bytes([127, 0, 0, number]))
        reply = await client.call(ListBlocked(limit=15))
        assert isinstance(reply, BlockedSources)
        assert (len(reply.sources), reply.left_out) == (15, 5)
        assert {source.verdict for source in reply.sources} == {Verdict.PENALTY_BOXED}
        assert all(59 < source.seconds <= 60 for source in reply.sources)
        assert len({source.key for source in reply.sources}) == 15
