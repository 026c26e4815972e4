"""HTTP through a real acceptor that names the client in every request: each head is as it must be, every other byte is
the client's or the upstream's own, whatever the two ends do to each other."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from OpenSSL import SSL

from symphony.relay.http_rewriter import MAX_KEPT_BACK
from tests.support.acceptor import complaints, cpu_seconds, descriptors, rss_kib, wait_until
from tests.support.http_site import (
    GET,
    OK,
    SWITCHING,
    UPGRADE,
    HttpSite,
    ended,
    expect,
    http_site,
    named,
)
from tests.support.peers import Background, PlainPeer, receive_all, receive_exactly, reset
from tests.support.tls_client import SteppedClient, client_context, connect

SPOOFED = (
    b"GET / HTTP/1.1\r\nX-Forwarded-For: 10.0.0.1\r\nHost: a\r\nx_real_ip: 10.0.0.1\r\nX-JA3: 1\r\n"
    b"X-Forwarded-Proto: http\r\nx-forwarded-FOR: 10.0.0.2\r\n\r\n"
)
POST = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
FRAMES = b"\x81\x05hello GET / HTTP/1.1\r\nX-Forwarded-For: not a head\r\n\r\n\0\xff"


@pytest.fixture(params=["uds", "tcp"], scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[HttpSite]:
    with http_site(request.param) as running:
        yield running


# Requests


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_every_request_of_a_connection_names_the_client(site: HttpSite, version: int) -> None:
    with site.in_order(), site.exchange(version) as (client, server):
        for number in range(50):
            client.send(SPOOFED if number % 2 else GET)
            expect(server, named(GET))
            server.send(OK)
            expect(client, OK)


def test_requests_that_come_byte_by_byte(site: HttpSite) -> None:
    body = b"5\r\nhello\r\n0\r\nDigest: x\r\nX-Real-IP: 10.0.0.1\r\n\r\n"
    data = SPOOFED + CHUNKED + body + POST % 5 + b"world" + GET
    with site.in_order(), site.exchange() as (client, server):
        for at in range(len(data)):
            client.send(data[at : at + 1])
        passed = body.replace(b"X-Real-IP: 10.0.0.1\r\n", b"")
        expect(server, named(GET) + named(CHUNKED) + passed + named(POST % 5) + b"world" + named(GET))


def test_pipelined_requests(site: HttpSite) -> None:
    """As many as one read takes, which are more pieces than one system call would."""
    with site.in_order(), site.exchange() as (client, server):
        for _ in range(3):
            sending = Background(lambda: client.send(SPOOFED * 900))
            expect(server, named(GET) * 900)
            sending.result()
            sending = Background(lambda: server.send(OK * 900))
            expect(client, OK * 900)
            sending.result()


def test_a_request_that_the_client_cuts_off(site: HttpSite) -> None:
    """Nothing of it is passed on."""
    for part in (GET[:1], GET[:-1], SPOOFED[:-3]):
        with site.in_order(), site.exchange() as (client, server):
            client.send(GET + part)
            client.end()
            expect(server, named(GET))
            assert ended(server)
            server.send(OK)
            server.end()
            expect(client, OK)
            assert ended(client)


def test_continue(site: HttpSite) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with site.in_order(), site.exchange() as (client, server):
        for _ in range(3):
            client.send(head)
            expect(server, named(head))
            server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            expect(client, b"HTTP/1.1 100 Continue\r\n\r\n")
            client.send(b"hello")
            expect(server, b"hello")
            server.send(OK)
            expect(client, OK)


def test_head(site: HttpSite) -> None:
    """Its answer has a length and no body: what follows is the next answer."""
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    with site.in_order(), site.exchange() as (client, server):
        client.send(head + UPGRADE)
        expect(server, named(head) + named(UPGRADE))
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + SWITCHING)
        expect(client, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + SWITCHING)
        client.send(FRAMES)
        expect(server, FRAMES)


# Bodies


@pytest.mark.parametrize("size", [1, 16384, 65536, 65537, 5_000_001])
def test_bodies_arrive_both_ways(site: HttpSite, size: int) -> None:
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    with site.in_order(), site.exchange() as (client, server):
        for _ in range(2):
            sending = Background(lambda: client.send(POST % size + up + SPOOFED))
            expect(server, named(POST % size))
            assert hashlib.sha256(receive_exactly(server, size)).digest() == hashlib.sha256(up).digest()
            expect(server, named(GET))
            sending.result()
            sending = Background(lambda: server.send(answer + down + OK))
            expect(client, answer)
            assert hashlib.sha256(receive_exactly(client, size)).digest() == hashlib.sha256(down).digest()
            expect(client, OK)
            sending.result()


def chunks(data: bytes, seed: int) -> bytes:
    draw, at, parts = random.Random(seed), 0, []
    while at < len(data):
        size = draw.choice([1, 15, 1000, 16384, 70_000])
        piece = data[at : at + size]
        parts.append(b"%x;a=b\r\n%s\r\n" % (len(piece), piece))
        at += size
    return b"".join(parts) + b"0\r\n\r\n"


def test_chunked_bodies_arrive_both_ways(site: HttpSite) -> None:
    up, down = chunks(os.urandom(2_000_000), 1), chunks(os.urandom(2_000_000), 2)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with site.in_order(), site.exchange() as (client, server):
        for _ in range(2):
            sending = Background(lambda: client.send(CHUNKED + up + GET))
            expect(server, named(CHUNKED) + up + named(GET))
            sending.result()
            sending = Background(lambda: server.send(answer + down + OK))
            expect(client, answer + down + OK)
            sending.result()


def test_an_answer_of_no_length_lasts_to_the_end(site: HttpSite) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + OK + os.urandom(500_000)
    with site.in_order(), site.exchange() as (client, server):
        client.send(GET)
        expect(server, named(GET))
        sending = Background(lambda: (server.send(answer), server.end()))
        assert receive_all(client) == answer
        sending.result()
        client.end()
        assert ended(server)


def test_an_answer_that_is_none_is_delivered_all_the_same(site: HttpSite) -> None:
    with site.in_order(), site.exchange() as (client, server):
        server.send(b"220 ready\r\n")  # before any request
        expect(client, b"220 ready\r\n")
        client.send(GET)
        expect(server, named(GET))
        server.send(b"\0rubbish")
        expect(client, b"\0rubbish")
        client.send(SPOOFED)
        expect(server, named(GET))


# Full sockets


def test_a_slow_upstream_stops_the_client(site: HttpSite) -> None:
    """What waits for it is bounded, and the answers go on meanwhile."""
    size = 60 << 20
    memory = rss_kib(site.process.pid)
    with site.exchange() as (client, server):
        client.send(POST % size)
        expect(server, named(POST % size))
        client.sock.setblocking(False)
        block, sent = bytes(1 << 16), 0
        while True:
            try:
                sent += client.tls.send(block)
            except SSL.WantWriteError:
                if not select.select([], [client.sock], [], 0.3)[1]:
                    break
            assert sent < size
        assert rss_kib(site.process.pid) < memory + 6_000
        before = cpu_seconds(site.process.pid)
        time.sleep(0.3)  # the time that is measured
        assert cpu_seconds(site.process.pid) - before < 0.1
        server.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        with pytest.raises(SSL.WantReadError):
            while True:
                assert client.tls.recv(1000) == b"HTTP/1.1 102 Processing\r\n\r\n"
        reset(client.sock)
        total = 0
        while part := receive_or_nothing(server):
            total += len(part)
        assert total <= sent
    wait_until(lambda: site.rig.active == 0, "it is over")
    assert complaints(site.process) == []


def receive_or_nothing(server: PlainPeer) -> bytes:
    try:
        return server.receive()
    except ConnectionError:
        return b""


def test_a_slow_client_stops_the_upstream(site: HttpSite) -> None:
    size = 30 << 20
    memory = rss_kib(site.process.pid)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    body = random.Random(3).randbytes(size)
    with site.in_order(), site.exchange(small=True) as (client, server):
        client.send(GET * 3)
        expect(server, named(GET) * 3)
        sending = Background(lambda: server.send(answer + body + OK + OK))
        # requests go on while the answer is stuck
        for _ in range(20):
            client.send(SPOOFED)
            expect(server, named(GET))
        assert rss_kib(site.process.pid) < memory + 6_000
        assert not sending.done
        expect(client, answer)
        assert hashlib.sha256(receive_exactly(client, size)).digest() == hashlib.sha256(body).digest()
        expect(client, OK + OK)
        sending.result()


def test_both_ways_at_once(site: HttpSite) -> None:
    """A client that uploads without reading, and an upstream that answers without reading, do not dead-lock."""
    size = 6 << 20
    up, down = os.urandom(size), os.urandom(size)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    with site.in_order():
        plain = connect(site.rig.port)
        with client_context().wrap_socket(plain, server_hostname="localhost") as client:
            server = site.upstream.accept()
            with server.sock:
                client.sendall(POST % size)
                expect(server, named(POST % size))
                answering = Background(lambda: server.send(answer + down))
                reading = Background(lambda: receive_exactly(server, size))
                got = both_ways(client, up, len(answer) + size)
                assert got == answer + down
                assert reading.result() == up
                answering.result()
                client.setblocking(True)
                server.end()
                client.unwrap().close()
                assert ended(server)


def both_ways(client: ssl.SSLSocket, up: bytes, size: int) -> bytes:
    client.setblocking(False)
    got, sent, deadline = bytearray(), 0, time.monotonic() + 60
    while sent < len(up) or len(got) < size:
        assert time.monotonic() < deadline, (sent, len(got))
        moved = False
        if sent < len(up):
            try:
                sent += client.send(up[sent : sent + 16384])
                moved = True
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
        try:
            got += client.recv(65536)
            moved = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        if not moved:
            time.sleep(0.001)
    return bytes(got)


# Ends


def test_half_closed_by_the_client(site: HttpSite) -> None:
    with site.in_order(), site.exchange() as (client, server):
        client.send(POST % 100_000 + bytes(100_000))
        client.end()
        expect(server, named(POST % 100_000) + bytes(100_000))
        assert ended(server)
        server.send(OK)
        server.end()
        expect(client, OK)
        assert ended(client)


def test_an_answer_and_an_end_before_the_upload_is_over(site: HttpSite) -> None:
    """The client has the whole answer although the upstream read only a part and closed."""
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    with site.exchange() as (client, server):
        client.send(POST % 10_000_000 + bytes(100_000))
        expect(server, named(POST % 10_000_000))
        server.send(answer)
        server.sock.close()
        expect(client, answer)
    wait_until(lambda: site.rig.active == 0, "it is over")
    assert complaints(site.process) == []


def test_an_upstream_that_resets_in_its_answer(site: HttpSite) -> None:
    """The client sees a failure, and no end that is in order."""
    with site.exchange() as (client, server):
        client.send(GET)
        expect(server, named(GET))
        server.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        expect(client, b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if site.upstream.listening.family == 1:
            return  # a Unix socket has no reset
        reset(server.sock)
        assert not ended(client)


# Other protocols


def test_a_websocket(site: HttpSite) -> None:
    big = os.urandom(3_000_000)
    with site.in_order(), site.exchange() as (client, server):
        client.send(SPOOFED + UPGRADE)
        expect(server, named(GET) + named(UPGRADE))
        server.send(OK + SWITCHING)
        expect(client, OK + SWITCHING)
        for _ in range(3):
            client.send(FRAMES)
            expect(server, FRAMES)
            server.send(FRAMES)
            expect(client, FRAMES)
        sending = Background(lambda: client.send(big))
        expect(server, big)
        sending.result()
        sending = Background(lambda: server.send(big))
        expect(client, big)
        sending.result()
        client.end()
        assert ended(server)
        server.end()
        assert ended(client)


@pytest.mark.parametrize("size", [10, 100_000, MAX_KEPT_BACK])
def test_bytes_sent_before_the_upgrade_is_answered(site: HttpSite, size: int) -> None:
    early = os.urandom(size)
    with site.in_order(), site.exchange() as (client, server):
        sending = Background(lambda: client.send(UPGRADE + early))
        expect(server, named(UPGRADE))
        assert nothing_comes(server)
        server.send(SWITCHING[:30])
        assert nothing_comes(server)
        server.send(SWITCHING[30:] + FRAMES)
        expect(server, early)
        sending.result()
        expect(client, SWITCHING + FRAMES)
        client.send(FRAMES)
        expect(server, FRAMES)


def nothing_comes(peer: PlainPeer) -> bool:
    return not select.select([peer.sock], [], [], 0.15)[0]


def test_more_bytes_than_are_kept_back_wait_in_the_sockets(site: HttpSite) -> None:
    """The client is not read meanwhile: it may send what it likes, and it costs no memory and no CPU."""
    early = random.Random(6).randbytes(8 << 20)
    memory = rss_kib(site.process.pid)
    with site.in_order(), site.exchange() as (client, server):
        client.send(UPGRADE)
        expect(server, named(UPGRADE))
        wait_until(lambda: not running_now(site), "the client is not read any more")
        sending = Background(lambda: client.send(early))
        assert nothing_comes(server)
        before = cpu_seconds(site.process.pid)
        time.sleep(0.3)  # the time that is measured
        assert cpu_seconds(site.process.pid) - before < 0.1
        assert rss_kib(site.process.pid) < memory + 6_000
        server.send(SWITCHING)
        expect(server, early)
        sending.result()
        expect(client, SWITCHING)


def running_now(site: HttpSite) -> bool:
    with open(f"/proc/{site.process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "S"


def test_an_upgrade_that_is_not_accepted(site: HttpSite) -> None:
    """What was kept back is requests, and they name the client."""
    with site.in_order(), site.exchange() as (client, server):
        client.send(UPGRADE + SPOOFED + UPGRADE + SPOOFED)
        expect(server, named(UPGRADE))
        assert nothing_comes(server)
        server.send(OK)
        expect(server, named(GET) + named(UPGRADE))
        assert nothing_comes(server)
        server.send(OK + OK)
        expect(server, named(GET))
        expect(client, OK * 3)
        client.send(SPOOFED)
        expect(server, named(GET))


def test_a_client_that_ends_while_its_bytes_are_kept_back(site: HttpSite) -> None:
    """Its end comes behind them."""
    for answer, passed in ((SWITCHING, FRAMES), (OK, b"")):
        with site.in_order(), site.exchange() as (client, server):
            client.send(UPGRADE + (FRAMES if passed else SPOOFED))
            client.end()
            expect(server, named(UPGRADE))
            assert nothing_comes(server)
            server.send(answer)
            expect(server, passed or named(GET))
            assert ended(server)
            server.end()
            expect(client, answer)
            assert ended(client)


def test_a_client_that_ends_with_nothing_kept_back(site: HttpSite) -> None:
    with site.in_order(), site.exchange() as (client, server):
        client.send(UPGRADE)
        client.end()
        expect(server, named(UPGRADE))
        assert ended(server)
        server.send(SWITCHING)
        server.end()
        expect(client, SWITCHING)
        assert ended(client)


@pytest.mark.parametrize("early", [b"", FRAMES])
@pytest.mark.parametrize("client_ends", [False, True])
def test_an_upstream_that_ends_without_deciding(site: HttpSite, early: bytes, client_ends: bool) -> None:
    with site.in_order(), site.exchange() as (client, server):
        client.send(UPGRADE + early)
        expect(server, named(UPGRADE))
        if client_ends:
            client.end()
        server.end()
        assert ended(client)
        if not client_ends:
            client.send(FRAMES)
            client.end()
        wait_until(lambda: site.rig.active == 0, "it is over, although nobody has closed")


def test_an_upstream_that_dies_without_deciding(site: HttpSite) -> None:
    for _ in range(3):
        with site.exchange() as (client, server):
            client.send(UPGRADE + FRAMES)
            expect(server, named(UPGRADE))
            server.sock.close()
            assert receive_all_or_reset(client) == b""
        wait_until(lambda: site.rig.active == 0, "it is over")
    assert complaints(site.process) == []


def receive_all_or_reset(client: object) -> bytes:
    try:
        return receive_all(client)  # type: ignore[arg-type]
    except (ConnectionError, SSL.Error):
        return b""


def test_connect(site: HttpSite) -> None:
    head = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"
    with site.in_order(), site.exchange() as (client, server):
        client.send(head)
        expect(server, named(head))
        server.send(b"HTTP/1.1 200 OK\r\n\r\n")
        expect(client, b"HTTP/1.1 200 OK\r\n\r\n")
        client.send(SPOOFED)
        expect(server, SPOOFED)


# What it leaves behind


def test_nothing_is_left_behind(site: HttpSite) -> None:
    wait_until(lambda: site.rig.active == 0, "all are over")
    open_before = descriptors(site.process.pid)

    def some(times: int) -> None:
        for number in range(times):
            with site.exchange(polite=False) as (client, server):
                client.send(UPGRADE + FRAMES if number % 3 else POST % 1000 + b"x" * 500)
                expect(server, named(UPGRADE if number % 3 else POST % 1000))
                if number % 2:
                    reset(client.sock)
        wait_until(lambda: site.rig.active == 0, "all are over")

    some(40)
    memory = rss_kib(site.process.pid)
    some(200)
    wait_until(lambda: descriptors(site.process.pid) <= open_before, "the descriptors are back")
    assert rss_kib(site.process.pid) < memory + 2_500
    assert complaints(site.process) == []


def test_the_idle_limit_holds() -> None:
    with http_site(idle_timeout_ms=400) as site, site.exchange() as (client, server):
        client.send(UPGRADE)
        expect(server, named(UPGRADE))
        began = time.monotonic()
        assert ended(client)
        assert 0.4 <= time.monotonic() - began < 10
        wait_until(lambda: site.rig.failures == {"idle_timeout": 1}, "it is counted")


def test_a_hello_and_a_request_in_one_segment(site: HttpSite) -> None:
    """The request lies decrypted in nobody's buffer when the relay begins."""
    with site.in_order(), connect(site.rig.port) as sock:
        client = SteppedClient("localhost")
        sock.sendall(client.hello())
        flight = client.answer(sock)
        client.tls.write(SPOOFED * 5)
        sock.sendall(flight + client._outgoing.read())
        server = site.upstream.accept()
        with server.sock:
            expect(server, named(GET) * 5)
            server.send(OK * 5)
            server.sock.shutdown(socket.SHUT_WR)
            while client.receive(sock):
                pass
            sock.shutdown(socket.SHUT_WR)
            assert ended(server)
