"""Limits on single source addresses: exact over several acceptors, whoever of them or the limiter is killed.

Clients choose their source address by binding to one of 127.0.0.0/8. What is let in is passed through to an upstream
that answers; what is refused is reset.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pytest

from actors.rate_limiter import LimiterSettings, run_rate_limiter
from symphony.config.snapshot import ProtectionEntry, Snapshot
from symphony.observe.counters import DECIDED_ALONE
from symphony.observe.reasons import Reason
from symphony.protection.penalty import SourceLimits
from symphony.protection.source_store import BOXED, SourceStore
from tests.support.acceptor import AcceptorRig, complaints, route, snapshot, wait_until
from tests.support.actor_process import ActorProcess, Stage
from tests.support.greeter import Greeter
from tests.support.registry_stand_in import registry, until
from tests.support.sources import connect_from
from tests.support.tls_client import SteppedClient

SLOW = 0.001  # connections a second: nothing is refilled while a test runs
LIMIT_S = 10.0


T = TypeVar("T")


class Place:
    """A limiter, acceptors that serve one passthrough route, and an upstream that greets."""

    def __init__(self, stage: Stage, limits: SourceLimits, acceptors: int, **protection: object) -> None:
        self._source = 0
        self.stage = stage
        self.greeter = Greeter()
        self.limiter_settings = LimiterSettings(stage.runtime_dir, sources=SourceStore(10_000))
        self.limiter = self.start_limiter()
        sources = self.limiter_settings.sources
        self.rig = AcceptorRig(stage, self.snapshot(limits, **protection), acceptors, sources)
        self.acceptors = [self.rig.start(index) for index in range(acceptors)]

    def snapshot(self, limits: SourceLimits, version: int = 1, **protection: object) -> Snapshot:
        return snapshot(
            route("", self.greeter.upstream, terminate=False),
            version=version,
            protection=ProtectionEntry(limits=limits, **protection),  # type: ignore[arg-type]
        )

    def start_limiter(self) -> ActorProcess:
        return self.stage.start("rate-limiter", run_rate_limiter, self.limiter_settings)

    async def exactly(self, run: Callable[[str], Awaitable[T]]) -> T:
        """What came of `run` with a fresh source address, the limiter having answered every question of it in time.

        On a machine that is too busy for that, acceptors decide alone, as they are to do, and it is tried again.
        """
        for _ in range(10):
            self._source += 1
            before = self.rig.total(DECIDED_ALONE)
            found = await run(f"127.0.9.{self._source}")
            if self.rig.total(DECIDED_ALONE) == before:
                return found
        raise AssertionError("the limiter never answered in time")

    def refused(self) -> set[str]:
        return set(self.rig.failures)

    def complaints(self) -> list[str]:
        return [line for process in (*self.acceptors, self.limiter) for line in complaints(process)]

    def close(self) -> None:
        self.rig.close()
        self.greeter.close()


HELLO = SteppedClient("any.test").hello()


async def attempt(source: str, port: int, hello: bytes = HELLO) -> tuple[bool, socket.socket]:
    """Connect from `source` and say hello. Whether it was answered; and the socket, which is closed if not."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    try:
        async with asyncio.timeout(LIMIT_S):
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, hello)
            if await loop.sock_recv(sock, 1):
                return True, sock
    except (ConnectionResetError, BrokenPipeError):
        pass
    sock.close()
    return False, sock


async def try_many(source: str, port: int, times: int, at_once: int = 32) -> int:
    """How many of `times` connections are let in; they are closed at once."""
    let_in = 0
    gate = asyncio.Semaphore(at_once)

    async def one() -> None:
        nonlocal let_in
        async with gate:
            answered, sock = await attempt(source, port)
            let_in += answered
            sock.close()

    await asyncio.gather(*(one() for _ in range(times)))
    return let_in


async def hold_many(source: str, port: int, times: int) -> list[socket.socket]:
    """The connections of `times` that are let in, all tried at the same time and kept."""
    tried = await asyncio.gather(*(attempt(source, port) for _ in range(times)))
    return [sock for answered, sock in tried if answered]


def end(sock: socket.socket) -> None:
    """End a connection, also when a process that was forked meanwhile has its socket."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def drop(held: list[socket.socket]) -> None:
    for sock in held:
        end(sock)
    held.clear()


@pytest.mark.parametrize("acceptors", [1, 2, 4])
async def test_at_five_times_its_rate_a_source_gets_its_rate(stage: Stage, acceptors: int) -> None:
    rate, burst = 40.0, 20.0
    place = Place(stage, SourceLimits(rate, burst), acceptors)

    async def overload(source: str) -> tuple[int, float, float]:
        """How many are let in, and the time from the first to the last attempt, and to the last answer."""
        began = due = time.monotonic()
        running: set[asyncio.Task[tuple[bool, socket.socket]]] = set()
        while due < began + 3.0:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            running.add(asyncio.create_task(attempt(source, place.rig.port)))
            due += 1 / (5 * rate)
        last = time.monotonic()
        tried = await asyncio.gather(*running)
        drop([sock for answered, sock in tried if answered])
        return sum(answered for answered, _ in tried), last - began, time.monotonic() - began

    try:
        let_in, tried_for, took = await place.exactly(overload)
        assert 0.95 * (burst + rate * tried_for) <= let_in <= burst + rate * took
        assert place.refused() == {"rate_limited"}
        assert place.complaints() == []
    finally:
        place.close()


@pytest.mark.parametrize("acceptors", [1, 2])
async def test_a_burst_is_exact_and_each_source_has_its_own(stage: Stage, acceptors: int) -> None:
    place = Place(stage, SourceLimits(SLOW, 20.0, 60 * SLOW, 30.0), acceptors)

    async def overload(source: str) -> list[int]:
        return [await try_many(source, place.rig.port, times) for times in (60, 20)]

    try:
        for _ in range(2):
            assert await place.exactly(overload) == [20, 0]
        wait_until(lambda: place.rig.active == 0, "all are over")
        assert place.refused() == {"rate_limited"}
        assert place.complaints() == []
    finally:
        place.close()


async def test_the_bucket_per_minute_has_its_own_reason(stage: Stage) -> None:
    place = Place(stage, SourceLimits(1000.0, 1000.0, 60 * SLOW, 7.0), 2)
    try:
        assert await place.exactly(lambda source: try_many(source, place.rig.port, 20)) == 7
        wait_until(lambda: place.refused() == {"sustained_limited"}, "they are counted")
    finally:
        place.close()


async def test_who_is_allowed_is_not_counted(stage: Stage) -> None:
    greeter = Greeter()
    served = snapshot(
        route("", greeter.upstream, terminate=False),
        protection=ProtectionEntry(limits=SourceLimits(SLOW, 1.0, max_concurrent=1)),
        allowlist=["127.0.1.0/24"],
    )
    rig = AcceptorRig(stage, served)
    try:
        rig.start()
        held = await hold_many("127.0.1.7", rig.port, 20)
        assert len(held) == 20
        drop(held)
        # Nobody is there to ask about others: this one acceptor has all of what they may.
        assert await try_many("127.0.2.7", rig.port, 20) == 1
    finally:
        rig.close()
        greeter.close()


# ---- the penalty box


async def test_who_exceeds_is_refused_for_the_penalty_and_longer_if_it_goes_on(stage: Stage) -> None:
    place = Place(stage, SourceLimits(8.0, 2.0, penalty_s=1.0), 2)
    try:
        port = place.rig.port
        assert 2 <= await try_many("127.0.1.1", port, 10) < 10
        began = time.monotonic()
        while time.monotonic() - began < 2.5:  # many times its rate
            assert await try_many("127.0.1.1", port, 10) == 0
            await asyncio.sleep(0.1)
        assert await try_many("127.0.1.2", port, 1) == 1
        stopped = time.monotonic()
        while await try_many("127.0.1.1", port, 1) == 0:
            assert time.monotonic() < stopped + 20.0
            await asyncio.sleep(0.2)  # within its rate: that does not keep it in
        # What it tried last is told to the limiter up to a quarter of a second later.
        assert time.monotonic() - stopped > 0.8
        assert set(place.rig.failures) == {"rate_limited", "penalty_boxed"}
        assert place.complaints() == []
    finally:
        place.close()


async def test_a_penalty_survives_the_limiter(stage: Stage) -> None:
    place = Place(stage, SourceLimits(SLOW, 4.0, penalty_s=600.0), 2)
    port = place.rig.port
    sources: list[str] = []

    async def exceed(source: str) -> int:
        sources.append(source)
        return await try_many(source, port, 10)

    try:
        assert await place.exactly(exceed) == 4
        assert await place.exactly(lambda source: try_many(source, port, 1)) == 1
        place.limiter.kill()
        assert await try_many(sources[-1], port, 10) == 0
        place.limiter = place.start_limiter()
        await asyncio.sleep(1.2)  # the acceptors' own memory of it is over
        assert await try_many(sources[-1], port, 10) == 0
        assert await place.exactly(lambda source: try_many(source, port, 6)) == 4
    finally:
        place.close()


# ---- the limiter goes away


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_without_the_limiter_no_more_than_a_burst_is_added(stage: Stage, how: str) -> None:
    """Decided alone at once, told afterwards, and from then on as before."""
    burst = 20
    place = Place(stage, SourceLimits(SLOW, burst), acceptors=2)
    port = place.rig.port
    known: list[str] = []

    async def begin(source: str) -> int:
        known.append(source)
        return await try_many(source, port, 12)

    try:
        assert await place.exactly(begin) == 12
        if how == "killed":
            place.limiter.kill()
        else:
            place.limiter.signal(signal.SIGSTOP)
        # Each acceptor has half the burst, less what it let in before.
        alone = await try_many(known[-1], port, 60)
        assert 0 < alone <= burst
        fresh = await try_many("127.0.1.2", port, 60)
        assert burst // 2 <= fresh <= burst
        if how == "killed":
            place.limiter = place.start_limiter()
        else:
            place.limiter.signal(signal.SIGCONT)
        await asyncio.sleep(0.6)  # connected again, and told
        assert await try_many(known[-1], port, 40) <= max(0, burst - 12 - alone)
        assert await try_many("127.0.1.2", port, 40) <= burst - fresh
        assert await place.exactly(lambda source: try_many(source, port, 40)) == burst
    finally:
        place.close()


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("acceptors", [1, 2, 4])
async def test_without_the_limiter_limits_are_as_exact(stage: Stage, how: str, acceptors: int) -> None:
    place = Place(stage, SourceLimits(SLOW, 20.0), acceptors)
    try:
        port = place.rig.port
        if how == "killed":
            place.limiter.kill()
        else:
            place.limiter.signal(signal.SIGSTOP)
        assert await place.exactly(lambda source: try_many(source, port, 60)) == 20
    finally:
        place.close()


async def test_nothing_waits_long_for_an_acceptor_that_hangs_with_a_lock(stage: Stage) -> None:
    """Decided alone after 45 ms, by its share; and what that was more than there were tokens is owed."""
    burst = 10
    place = Place(stage, SourceLimits(SLOW, burst, penalty_s=60.0), 2)
    store = place.limiter_settings.sources
    locks = store.locks

    def boxed() -> bool:
        key = bytes([127, 0, 1, 1])
        known = store.find(0, key, hash((0, key)))
        return known >= 0 and store.numbers[known + BOXED] > time.monotonic()

    try:
        port = place.rig.port
        assert await place.exactly(lambda source: try_many(source, port, 1)) == 1
        assert locks.take_all()  # as a process would have it that is stopped at the worst moment
        try:
            before = place.rig.total(DECIDED_ALONE)
            took, let_in = [], 0
            for _ in range(15):
                began = time.monotonic()
                let_in += await try_many("127.0.1.1", port, 1)
                took.append(time.monotonic() - began)
            assert 0.04 < min(took) < 0.1
            assert place.rig.total(DECIDED_ALONE) == before + 15
            assert burst // 2 <= let_in <= burst
        finally:
            locks.give_all_back()
        await until(boxed, "it is made up for")
        assert await try_many("127.0.1.1", port, 20) == 0, "it has tried more than it may, and is in the box"
        assert await place.exactly(lambda source: try_many(source, port, 20)) == burst
        assert place.complaints() == []
    finally:
        place.close()


@pytest.mark.parametrize("acceptors", [1, 2, 4])
async def test_acceptors_killed_at_any_time_leave_nothing_open_and_nothing_stuck(
    stage: Stage, acceptors: int
) -> None:
    """One source overloads all. An attempt that is lost with an acceptor may have had its token."""
    burst, most = 60.0, 5
    place = Place(stage, SourceLimits(SLOW, burst, max_concurrent=most), acceptors)
    draw = random.Random(acceptors)
    try:
        port = place.rig.port
        let_in = lost = 0
        for turn in range(6):
            index = turn % acceptors
            tried = asyncio.gather(*(attempt("127.0.1.1", port) for _ in range(8)), return_exceptions=True)
            await asyncio.sleep(draw.random() * 0.01)
            place.acceptors[index].kill()
            place.acceptors[index] = place.rig.start(index)
            held = [found for found in await tried if not isinstance(found, BaseException)]
            answered = [sock for was, sock in held if was]
            lost += 8 - len(answered)
            let_in += len(answered)
            drop(answered)
            await until(lambda: place.rig.active == 0, "all are over")
        while more := await try_many("127.0.1.1", port, 4):
            let_in += more
            await until(lambda: place.rig.active == 0, "all are over")
        assert burst - lost <= let_in <= burst
        again = await hold_many("127.0.1.2", port, 20)
        assert len(again) == most, "what the dead held is not counted"
        drop(again)
    finally:
        place.close()


async def test_a_limiter_that_is_killed_often_is_never_open_and_never_stuck(stage: Stage) -> None:
    rate, burst, acceptors = 50.0, 10.0, 2
    place = Place(stage, SourceLimits(rate, burst), acceptors)
    kills = 4
    try:
        began = time.monotonic()
        let_in, slowest = 0, 0.0
        kill_at = began + 0.4
        restart_at = float("inf")
        while (now := time.monotonic()) < began + 4.0:
            if kills and now >= kill_at:
                place.limiter.kill()
                kills -= 1
                kill_at, restart_at = now + 0.8, now + 0.3
            if now >= restart_at:
                place.limiter = place.start_limiter()
                restart_at = float("inf")
            started = time.monotonic()
            let_in += await try_many("127.0.1.1", place.rig.port, 5)
            slowest = max(slowest, time.monotonic() - started)
        allowed = burst + rate * (time.monotonic() - began)
        # What is let in beyond that by acceptors on their own is owed, and at most a burst at any time.
        assert 0.5 * allowed <= let_in <= allowed + burst
        assert slowest < 5.0
        assert place.refused() == {"rate_limited"}
    finally:
        place.close()


# ---- connections open at once


async def test_open_at_once_over_all_acceptors(stage: Stage) -> None:
    place = Place(stage, SourceLimits(max_concurrent=5), 4)
    try:
        port = place.rig.port
        for _ in range(4):
            held = await hold_many("127.0.1.1", port, 25)
            assert len(held) == 5
            others = await hold_many("127.0.1.2", port, 5)
            assert len(others) == 5
            assert await hold_many("127.0.1.1", port, 5) == []
            end(held.pop())
            wait_until(lambda: place.rig.active == 9, "one is over")
            held += await hold_many("127.0.1.1", port, 5)
            assert len(held) == 5
            drop(held)
            drop(others)
            wait_until(lambda: place.rig.active == 0, "all are over")
        assert set(place.rig.failures) == {"too_many_connections"}
        assert place.complaints() == []
    finally:
        place.close()


async def test_what_a_killed_acceptor_held_is_given_back(stage: Stage) -> None:
    place = Place(stage, SourceLimits(max_concurrent=6), 2)
    try:
        port = place.rig.port
        held = await hold_many("127.0.1.1", port, 40)
        assert len(held) == 6
        lost = place.rig.pages[0].values[1]
        place.acceptors[0].kill()
        wait_until(lambda: sum(map(is_reset, held)) == lost, "its connections are gone")
        place.acceptors[0] = place.rig.start(0)
        again: list[socket.socket] = []
        deadline = time.monotonic() + LIMIT_S
        while len(again) < lost:
            again += await hold_many("127.0.1.1", port, 6)
            assert time.monotonic() < deadline
        assert len(again) == lost
        assert await hold_many("127.0.1.1", port, 20) == []
        drop(again)
        drop(held)
    finally:
        place.close()


def is_reset(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_never_one_too_many_while_the_limiter_comes_and_goes(stage: Stage) -> None:
    """Held before, admitted alone, and asked for again: all acceptors together hold what one source may."""
    most = 5
    place = Place(stage, SourceLimits(max_concurrent=most), 4)
    try:
        port = place.rig.port
        held = await hold_many("127.0.1.1", port, 3)
        assert len(held) == 3
        place.limiter.kill()
        for _ in range(3):
            held += await hold_many("127.0.1.1", port, 20)
            assert 3 <= len(held) <= most
        while len(held) < most:  # those that were tried at the same time may all have been refused
            held += await hold_many("127.0.1.1", port, 1)
        assert await hold_many("127.0.1.1", port, 20) == []
        place.limiter = place.start_limiter()
        for _ in range(5):
            assert await hold_many("127.0.1.1", port, 20) == []
        end(held.pop())
        wait_until(lambda: place.rig.active == most - 1, "one is over")
        held += await hold_many("127.0.1.1", port, 20)
        assert len(held) <= most
        drop(held)
        wait_until(lambda: place.rig.active == 0, "all are over")
        held = await hold_many("127.0.1.1", port, 1)
        assert len(held) == 1
        drop(held)
    finally:
        place.close()


# ---- plain HTTP


async def test_limits_hold_on_a_plain_http_listener_too(stage: Stage) -> None:
    served = snapshot(
        mode="http", protection=ProtectionEntry(limits=SourceLimits(SLOW, 7.0, max_concurrent=2))
    )
    rig = AcceptorRig(stage, served, 2)
    try:
        for index in range(2):
            rig.start(index)
        request = b"GET / HTTP/1.1\r\nHost: any.test\r\n\r\n"
        for most in (2, 2, 1):  # seven are counted, with those that are too many
            held = [sock for _, sock in await _answered("127.0.1.1", rig.port, 3, request)]
            assert len(held) == most
            drop(held)
            await until(lambda: rig.active == 0, "all are over")
        assert await _answered("127.0.1.1", rig.port, 3, request) == []
        held = [sock for _, sock in await _answered("127.0.1.2", rig.port, 1, request)]
        assert len(held) == 1
        drop(held)
    finally:
        rig.close()


async def _answered(source: str, port: int, times: int, request: bytes) -> list[tuple[bool, socket.socket]]:
    tried = [await attempt(source, port, request) for _ in range(times)]
    return [found for found in tried if found[0]]


# ---- changes


async def test_limits_change_and_what_is_known_of_sources_stays(stage: Stage) -> None:
    async with registry(stage) as stand_in:
        place = Place(stage, SourceLimits(), 2)
        try:
            port = place.rig.port
            held = await hold_many("127.0.1.1", port, 8)
            assert len(held) == 8
            await until(lambda: len(stand_in.subscriptions) == 2, "both have subscribed")
            # A limit that is new counts what is open already.
            await stand_in.publish_and_wait(place.snapshot(SourceLimits(max_concurrent=9), version=2))
            new = await hold_many("127.0.1.1", port, 10)
            assert len(new) == 1
            drop(new)
            drop(held)
            await until(lambda: place.rig.active == 0, "all are over")
            held = await hold_many("127.0.1.1", port, 20)
            assert len(held) == 9
            # Tokens that are spent stay spent, and who is in the box stays there.
            await stand_in.publish_and_wait(place.snapshot(SourceLimits(SLOW, 3.0), version=3))
            assert await try_many("127.0.1.2", port, 10) == 3
            await stand_in.publish_and_wait(
                place.snapshot(SourceLimits(SLOW, 5.0, penalty_s=60.0), version=4)
            )
            assert await try_many("127.0.1.2", port, 10) == 2
            await stand_in.publish_and_wait(
                place.snapshot(SourceLimits(99.0, 99.0, penalty_s=60.0), version=5)
            )
            assert await try_many("127.0.1.2", port, 10) == 0
            await stand_in.publish_and_wait(place.snapshot(SourceLimits(), version=6))
            assert await try_many("127.0.1.2", port, 10) == 10
            drop(held)
            await until(lambda: place.rig.active == 0, "all are over")
            assert place.complaints() == []
        finally:
            place.close()


# ---- the order of reasons


async def test_the_first_reason_in_order_is_told(stage: Stage) -> None:
    """Out of tokens and without a name; then in the box."""
    place = Place(stage, SourceLimits(SLOW, 1.0), 1, require_sni=True)
    try:
        port = place.rig.port
        assert await try_many("127.0.1.1", port, 1) == 1
        nameless = SteppedClient(None).hello()
        with connect_from("127.0.1.1", port) as sock:
            sock.sendall(nameless)
            assert sock.recv(100).endswith(b"\x02\x6d")
        wait_until(lambda: place.rig.failures == {"no_sni": 1}, "the name is missed first")
        assert await try_many("127.0.1.1", port, 1) == 0
        with connect_from("127.0.1.1", port) as sock:  # says nothing: it is not waited for
            began = time.monotonic()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            assert time.monotonic() - began < 5.0
        wait_until(lambda: place.rig.failures == {"no_sni": 1, "rate_limited": 2}, "all are counted")
        assert Counter(place.rig.pages[0].blocked(place.rig.pages[0].listener_slot("127.0.0.1:0"))) == {
            Reason.NO_SNI.value: 1,
            Reason.RATE_LIMITED.value: 2,
        }
    finally:
        place.close()
