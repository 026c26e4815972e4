"""The search for an upstream: which are tried, in which order, how often, and for how long."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pytest

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.connection.connector import Connector
from symphony.connection.ledger import Ledger
from symphony.connection.resolver import Address, Resolver
from symphony.connection.state import ServingState
from symphony.observe.counters import CounterPage
from symphony.observe.reasons import Reason
from symphony.relay.host import RelayHost
from symphony.routing.balancer import LeastConnections
from symphony.routing.plan import Planner
from symphony.routing.pool import UpstreamPool
from symphony.routing.upstream import UpstreamSlot
from symphony.tls.context import BaseContext
from tests.support.acceptor import snapshot
from tests.support.peers import UpstreamHost

BASE = BaseContext()


class NoLimiter:
    def admit(self, key: str, rate: float, burst: float, callback: Callable[[bool], None]) -> None:
        callback(True)


class Recording(LeastConnections):
    """Notes what it has picked."""

    __slots__ = ("picked",)

    def __init__(self, slots: tuple[UpstreamSlot, ...]) -> None:
        super().__init__(slots)
        self.picked: list[str] = []

    def pick(self, excluded: Collection[UpstreamSlot] = (), address: str = "") -> UpstreamSlot | None:
        slot = super().pick(excluded, address)
        if slot is not None:
            self.picked.append(slot.upstream.label)
        return slot


class SlowNames(Resolver):
    """Knows no name until it is told to answer."""

    __slots__ = ("waiting",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.waiting: list[Callable[[Sequence[Address]], None]] = []

    def addresses(self, host: str, port: int, callback: Callable[[Sequence[Address]], None]) -> bool:
        if host != "slow.test":
            return super().addresses(host, port, callback)
        self.waiting.append(callback)
        return False


class Search:
    """One search over some upstreams, and what came of it."""

    def __init__(self, *upstreams: Upstream) -> None:
        self.upstreams = upstreams
        self.outcomes: list[Any] = []
        self.errors: list[BaseException] = []

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        host = RelayHost(loop, 65536, self.errors.append)
        pages = [CounterPage([])]
        plan = await Planner().build(snapshot())
        self.state = ServingState(host, BASE, plan, Ledger(pages[0]), NoLimiter(), pages)
        self.names = self.state.resolver = SlowNames(loop)
        pool = UpstreamPool()
        self.balancer = Recording(tuple(pool.slot(upstream) for upstream in self.upstreams))
        self.connector = Connector(
            self.state,
            self.balancer,
            lambda sock, slot: self.outcomes.append((sock, slot)),
            lambda reason, detail: self.outcomes.append((reason, detail)),
        )
        self.connector.start()

    async def end(self, limit_s: float = 20.0) -> Any:
        """Wait for the outcome, of which there is only one."""
        await self.decided(limit_s)
        await self.close()
        return self.outcomes[0]

    async def decided(self, limit_s: float = 20.0) -> None:
        """Wait for the outcome, and leave the connection open."""
        deadline = time.monotonic() + limit_s
        while not self.outcomes:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        await asyncio.sleep(0.15)  # nothing more may come: some ticks of the timer wheel
        assert len(self.outcomes) <= 1 and self.errors == []
        assert len(self.state.host.wheel) == 0
        self.state.host.close()
        for outcome in self.outcomes:
            if not isinstance(outcome[0], Reason):
                outcome[0].close()

    @property
    def active(self) -> list[int]:
        return [slot.active for slot in self.balancer.slots]


@pytest.fixture
def alive() -> Iterator[UpstreamHost]:
    host = UpstreamHost("tcp")
    yield host
    host.close()


def missing(number: int) -> UdsUpstream:
    return UdsUpstream(path=f"/tmp/sy-not-there-{number}")


async def test_each_is_tried_once_and_the_last_reason_is_told() -> None:
    search = Search(*(missing(number) for number in range(5)))
    await search.begin()
    reason, detail = await search.end()
    assert (reason, detail) == (
        Reason.UPSTREAM_MISSING,
        "unix:/tmp/sy-not-there-4: No such file or directory",
    )
    assert search.balancer.picked == [f"unix:/tmp/sy-not-there-{number}" for number in range(5)]
    assert search.active == [0] * 5


async def test_search_ends_at_the_first_that_answers(alive: UpstreamHost) -> None:
    good = TcpUpstream(host="127.0.0.1", port=alive.port)
    search = Search(missing(1), good, missing(2))
    await search.begin()
    _, slot = await search.end()
    assert slot.upstream == good
    assert search.balancer.picked == ["unix:/tmp/sy-not-there-1", good.label]
    assert search.active == [0, 1, 0]  # counted for whoever has it now
    alive.accept().sock.close()


async def test_an_upstream_that_is_gone_without_a_word_is_noticed(alive: UpstreamHost) -> None:
    """By keepalive, after two minutes; with the system's own times it would be more than two hours."""
    search = Search(TcpUpstream(host="127.0.0.1", port=alive.port))
    await search.begin()
    await search.decided()
    sock = search.outcomes[0][0]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    times = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert [sock.getsockopt(socket.IPPROTO_TCP, time) for time in times] == [60, 15, 4]
    await search.end()
    alive.accept().sock.close()


async def test_hundreds_of_dead_upstreams_are_gone_through(alive: UpstreamHost) -> None:
    dead = [UdsUpstream(path=f"/tmp/sy-nobody-listens-{number}") for number in range(800)]
    good = TcpUpstream(host="127.0.0.1", port=alive.port)
    search = Search(*dead, good)
    await search.begin()
    _, slot = await search.end()
    assert slot.upstream == good
    assert sorted(search.balancer.picked) == sorted(upstream.label for upstream in search.upstreams)


async def test_all_addresses_of_a_name_are_tried(alive: UpstreamHost) -> None:
    search = Search(TcpUpstream(host="slow.test", port=alive.port))
    await search.begin()
    search.names.waiting[0](
        [(socket.AF_INET6, ("::1", alive.port, 0, 0)), (socket.AF_INET, ("127.0.0.1", alive.port))]
    )
    sock, _ = await search.end()
    assert not isinstance(sock, Reason)
    assert len(search.balancer.picked) == 1
    alive.accept().sock.close()


async def test_name_service_that_hangs_is_waited_for_as_long_as_the_upstream(alive: UpstreamHost) -> None:
    search = Search(
        TcpUpstream(host="slow.test", port=1, connect_timeout_ms=200),
        TcpUpstream(host="127.0.0.1", port=alive.port),
    )
    began = time.monotonic()
    await search.begin()
    assert search.active == [1, 0]
    sock, slot = await search.end()
    assert 0.2 <= time.monotonic() - began < 4.0
    assert not isinstance(sock, Reason) and slot.upstream.port == alive.port
    assert search.active == [0, 1]
    alive.accept().sock.close()


async def test_answer_that_comes_too_late_is_nobodys_business() -> None:
    search = Search(TcpUpstream(host="slow.test", port=1, connect_timeout_ms=100))
    await search.begin()
    reason, detail = await search.end()
    assert reason is Reason.UPSTREAM_UNRESOLVED and "in time" in detail
    search.names.waiting[0]([(socket.AF_INET, ("127.0.0.1", 1))])
    assert len(search.outcomes) == 1 and search.active == [0]


async def test_late_answer_does_not_disturb_the_attempt_under_way() -> None:
    search = Search(
        TcpUpstream(host="slow.test", port=1, connect_timeout_ms=100),
        TcpUpstream(host="slow.test", port=2, connect_timeout_ms=20_000),
    )
    await search.begin()
    deadline = time.monotonic() + 15
    while len(search.names.waiting) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    search.names.waiting[0]([])
    assert search.outcomes == [] and search.active == [0, 1]
    search.names.waiting[1]([])
    assert (await search.end())[0] is Reason.UPSTREAM_UNRESOLVED


async def test_cancelled_search_leaves_nothing(alive: UpstreamHost) -> None:
    for upstream in (
        TcpUpstream(host="slow.test", port=1),
        TcpUpstream(host="127.0.0.1", port=alive.port),
    ):
        search = Search(upstream)
        await search.begin()
        if not search.outcomes:
            search.connector.cancel()
            for answer in search.names.waiting:
                answer([(socket.AF_INET, ("127.0.0.1", alive.port))])
            assert search.outcomes == [] and search.active == [0]
        await search.close()
