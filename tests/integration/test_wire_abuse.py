"""What clients do wrong, by accident or on purpose: it costs them their own connection and nobody anything else.

Every test runs beside a connection in good order, which must not notice. At the end of each the failure is counted
under its own reason and no other, the acceptor's descriptors are back, and its log has no error and no traceback.
"""

from __future__ import annotations

import os
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from symphony.config.model import UdsUpstream
from symphony.observe.counters import ACCEPTED
from symphony.observe.reasons import Reason
from tests.support.acceptor import (
    complaints,
    cpu_seconds,
    descriptors,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import Stage
from tests.support.peers import Background, PlainPeer, UpstreamHost, receive_exactly
from tests.support.site import Site, ended_by_reset
from tests.support.tls_client import SteppedClient, client_context, connect, in_records

HANDSHAKE_MS = 400


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    upstream = UpstreamHost("uds")
    target = UdsUpstream(path=upstream.path)
    routes = snapshot(
        route("localhost", target),
        route("pass.test", target, terminate=False),
        route("bare.test", target, policy=-1),
        handshake_timeout_ms=HANDSHAKE_MS,
    )
    try:
        with Stage() as stage, running(stage, routes) as (rig, process):
            yield Site(rig, process, upstream)
    finally:
        upstream.close()


def hello(name: str | None = "localhost") -> bytes:
    return SteppedClient(name).hello()


# Bytes that are no ClientHello


def overlong_record() -> bytes:
    return b"\x16\x03\x01\x40\x01\x01"


def overlong_message() -> bytes:
    return b"\x16\x03\x01\x40\x00\x01\x00\x40\x01" + bytes(1000)


def extension_beyond_the_end() -> bytes:
    good = bytearray(hello())
    name = good.index(b"localhost") - 9  # the extension's type, length, list length, type and name length
    good[name + 2 : name + 4] = b"\xff\xff"
    return bytes(good)


def empty_record() -> bytes:
    return b"\x16\x03\x01\x00\x00" + hello()


def server_hello() -> bytes:
    return b"\x16\x03\x03\x00\x30\x02\x00\x00\x2c" + bytes(44)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", Reason.NOT_TLS),
        (b"\x00", Reason.NOT_TLS),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Reason.NOT_TLS),
        (b"\x80\x2e\x01\x00\x02" + bytes(41), Reason.NOT_TLS),  # an SSL 2 ClientHello
        (b"\x15\x03\x03\x00\x02\x02\x28", Reason.NOT_TLS),  # an alert
        (b"\x17" + random.Random(4).randbytes(5000), Reason.NOT_TLS),
        (overlong_record(), Reason.OVERSIZED_CLIENT_HELLO),
        (overlong_message(), Reason.OVERSIZED_CLIENT_HELLO),
        (extension_beyond_the_end(), Reason.MALFORMED_CLIENT_HELLO),
        (empty_record(), Reason.MALFORMED_CLIENT_HELLO),
        (server_hello(), Reason.MALFORMED_CLIENT_HELLO),
        (hello()[:60] + hello()[:60], Reason.TRUNCATED_CLIENT_HELLO),
    ],
)
def test_bytes_that_are_no_client_hello(site: Site, data: bytes, reason: Reason) -> None:
    with site.ends_as(reason, 3):
        for _ in range(3):
            with connect(site.port) as sock:
                sock.sendall(data)
                if reason is Reason.TRUNCATED_CLIENT_HELLO:
                    sock.shutdown(socket.SHUT_WR)
                assert ended_by_reset(sock)


def test_random_garbage(site: Site) -> None:
    """Whatever the bytes are, the connection ends at once or when its time is up."""
    rng = random.Random(5)
    with site.neighbour():
        before = descriptors(site.process.pid)
        accepted, failed = site.rig.total(ACCEPTED), sum(site.rig.failures.values())
        socks = [connect(site.port) for _ in range(60)]
        for at, sock in enumerate(socks):
            start = [b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc"][at % 4]
            with suppress(ConnectionError):
                sock.sendall(start + rng.randbytes(rng.randrange(1, 3000)))
        for sock in socks:
            assert ended_by_reset(sock)
            sock.close()
        wait_until(lambda: site.rig.active == 1, "all are over")
        assert site.rig.total(ACCEPTED) - accepted == len(socks)
        assert sum(site.rig.failures.values()) - failed == len(socks)
        wait_until(lambda: descriptors(site.process.pid) <= before, "the descriptors are back")
    assert complaints(site.process) == []


# ClientHellos in pieces


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_hello_one_byte_at_a_time(site: Site, version: ssl.TLSVersion) -> None:
    with site.neighbour():
        sock = connect(site.port)
        client = SteppedClient("localhost", client_context(version=version))
        for byte in client.hello():
            sock.send(bytes([byte]))
        client.finish(sock)
        server = site.upstream.accept()
        client.send(sock, b"hello")
        assert receive_exactly(server, 5) == b"hello"
        server.sock.close()
        assert client.receive(sock) == b""
        sock.close()
    assert complaints(site.process) == []


@pytest.mark.parametrize("size", [1, 4, 100, 300])
@pytest.mark.parametrize("name", ["localhost", "pass.test"])
def test_client_hello_in_several_records(site: Site, size: int, name: str) -> None:
    with site.neighbour():
        sock = connect(site.port)
        client = SteppedClient(name)
        data = in_records(client.hello(), size)
        sock.sendall(data)
        if name == "pass.test":
            server = site.upstream.accept()
            assert receive_exactly(server, len(data)) == data
        else:
            client.finish(sock)
            server = site.upstream.accept()
            client.send(sock, b"hello")
            assert receive_exactly(server, 5) == b"hello"
        server.sock.close()
        sock.close()
    assert complaints(site.process) == []


@pytest.mark.parametrize("kind", ["half", "one byte", "urgent byte", "urgent byte in between"])
def test_stalled_client_hello_costs_no_cpu(kind: str) -> None:
    """The peeked bytes stay in the socket: it must not be reported as readable all the while."""
    routes = snapshot(route("localhost", UdsUpstream(path="/nowhere")), handshake_timeout_ms=5000)
    with Stage() as stage, running(stage, routes) as (rig, process):
        data = hello()
        socks = [connect(rig.port) for _ in range(5)]
        for sock in socks:
            if kind == "half":
                sock.sendall(data[: len(data) // 2])
            elif kind == "one byte":
                sock.sendall(data[:1])
            elif kind == "urgent byte":
                sock.sendall(data[:1])
                sock.send(b"!", socket.MSG_OOB)
            else:
                sock.sendall(data[:100])
                sock.send(b"!", socket.MSG_OOB)
                sock.sendall(data[100:])
        wait_until(lambda: rig.total(ACCEPTED) == len(socks), "all are accepted")
        before = cpu_seconds(process.pid)
        time.sleep(1.0)  # the time that is measured
        assert cpu_seconds(process.pid) - before < 0.15
        for sock in socks:
            sock.close()
        wait_until(lambda: rig.active == 0, "all are over")
        assert complaints(process) == []


def test_urgent_data_in_a_passthrough_relay_costs_no_cpu(site: Site) -> None:
    """Bulk makes the relay splice, and splice stops before a byte of urgent data for ever."""
    block = os.urandom(1 << 20)
    with site.neighbour():
        sock = connect(site.port)
        data = SteppedClient("pass.test").hello()
        sock.sendall(data)
        server = site.upstream.accept()
        assert receive_exactly(server, len(data)) == data
        for _ in range(4):
            sending = Background(lambda: sock.sendall(block))
            assert receive_exactly(server, len(block)) == block
            sending.result()
            sock.send(b"!", socket.MSG_OOB)
            sock.sendall(b"after it")
            before = cpu_seconds(site.process.pid)
            assert receive_exactly(server, 8) == b"after it"
            time.sleep(0.1)  # the time that is measured
            assert cpu_seconds(site.process.pid) - before < 0.05
        sock.close()
        server.sock.close()
    assert complaints(site.process) == []


# Names and certificates that are not there


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, Reason.NO_SNI),
        ("elsewhere.test", Reason.UNKNOWN_SNI),
        ("www.pass.test", Reason.UNKNOWN_SNI),
        ("bare.test", Reason.NO_CERTIFICATE),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_hello_that_leads_nowhere_is_answered_by_an_alert(
    site: Site, name: str | None, reason: Reason, version: ssl.TLSVersion
) -> None:
    with site.ends_as(reason, 3):
        for _ in range(3):
            with connect(site.port) as sock, pytest.raises(ssl.SSLError) as caught:
                client_context(version=version).wrap_socket(sock, server_hostname=name)
            assert "UNRECOGNIZED_NAME" in str(caught.value)


def test_alert_reaches_a_client_that_sent_more_than_its_hello(site: Site) -> None:
    with site.ends_as(Reason.UNKNOWN_SNI), connect(site.port) as sock:
        sock.sendall(hello("elsewhere.test") + bytes(3000))
        assert receive_exactly(PlainPeer(sock), 100) == b"\x15\x03\x03\x00\x02\x02\x70"


def test_many_abusers_at_once_leave_nothing_behind(site: Site) -> None:
    """Five hundred connections that end in ten ways, all at once."""
    rng = random.Random(6)
    data = hello()
    with site.neighbour():
        before = descriptors(site.process.pid)
        socks = []
        for _ in range(500):
            sock = connect(site.port)
            cut = rng.choice([0, 1, 5, 9, 60, 300, len(data)])
            sock.sendall(data[:cut])
            ending = rng.randrange(4)
            if ending == 0:
                sock.close()
            elif ending == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            else:
                if ending == 2:
                    sock.shutdown(socket.SHUT_WR)
                socks.append(sock)
        for sock in socks:
            ended_by_reset(sock)
            sock.close()
        wait_until(lambda: site.rig.active == 1, "all are over")
        wait_until(lambda: descriptors(site.process.pid) <= before, "the descriptors are back")
    assert complaints(site.process) == []
