"""The relays through a real acceptor: every byte arrives, in order, whatever the two ends do to each other.

Each test runs for a terminated connection by TLS 1.2 and 1.3, over a Unix socket and over TCP, for one whose HTTP was
rewritten until it became a WebSocket, and for passthrough.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import select
import signal
import socket
import ssl
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import pytest
from OpenSSL import SSL

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.observe.reasons import Reason
from symphony.relay.http_head import identity_fields
from tests.support.acceptor import (
    AcceptorRig,
    descriptors,
    resident_kib,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import (
    Background,
    Peer,
    PlainPeer,
    TlsPeer,
    UpstreamHost,
    receive_all,
    receive_exactly,
    reset,
)
from tests.support.site import exchange

IDLE_MS = 600


def _hello() -> bytes:
    """A real ClientHello for ``pass.example.test``."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(incoming, outgoing, server_hostname="pass.example.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def upgrade(client: Peer, server: Peer) -> None:
    """Make a WebSocket of a connection on which HTTP requests are rewritten."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client.send(request)
    rewritten = request[:-2] + identity_fields("127.0.0.1") + b"\r\n"
    assert receive_exactly(server, len(rewritten)) == rewritten
    response = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    server.send(response)
    assert receive_exactly(client, len(response)) == response


@dataclass
class Line:
    """A running acceptor and the two ends of it."""

    rig: AcceptorRig
    process: ActorProcess
    upstream: UpstreamHost
    mode: str

    def open(self) -> tuple[Peer, PlainPeer]:
        """A client that is connected through to the upstream."""
        sock = socket.create_connection(("127.0.0.1", self.rig.port), timeout=10)
        sock.settimeout(None)
        client: Peer
        if self.mode == "passthrough":
            client = PlainPeer(sock)
            hello = _hello()
            client.send(hello)
            server = self.upstream.accept()
            assert receive_exactly(server, len(hello)) == hello
        else:
            version = SSL.TLS1_2_VERSION if self.mode == "tls12" else SSL.TLS1_3_VERSION
            name = "upgraded.test" if self.mode == "upgraded" else "localhost"
            client = TlsPeer(sock, name, version=version)
            server = self.upstream.accept()
            if self.mode == "upgraded":
                upgrade(client, server)
        return client, server

    @property
    def terminated(self) -> bool:
        return self.mode != "passthrough"

    def wait_closed(self) -> None:
        wait_until(lambda: self.rig.active == 0, "every connection is over")


@pytest.fixture(
    params=["tls12-uds", "tls13-uds", "tls13-tcp", "upgraded-uds", "passthrough-uds", "passthrough-tcp"],
    scope="module",
)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    mode, kind = request.param.split("-")
    upstream = UpstreamHost(kind)
    target: Upstream = (
        UdsUpstream(path=upstream.path)
        if kind == "uds"
        else TcpUpstream(host="127.0.0.1", port=upstream.port)
    )
    http = msgspec.structs.replace(route("upgraded.test", target), source_address_header="x_forwarded_for")
    routes = snapshot(
        route("localhost", target),
        http,
        route("*.example.test", target, terminate=False),
        idle_timeout_ms=20_000,
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            yield Line(rig, process, upstream, mode)
    finally:
        upstream.close()


def test_request_and_answer(line: Line) -> None:
    client, server = line.open()
    for number in range(50):
        client.send(b"question %d" % number)
        assert receive_exactly(server, len(b"question %d" % number)) == b"question %d" % number
        server.send(b"answer %d" % number)
        assert receive_exactly(client, len(b"answer %d" % number)) == b"answer %d" % number
    server.sock.close()
    assert receive_all(client) == b""
    client.sock.close()
    line.wait_closed()


@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 65535, 65536, 65537, 131072, 3_000_001])
def test_sizes_around_every_boundary_arrive_both_ways(line: Line, size: int) -> None:
    data = random.Random(size).randbytes(size)
    client, server = line.open()
    sending = Background(lambda: client.send(data))
    assert receive_exactly(server, size) == data
    sending.result()
    sending = Background(lambda: server.send(data))
    assert receive_exactly(client, size) == data
    sending.result()
    client.sock.close()
    assert receive_all(server) == b""
    server.sock.close()
    line.wait_closed()


def test_single_bytes(line: Line) -> None:
    data = os.urandom(2000)
    client, server = line.open()

    def send_bytes() -> None:
        for at in range(len(data)):
            client.send(data[at : at + 1])

    sending = Background(send_bytes)
    assert receive_exactly(server, len(data)) == data
    sending.result()
    for at in range(len(data)):
        server.send(data[at : at + 1])
    assert receive_exactly(client, len(data)) == data
    client.sock.close()
    server.sock.close()
    line.wait_closed()


def test_full_duplex_with_full_sockets(line: Line) -> None:
    """Both ends write far more than the sockets hold before either reads."""
    size = 8 << 20
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    client, server = line.open()
    server_sending = Background(lambda: server.send(down))
    server_got = Background(lambda: receive_exactly(server, size))

    if line.terminated:
        # One TLS session is one thread's: send until the socket is full, read, and so on.
        assert isinstance(client, TlsPeer)
        got = _both_ways(client, up, size)
    else:
        client_sending = Background(lambda: client.send(up))
        got = receive_exactly(client, size)
        client_sending.result()
    assert hashlib.sha256(got).digest() == hashlib.sha256(down).digest()
    assert hashlib.sha256(server_got.result()).digest() == hashlib.sha256(up).digest()
    server_sending.result()
    client.sock.close()
    server.sock.close()
    line.wait_closed()


def _both_ways(client: TlsPeer, up: bytes, size: int) -> bytes:
    client.sock.setblocking(False)
    got = bytearray()
    sent = 0
    deadline = time.monotonic() + 60
    while sent < len(up) or len(got) < size:
        assert time.monotonic() < deadline, f"stuck at {sent} sent, {len(got)} received"
        moved = False
        if sent < len(up):
            try:
                sent += client.tls.send(up[sent : sent + 16384])
                moved = True
            except (SSL.WantWriteError, SSL.WantReadError):
                pass
        try:
            got += client.tls.recv(65536)
            moved = True
        except (SSL.WantReadError, SSL.WantWriteError):
            pass
        if not moved:
            select.select([client.sock], [client.sock] if sent < len(up) else [], [], 1)
    client.sock.setblocking(True)
    return bytes(got)


def test_slow_reader_gets_everything_and_memory_stays_flat(line: Line) -> None:
    """Far more than the sockets hold is sent at once, and read slowly at first."""
    blocks, block = 24, random.Random(3).randbytes(1 << 20)
    client, server = line.open()
    before = resident_kib(line.process.pid)

    def send_all() -> None:
        for _ in range(blocks):
            server.send(block)
        server.sock.close()

    sending = Background(send_all)
    most = got = 0
    actual = hashlib.sha256()
    while part := client.receive():
        actual.update(part)
        got += len(part)
        if got < (1 << 20):
            most = max(most, resident_kib(line.process.pid))
            time.sleep(0.002)  # what makes the reader slow
    sending.result()
    most = max(most, resident_kib(line.process.pid))
    expected = hashlib.sha256()
    for _ in range(blocks):
        expected.update(block)
    assert got == blocks << 20
    assert actual.digest() == expected.digest()
    assert most - before < 5 * 1024
    client.sock.close()
    line.wait_closed()


def test_upstream_closes_first_with_bytes_still_to_be_read(line: Line) -> None:
    data = os.urandom(4 << 20)
    client, server = line.open()

    def send_and_close() -> None:
        server.send(data)
        server.sock.close()

    sending = Background(send_and_close)
    time.sleep(0.1)  # not waited for: lets the relay fill the client's socket and see the upstream's end
    assert receive_all(client) == data
    sending.result()
    client.sock.close()
    line.wait_closed()


def test_client_half_closes_and_still_gets_the_answer(line: Line) -> None:
    data = os.urandom(300_000)
    client, server = line.open()
    sending = Background(lambda: (client.send(data), client.end()))
    assert receive_all(server) == data
    sending.result()
    server.send(data)
    server.sock.close()
    assert receive_all(client) == data
    client.sock.close()
    line.wait_closed()


def test_upstream_half_closes_and_still_gets_the_rest(line: Line) -> None:
    data = os.urandom(300_000)
    client, server = line.open()
    server.send(b"the end")
    server.end()
    assert receive_all(client) == b"the end"
    sending = Background(lambda: (client.send(data), client.end()))
    assert receive_all(server) == data
    sending.result()
    client.sock.close()
    server.sock.close()
    line.wait_closed()


def test_client_that_closes_its_socket_without_saying_so_ends_its_direction(line: Line) -> None:
    client, server = line.open()
    client.send(b"last words")
    client.sock.shutdown(socket.SHUT_WR)
    assert receive_all(server) == b"last words"
    server.send(b"answer")
    server.sock.close()
    assert receive_all(client) == b"answer"
    client.sock.close()
    line.wait_closed()


def test_client_reset_reaches_the_upstream(line: Line) -> None:
    before = line.rig.count(Reason.CLIENT_RESET)
    client, server = line.open()
    client.send(b"x")
    assert server.receive() == b"x"
    reset(client.sock)
    try:
        assert server.receive() == b""
    except ConnectionResetError:
        pass
    server.sock.close()
    line.wait_closed()
    assert line.rig.count(Reason.CLIENT_RESET) == before + 1


def test_upstream_reset_is_no_orderly_end_for_the_client(line: Line) -> None:
    client, server = line.open()
    server.send(b"half an ans")
    assert receive_exactly(client, 11) == b"half an ans"
    if server.sock.family == socket.AF_UNIX:
        client.send(b"unread")  # a Unix socket closed with bytes unread resets its peer
        wait_until(lambda: select.select([server.sock], [], [], 0)[0], "the bytes are there")
        server.sock.close()
    else:
        reset(server.sock)
    with pytest.raises((ConnectionResetError, SSL.SysCallError, SSL.Error)):
        assert receive_all(client) != b"", "an orderly end"
        raise AssertionError("the client saw an orderly end of a cut answer")
    client.sock.close()
    line.wait_closed()
    assert line.rig.count(Reason.UPSTREAM_RESET) >= 1


def test_upstream_that_answers_early_and_leaves_is_heard_to_the_end(line: Line) -> None:
    """The upstream refuses a large upload half-way: its answer must arrive although the client still sends."""
    answer = os.urandom(50_000)
    client, server = line.open()
    client.send(b"x" * 100_000)
    assert receive_exactly(server, 100_000) == b"x" * 100_000
    server.send(answer)
    server.sock.close()
    if server.sock.family != socket.AF_UNIX:
        # A TCP service that is sent more after it closed loses what its own kernel still holds; so let that arrive.
        wait_until(lambda: _unread(client.sock) >= len(answer), "the answer has arrived")
    client.send(b"y" * 100_000)
    assert receive_exactly(client, len(answer)) == answer
    client.sock.close()
    line.wait_closed()


def _unread(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_upstream_that_closes_with_the_upload_unread_is_heard_to_the_end(line: Line) -> None:
    answer = os.urandom(150_000)
    client, server = line.open()
    client.send(b"z" * 1000)
    wait_until(lambda: select.select([server.sock], [], [], 0)[0], "the bytes are there")
    received = Background(lambda: receive_exactly(client, len(answer)))
    server.send(answer)
    if server.sock.family != socket.AF_UNIX:
        received.result()  # a TCP close with bytes unread drops what is not sent yet, before any proxy sees it
    server.sock.close()
    assert received.result() == answer
    client.sock.close()
    line.wait_closed()


def test_reset_found_by_a_write_is_no_orderly_end_either(line: Line) -> None:
    client, server = line.open()
    server.send(b"half an ans")
    assert receive_exactly(client, 11) == b"half an ans"
    # The acceptor finds bytes to write before it is told of the reset.
    line.process.signal(signal.SIGSTOP)
    try:
        client.send(b"y" * 1000)
        if server.sock.family == socket.AF_UNIX:
            server.sock.close()
        else:
            reset(server.sock)
    finally:
        line.process.signal(signal.SIGCONT)
    if server.sock.family == socket.AF_UNIX:
        assert receive_all(client) == b""  # nothing was unread: for a Unix socket this is an orderly end
    else:
        with pytest.raises((ConnectionResetError, SSL.SysCallError, SSL.Error)):
            receive_all(client)
    client.sock.close()
    line.wait_closed()


def test_bytes_and_the_end_in_one_flight(line: Line) -> None:
    """Full records with close_notify right behind them: the end is found while reading on, with no event of its own."""
    for size in (16384, 32768, 49152, 65536, 65537):
        data = os.urandom(size)
        client, server = line.open()
        client.send(data)
        client.end()
        client.sock.shutdown(socket.SHUT_WR)
        assert receive_all(server) == data
        server.sock.close()
        client.sock.close()
    line.wait_closed()


def test_upstream_blocked_while_the_client_ends(line: Line) -> None:
    """Bytes that wait for a slow upstream are not lost when the client has ended meanwhile."""
    data = os.urandom(6 << 20)
    client, server = line.open()
    sending = Background(lambda: (client.send(data), client.end(), client.sock.shutdown(socket.SHUT_WR)))
    time.sleep(0.2)  # not waited for: lets the upstream's socket fill up
    assert receive_all(server) == data
    sending.result()
    server.sock.close()
    client.sock.close()
    line.wait_closed()


def test_random_conversations(line: Line) -> None:
    """Many connections at once, each with its own script of sends and pauses; descriptors come back."""
    before = descriptors(line.process.pid)

    def converse(seed: int) -> None:
        rng = random.Random(seed)
        client, server = line.open()
        for _ in range(20):
            sender, receiver = (client, server) if rng.random() < 0.5 else (server, client)
            data = rng.randbytes(rng.choice([1, 7, 1000, 16384, 40_000, 150_000]))
            sending = Background(lambda sender=sender, data=data: sender.send(data))  # type: ignore[misc]
            assert receive_exactly(receiver, len(data)) == data
            sending.result()
        first, second = (client, server) if rng.random() < 0.5 else (server, client)
        first.end()
        assert receive_all(second) == b""
        first.sock.close()
        second.sock.close()

    for seed in range(12):
        converse(seed)
    line.wait_closed()
    # Up to a few empty pipes stay in the pool.
    wait_until(lambda: descriptors(line.process.pid) <= before + 4, "the descriptors are back")


@contextmanager
def short_limits(mode: str, *, idle_ms: int, half_close_ms: int) -> Iterator[Line]:
    """A line of its own, with other time limits."""
    upstream = UpstreamHost("uds")
    target = UdsUpstream(path=upstream.path)
    routes = snapshot(
        route("localhost", target),
        route("*.example.test", target, terminate=False),
        idle_timeout_ms=idle_ms,
        half_close_timeout_ms=half_close_ms,
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            yield Line(rig, process, upstream, mode)
    finally:
        upstream.close()


@pytest.mark.parametrize("idle_ms", [0, IDLE_MS, 60_000], ids=["idle-never", "idle-the-same", "idle-later"])
@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("mode", ["tls13", "passthrough"])
def test_half_closed_connection_is_reaped_when_it_falls_silent(mode: str, who: str, idle_ms: int) -> None:
    """One side has ended. As long as the other one talks they go on; then they have the limit, and no more."""
    with short_limits(mode, idle_ms=idle_ms, half_close_ms=IDLE_MS) as short:
        whole = short.open() if idle_ms != IDLE_MS else None
        client, server = short.open()
        quiet, talking = (client, server) if who == "client" else (server, client)
        quiet.end()
        assert receive_all(talking) == b""
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * IDLE_MS / 1000:
            silent_since = time.monotonic()
            talking.send(b"tick")
            assert receive_exactly(quiet, 4) == b"tick"
            time.sleep(IDLE_MS / 10_000)
        wait_until(lambda: short.rig.count(Reason.HALF_CLOSE_TIMEOUT) == 1, "it is reaped")
        assert time.monotonic() - silent_since >= IDLE_MS / 1000
        assert receive_all(quiet) == b""
        quiet.sock.close()
        talking.sock.close()
        if whole is not None:  # silent for even longer, but whole
            exchange(*whole)
            for peer in whole:
                peer.sock.close()
        short.wait_closed()
        assert short.rig.failures == {"half_close_timeout": 1}


@pytest.mark.parametrize("mode", ["tls12", "tls13", "passthrough"])
def test_both_sides_end_and_nothing_is_left_to_reap(mode: str) -> None:
    """The ordinary end of a connection is none of the limit's."""
    with short_limits(mode, idle_ms=0, half_close_ms=IDLE_MS) as short:
        for first in (0, 1):
            pair = short.open()
            exchange(*pair)
            pair[first].end()
            assert receive_all(pair[1 - first]) == b""
            pair[1 - first].send(b"the last word")
            assert receive_exactly(pair[first], 13) == b"the last word"
            pair[1 - first].end()
            assert receive_all(pair[first]) == b""
            for peer in pair:
                peer.sock.close()
        short.wait_closed()
        assert short.rig.failures == {}


@pytest.mark.parametrize("mode", ["tls12", "tls13", "passthrough"])
def test_idle_connection_is_closed_and_a_busy_one_is_not(mode: str) -> None:
    with short_limits(mode, idle_ms=IDLE_MS, half_close_ms=60_000) as short:
        busy_client, busy_server = short.open()
        idle_client, idle_server = short.open()
        began = time.monotonic()
        ended = Background(lambda: receive_all(idle_server))
        while time.monotonic() - began < 3 * IDLE_MS / 1000:
            busy_server.send(b"tick")
            assert receive_exactly(busy_client, 4) == b"tick"
            time.sleep(IDLE_MS / 10_000)
        assert ended.result() == b""
        wait_until(lambda: short.rig.count(Reason.IDLE_TIMEOUT) == 1, "the idle connection is counted")
        for peer in (busy_client, busy_server, idle_client, idle_server):
            peer.sock.close()
        short.wait_closed()
