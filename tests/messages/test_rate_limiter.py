"""The rate limiter's process, spoken to over its socket."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from actors.rate_limiter import LimiterSettings, run_rate_limiter
from symphony.mailbox.client import MailboxClient, MailboxRefused
from symphony.messages.limiter import (
    Acquire,
    Denied,
    DescribeLimiter,
    Granted,
    LimiterDescription,
    LimiterReply,
)
from symphony.protection.limiter import RouteLimiter
from tests.support.actor_process import LIMIT_S, ActorProcess, Stage
from tests.support.loops import wait_connected

NAME = "rate-limiter"
SLOW = 0.001  # tokens a second: nothing refills while a test runs


@asynccontextmanager
async def sender(stage: Stage) -> AsyncIterator[MailboxClient]:
    client = MailboxClient(stage.mailbox(NAME), LimiterReply)
    client.start()
    try:
        assert await wait_connected(client, LIMIT_S)
        yield client
    finally:
        await client.close()


def start(stage: Stage, **settings: int) -> ActorProcess:
    return stage.start(NAME, run_rate_limiter, LimiterSettings(stage.runtime_dir, **settings))


async def granted(client: MailboxClient, times: int, key: str, rate: float, burst: float) -> int:
    """Ask `times` times, all in flight together; return how often the answer was yes."""
    replies = await asyncio.gather(*(client.call(Acquire(key, rate, burst)) for _ in range(times)))
    return sum(isinstance(reply, Granted) for reply in replies)


async def admitted(limiter: RouteLimiter, times: int, key: str, rate: float, burst: float) -> int:
    answers: list[bool] = []
    for _ in range(times):
        limiter.admit(key, rate, burst, answers.append)
    deadline = time.monotonic() + LIMIT_S
    while len(answers) < times:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert len(answers) == times
    return sum(answers)


async def test_burst_then_denied(stage: Stage) -> None:
    start(stage)
    async with sender(stage) as client:
        assert await granted(client, 20, "a", SLOW, 5) == 5
        denied = await client.call(Acquire("a", SLOW, 5))
        assert isinstance(denied, Denied)
        assert 900 < denied.retry_after <= 1000
        assert await granted(client, 3, "b", SLOW, 2) == 2  # another key is another bucket
        assert await client.call(DescribeLimiter()) == LimiterDescription(buckets=2, granted=7, denied=17)


async def test_refill(stage: Stage) -> None:
    start(stage)
    async with sender(stage) as client:
        began = time.monotonic()
        assert await granted(client, 2, "a", 20.0, 1) == 1
        denied = await client.call(Acquire("a", 20.0, 1))
        assert isinstance(denied, Denied) and denied.retry_after <= 0.05
        asked = 0
        while isinstance(await client.call(Acquire("a", 20.0, 1)), Denied):
            asked += 1
            assert time.monotonic() - began < LIMIT_S
            await asyncio.sleep(0.005)
        assert time.monotonic() - began >= 0.049


async def test_two_senders_share_one_bucket(stage: Stage) -> None:
    start(stage)
    async with sender(stage) as one, sender(stage) as two:
        both = await asyncio.gather(granted(one, 100, "a", SLOW, 64), granted(two, 100, "a", SLOW, 64))
        assert sum(both) == 64


async def test_limits_that_no_bucket_can_have_are_refused(stage: Stage) -> None:
    start(stage)
    async with sender(stage) as client:
        for rate, burst in ((0.0, 1.0), (-1.0, 1.0), (1.0, 0.5), (float("nan"), 1.0)):
            with pytest.raises(MailboxRefused, match="expected above 0"):
                await client.call(Acquire("a", rate, burst))
        assert await granted(client, 1, "a", 1.0, 1.0) == 1


async def test_a_full_table_denies_new_keys(stage: Stage) -> None:
    start(stage, capacity=2)
    async with sender(stage) as client:
        assert await granted(client, 2, "a", SLOW, 2) == 2
        assert await granted(client, 2, "b", SLOW, 2) == 2
        assert isinstance(await client.call(Acquire("c", SLOW, 2)), Denied)
        description = await client.call(DescribeLimiter())
        assert description.buckets == 2


async def test_acceptors_get_one_bucket_up_and_their_shares_down(stage: Stage) -> None:
    process = start(stage)
    async with sender(stage) as one, sender(stage) as two:
        alone: Counter[MailboxClient] = Counter()
        limiters = [
            RouteLimiter(client, acceptors=2, on_alone=lambda client=client: alone.update([client]))  # type: ignore[misc]
            for client in (one, two)
        ]
        up = [await admitted(limiter, 30, "a", SLOW, 40) for limiter in limiters]
        assert sum(up) == 40
        assert not alone
        process.kill()
        deadline = time.monotonic() + LIMIT_S
        while one.connected or two.connected:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        assert [await admitted(limiter, 30, "a", SLOW, 40) for limiter in limiters] == [20, 20]
        assert alone == {one: 30, two: 30}


async def test_a_limiter_that_hangs_is_waited_for_50_ms(stage: Stage) -> None:
    process = start(stage)
    async with sender(stage) as client:
        limiter = RouteLimiter(client, acceptors=4)
        process.signal(signal.SIGSTOP)
        began = time.monotonic()
        assert await admitted(limiter, 10, "a", SLOW, 16) == 4
        assert 0.025 <= time.monotonic() - began < LIMIT_S
        process.signal(signal.SIGCONT)
        deadline = time.monotonic() + LIMIT_S
        while not isinstance(await client.call(DescribeLimiter()), LimiterDescription):
            assert time.monotonic() < deadline
        # Questions whose sender no longer waits take no token.
        assert await admitted(limiter, 20, "a", SLOW, 16) == 16


async def test_life_and_end(stage: Stage) -> None:
    process = start(stage)
    assert process.wait_beat().depth == 0
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        process.signal(number)
    async with sender(stage) as client:
        assert await granted(client, 1, "a", SLOW, 1) == 1
        process.ask_to_stop(2.0)
        assert process.wait_exit() == 0
    assert "rate-limiter.sock" not in os.listdir(stage.runtime_dir)


@pytest.mark.parametrize("how", ["asked", "orphaned"])
def test_ends_cleanly(stage: Stage, how: str) -> None:
    process = start(stage)
    if how == "asked":
        process.ask_to_stop(2.0)
    else:
        process.orphan()
    assert process.wait_exit() == 0


def test_says_why_it_cannot_run(stage: Stage) -> None:
    with open(stage.mailbox(NAME), "w"):
        pass
    process = stage.start(NAME, run_rate_limiter, LimiterSettings(stage.runtime_dir), ready=False)
    assert "is not a socket" in process.wait_failed()
    assert process.wait_exit() == 1
