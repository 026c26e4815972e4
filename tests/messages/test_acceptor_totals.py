"""What an acceptor tells of its totals, and of those of a neighbour that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from symphony.config.model import UdsUpstream
from symphony.config.numbering import number_snapshot
from symphony.mailbox.client import ask
from symphony.messages.acceptor import AcceptorReply
from symphony.messages.totals import AcceptorTotals, DescribeTotals
from tests.support.acceptor import LISTENER, AcceptorRig, route, snapshot, wait_until
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import UpstreamHost
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import connect

LIMIT_S = 5.0


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.fixture
def upstream() -> Iterator[UpstreamHost]:
    host = UpstreamHost("uds")
    yield host
    host.close()


async def totals(stage: Stage, name: str = "acceptor-0") -> AcceptorTotals:
    reply = await ask(stage.mailbox(name), DescribeTotals(), AcceptorReply, LIMIT_S)
    assert isinstance(reply, AcceptorTotals)
    return reply


def use(rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
    """One connection that moves 200 bytes up and 300 down, from beginning to end."""
    client, server = Site(rig, process, upstream).open()
    exchange(client, server)
    server.sock.close()
    assert client.receive() == b""
    client.sock.close()
    wait_until(lambda: rig.active == 0, "it is over")


async def test_everything_is_told(stage: Stage, upstream: UpstreamHost) -> None:
    target = UdsUpstream(path=upstream.path)
    routes = number_snapshot(
        snapshot(route("localhost", target), route("unused.test", UdsUpstream(path="/nowhere")), version=7),
        None,
    )
    rig = AcceptorRig(stage, routes)
    process = rig.start()
    try:
        empty = await totals(stage)
        assert (empty.version, empty.held, len(empty.pages)) == (7, 0, 1)
        assert empty.pages[0].routes == empty.pages[0].upstreams == empty.pages[0].suites == {}
        use(rig, process, upstream)
        with connect(rig.port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert ended_by_reset(sock)
        wait_until(lambda: rig.active == 0, "all are over")
        [page] = (await totals(stage)).pages
        assert (page.name, page.accepted, page.active, page.bytes_up, page.bytes_down) == (
            "acceptor-0",
            2,
            0,
            200,
            300,
        )
        assert (page.handshakes, page.resumed, page.errors) == (1, 0, {"not_tls": 1})
        [listener] = page.listeners
        assert (listener.id, listener.accepted, listener.active, listener.blocked) == (LISTENER, 2, 0, {})
        assert list(page.suites.values()) == [(1, 0)] and "other" not in page.suites
        assert page.handshake_time.count == page.connect_time.count == 1
        assert list(page.routes) == ["localhost"] and list(page.upstreams) == [target.label]
        for found in (page.routes["localhost"], page.upstreams[target.label]):
            assert (found.active, found.connections, found.failures) == (0, 1, 0)
            assert (found.bytes_up, found.bytes_down) == (200, 300)
    finally:
        rig.close()


async def test_a_neighbour_speaks_for_one_that_is_gone(stage: Stage, upstream: UpstreamHost) -> None:
    routes = number_snapshot(snapshot(route("localhost", UdsUpstream(path=upstream.path))), None)
    rig = AcceptorRig(stage, routes, acceptors=2)
    first, second = rig.start(0), rig.start(1)
    try:
        for _ in range(30):  # the kernel chooses; that it never chooses the second is as good as impossible
            with connect(rig.port) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert ended_by_reset(sock)
        wait_until(lambda: rig.active == 0, "all are over")
        before = [*(await totals(stage, "acceptor-0")).pages, *(await totals(stage, "acceptor-1")).pages]
        assert [page.name for page in before] == ["acceptor-0", "acceptor-1"]
        assert sum(page.accepted for page in before) == 30 and all(page.accepted for page in before)
        second.kill()
        first.tell_sibling("acceptor-1", up=False)
        async with asyncio.timeout(LIMIT_S):
            while len(after := (await totals(stage)).pages) == 1:
                pass  # each question waits for its answer
        assert list(after) == before
        rig.start(1)
        first.tell_sibling("acceptor-1", up=True)
        async with asyncio.timeout(LIMIT_S):
            while len(again := (await totals(stage)).pages) == 2:
                pass  # each question waits for its answer
        assert [*again, *(await totals(stage, "acceptor-1")).pages] == before
    finally:
        rig.close()
