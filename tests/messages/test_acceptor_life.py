"""An acceptor's beginning and end, and what it does for a neighbour that is gone."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator

import pytest
from OpenSSL import SSL

from symphony.config.model import UdsUpstream
from symphony.config.snapshot import Snapshot
from symphony.mailbox.client import ask
from symphony.messages.acceptor import AcceptorDescription, AcceptorReply, DescribeAcceptor
from symphony.observe.counters import ACCEPTED, ACTIVE, BYTES_DOWN, BYTES_UP, HANDSHAKES
from symphony.observe.reasons import Reason
from tests.support.acceptor import AcceptorRig, complaints, route, snapshot, wait_until
from tests.support.actor_process import Stage
from tests.support.peers import UpstreamHost
from tests.support.site import Site, ended_by_reset, exchange
from tests.support.tls_client import SteppedClient, connect

LIMIT_S = 20.0
NOT_TLS = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture
def rig(stage: Stage, upstream: UpstreamHost) -> Iterator[AcceptorRig]:
    rig = AcceptorRig(stage, routes(upstream), acceptors=2)
    yield rig
    rig.close()


@pytest.fixture
def lone(stage: Stage, upstream: UpstreamHost) -> Iterator[AcceptorRig]:
    """With one acceptor only."""
    rig = AcceptorRig(stage, routes(upstream))
    yield rig
    rig.close()


def routes(upstream: UpstreamHost) -> Snapshot:
    return snapshot(route("localhost", UdsUpstream(path=upstream.path)))


async def adopted_by(stage: Stage, name: str) -> tuple[str, ...]:
    reply = await ask(stage.mailbox(name), DescribeAcceptor(), AcceptorReply, LIMIT_S)
    assert isinstance(reply, AcceptorDescription)
    return reply.adopted


# A neighbour that is gone


def queue_up(rig: AcceptorRig, times: int) -> list[socket.socket]:
    """Connections that say something which is answered by a reset as soon as somebody looks."""
    socks = [connect(rig.port) for _ in range(times)]
    for sock in socks:
        try:
            sock.sendall(NOT_TLS)
        except ConnectionError:
            pass  # answered already
    return socks


async def test_orphaned_listening_socket_is_adopted_and_given_back(stage: Stage, rig: AcceptorRig) -> None:
    first, second = rig.start(0), rig.start(1)
    second.kill()
    waiting = queue_up(rig, 40)
    served = rig.pages[0].values[ACCEPTED]
    wait_until(lambda: rig.pages[0].values[ACCEPTED] > 0, "its own connections are served")
    began = time.monotonic()
    first.tell_sibling("acceptor-1", up=False)
    for sock in waiting:
        assert ended_by_reset(sock)
        sock.close()
    assert time.monotonic() - began < 5  # 200 ms, but the machine is shared
    assert rig.pages[0].values[ACCEPTED] == 40 > served
    assert await adopted_by(stage, "acceptor-0") == ("acceptor-1",)

    rig.start(1)
    first.tell_sibling("acceptor-1", up=True)
    deadline = time.monotonic() + LIMIT_S
    while await adopted_by(stage, "acceptor-0"):
        assert time.monotonic() < deadline
    before = [page.values[ACCEPTED] for page in rig.pages]
    for sock in queue_up(rig, 40):
        assert ended_by_reset(sock)
        sock.close()
    took = [page.values[ACCEPTED] - start for page, start in zip(rig.pages, before, strict=True)]
    assert sum(took) == 40 and all(took)
    wait_until(lambda: rig.count(Reason.NOT_TLS) == 80, "all are counted")
    assert complaints(first) == []


async def test_neighbour_that_is_back_at_once_is_not_stood_in_for(stage: Stage, rig: AcceptorRig) -> None:
    first = rig.start(0)
    for _ in range(3):
        first.tell_sibling("acceptor-1", up=False)
        first.tell_sibling("acceptor-1", up=True)
    first.tell_sibling("rate-limiter", up=False)  # nobody with sockets to adopt
    began = time.monotonic()
    while time.monotonic() - began < 0.4:  # more than an adoption takes
        assert await adopted_by(stage, "acceptor-0") == ()
        first.wait_beat()
    assert "adopting" not in first.log()


async def test_adopted_connections_outlive_the_giving_back(
    stage: Stage, rig: AcceptorRig, upstream: UpstreamHost
) -> None:
    first = rig.start(0)
    first.tell_sibling("acceptor-1", up=False)
    deadline = time.monotonic() + LIMIT_S
    while not await adopted_by(stage, "acceptor-0"):
        assert time.monotonic() < deadline
    site = Site(rig, first, upstream)
    kept = [site.open() for _ in range(12)]  # some of them by the neighbour's socket
    second = rig.start(1)
    first.tell_sibling("acceptor-1", up=True)
    while await adopted_by(stage, "acceptor-0"):
        assert time.monotonic() < deadline
    for client, server in kept:
        exchange(client, server)
        for peer in (client, server):
            peer.sock.shutdown(socket.SHUT_RDWR)  # the second acceptor was forked with copies of them
            peer.sock.close()
    wait_until(lambda: rig.active == 0, "all are over")
    assert complaints(first) == complaints(second) == []


# The end


def test_stop_lets_open_connections_finish_and_takes_no_new_ones(
    lone: AcceptorRig, upstream: UpstreamHost
) -> None:
    process = lone.start()
    client, server = Site(lone, process, upstream).open()
    process.signal(signal.SIGSTOP)
    waiting = connect(lone.port)  # in the kernel's queue when the stop comes: it is served
    waiting.sendall(NOT_TLS)
    process.ask_to_stop(10.0)
    process.signal(signal.SIGCONT)
    assert ended_by_reset(waiting)
    waiting.close()
    wait_until(lambda: lone.count(Reason.NOT_TLS) == 1, "it is counted")
    wait_until(lambda: '"stopping"' in process.log(), "it has begun to stop")
    for _ in range(3):
        exchange(client, server)
    # Nobody is made to wait for an acceptor that never comes.
    wait_until(lambda: _refused(lone.port), "new connections are refused")
    for _ in range(3):
        exchange(client, server)
    server.send(b"the end")
    server.sock.close()
    assert client.receive() == b"the end"
    assert client.receive() == b""
    client.sock.close()
    assert process.wait_exit() == 0
    assert lone.failures.pop("not_tls") == 1
    assert set(lone.failures) <= {
        "not_tls",
        "client_left",
    }  # a probe of the port may have come before it was freed
    assert lone.active == 0
    assert complaints(process) == []


def test_stop_without_connections_is_immediate(lone: AcceptorRig) -> None:
    process = lone.start()
    began = time.monotonic()
    process.ask_to_stop(10.0)
    assert process.wait_exit() == 0
    assert time.monotonic() - began < 8.0


def test_connections_that_outlast_the_grace_are_ended_and_counted(
    lone: AcceptorRig, upstream: UpstreamHost
) -> None:
    process = lone.start()
    site = Site(lone, process, upstream)
    kept = [site.open() for _ in range(3)]
    shaking = connect(lone.port)
    shaking.sendall(SteppedClient("localhost").hello())
    wait_until(lambda: lone.total(ACCEPTED) == 4, "all are accepted")
    began = time.monotonic()
    process.ask_to_stop(0.8)
    for client, server in kept:
        assert ended_by_reset(client.sock)
        assert server.receive() == b""
        client.sock.close()
        server.sock.close()
    assert ended_by_reset(shaking)
    shaking.close()
    assert process.wait_exit() == 0
    assert 0.5 < time.monotonic() - began < 10.0
    assert lone.failures == {"drain_timeout": 4}
    assert lone.active == 0
    assert complaints(process) == []


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_acceptor_that_is_on_its_own_frees_the_port_drains_and_ends(
    lone: AcceptorRig, upstream: UpstreamHost
) -> None:
    process = lone.start()
    client, server = Site(lone, process, upstream).open()
    process.signal(
        signal.SIGTERM
    )  # a service manager sends it to every process; it is the supervisor's to act on
    exchange(client, server)
    process.orphan()
    wait_until(lambda: _refused(lone.port), "the port is free although a connection is open")
    for _ in range(3):
        exchange(client, server)
    server.sock.close()
    assert client.receive() == b""
    client.sock.close()
    assert process.wait_exit() == 0
    assert set(lone.failures) <= {"client_left"}  # a probe of the port may have come before it was freed
    assert lone.active == 0
    assert complaints(process) == []


def test_second_stop_shortens_the_first(lone: AcceptorRig, upstream: UpstreamHost) -> None:
    process = lone.start()
    client, server = Site(lone, process, upstream).open()
    process.ask_to_stop(60.0)
    wait_until(lambda: '"stopping"' in process.log(), "it has begun to stop")
    for _ in range(3):
        exchange(client, server)
    process.ask_to_stop(0.0)
    assert process.wait_exit(LIMIT_S) == 0
    client.sock.close()
    server.sock.close()


# Killed and started again


def test_totals_survive_a_kill_and_gauges_begin_anew(lone: AcceptorRig, upstream: UpstreamHost) -> None:
    process = lone.start()
    site = Site(lone, process, upstream)
    for sock in queue_up(lone, 5):
        assert ended_by_reset(sock)
        sock.close()
    for _ in range(2):
        client, server = site.open()
        exchange(client, server)
        server.sock.close()
        assert client.receive() == b""
        client.sock.close()
    wait_until(lambda: lone.active == 0, "both are over")
    client, server = site.open()
    exchange(client, server)
    slots = (ACCEPTED, HANDSHAKES, BYTES_UP, BYTES_DOWN)
    wait_until(lambda: [lone.total(slot) for slot in slots] == [8, 3, 400, 600], "all are counted")
    assert lone.total(ACTIVE) == 1
    process.kill()
    with pytest.raises(SSL.Error):
        assert client.receive()  # cut off: no close_notify says that it was all
    client.sock.close()
    server.sock.close()

    waiting = queue_up(lone, 3)  # the listening socket is still open: they wait for the successor
    lone.start()
    for sock in waiting:
        assert ended_by_reset(sock)
        sock.close()
    wait_until(lambda: lone.active == 0, "all are over")
    assert [lone.total(slot) for slot in slots] == [11, 3, 400, 600]
    assert lone.count(Reason.NOT_TLS) == 8
    page = lone.pages[0]
    assert page.values[page.listener_slot("127.0.0.1:0") + 1] == 0
