"""A listener behind a load balancer: the PROXY header says who the client is, whoever is trusted sends it, and all of
it, and nothing else, is taken from the stream.

The upstream is told by a PROXY header in turn, so that what Symphony takes for the client's address can be read there.
"""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import pack
from typing import Any

import msgspec
import pytest

from symphony.config.model import UdsUpstream
from symphony.config.snapshot import Snapshot
from symphony.observe.reasons import Reason
from symphony.relay import proxy_tlv
from symphony.relay.proxy_protocol import MAX_V2, Address, encode_local, encode_v1, encode_v2
from tests.support.acceptor import (
    AcceptorRig,
    complaints,
    cpu_seconds,
    descriptors,
    route,
    rss_kib,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import Background, PlainPeer, UpstreamHost, receive_exactly, reset
from tests.support.proxy_headers import Received, addresses, check_passed_through, receive_header, tlv
from tests.support.site import ended_by_reset
from tests.support.tls_client import SteppedClient, client_context, connect

HANDSHAKE_MS = 600
V4: tuple[Address, Address] = ("203.0.113.7", 56324), ("198.51.100.9", 443)
V6: tuple[Address, Address] = ("2001:db8::7", 56324), ("2001:db8::9", 443)
V2 = b"\r\n\r\n\0\r\nQUIT\n"
TLVS = [proxy_tlv.authority(b"elsewhere.example.com"), proxy_tlv.unique_id(b"17"), (0xEA, b"x" * 500)]


class Door:
    """An acceptor behind a load balancer, which is the test, and the upstream behind the acceptor."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
        self.rig = rig
        self.process = process
        self.upstream = upstream

    def told(self, *pieces: bytes) -> tuple[Received, tuple[Address, Address]]:
        """What the upstream is told when a client comes behind `pieces`; and the socket's own addresses.

        The last piece goes out together with the ClientHello, and a handshake and an exchange follow.
        """
        with connect(self.rig.port) as sock:
            client = SteppedClient("v2.test")
            for piece in pieces[:-1]:
                sock.sendall(piece)
                self.wait_taken(sock)
            sock.sendall(pieces[-1] + client.hello())
            sock.sendall(client.answer(sock))
            server = self.upstream.accept()
            with server.sock:
                found = receive_header(server)
                client.send(sock, b"question")
                assert receive_exactly(server, 8) == b"question"
                server.send(b"answer")
                assert client.receive(sock) == b"answer"
            return found, addresses(sock)

    def wait_taken(self, sock: socket.socket) -> None:
        """Let the acceptor look at what was sent, if it wants to: it sleeps again."""
        deadline = time.monotonic() + 5
        while state_of(self.process.pid) != "S":
            assert time.monotonic() < deadline
            time.sleep(0.0002)

    @contextmanager
    def ends_as(self, reason: Reason, times: int = 1) -> Iterator[None]:
        """The block makes `times` connections end, all of them for `reason`, and leaves nothing behind."""
        wait_until(lambda: self.rig.active == 0, "all are over")
        open_before = descriptors(self.process.pid)
        expected = dict(self.rig.failures)
        expected[reason.value] = expected.get(reason.value, 0) + times
        yield
        wait_until(lambda: sum(self.rig.failures.values()) >= sum(expected.values()), "all have failed")
        wait_until(lambda: self.rig.active == 0, "all are over")
        assert self.rig.failures == expected
        wait_until(lambda: descriptors(self.process.pid) <= open_before, "the descriptors are back")
        assert not select.select([self.upstream.listening], [], [], 0)[0]
        assert complaints(self.process) == []


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def behind_proxies(routes: Snapshot, *trusted: str) -> Snapshot:
    listeners = tuple(
        msgspec.structs.replace(listener, trusted_proxies=trusted) for listener in routes.listeners
    )
    return msgspec.structs.replace(routes, listeners=listeners)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    upstream = UpstreamHost("uds")
    target = UdsUpstream(path=upstream.path)

    def telling(entry: Any) -> Any:
        return msgspec.structs.replace(entry, source_address_header="proxy_protocol_v2")

    routes = snapshot(
        telling(route("v2.test", target)),
        telling(route("pass.test", target, terminate=False)),
        handshake_timeout_ms=HANDSHAKE_MS,
    )
    try:
        with Stage() as stage, running(stage, behind_proxies(routes, "127.0.0.1", "::1")) as (rig, process):
            yield Door(rig, process, upstream)
    finally:
        upstream.close()


# Who the client is


@pytest.mark.parametrize("named", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("version", ["v1", "v2", "v2 with fields"])
def test_the_address_named_is_the_clients(door: Door, version: str, named: tuple[Address, Address]) -> None:
    header = {
        "v1": encode_v1(*named),
        "v2": encode_v2(*named),
        "v2 with fields": encode_v2(*named, TLVS, checksum=True),
    }[version]
    found, _ = door.told(header)
    assert (found.header.source, found.header.destination) == named
    # what the load balancer says besides is not passed on as if it had been found out here
    assert tlv(found.header, proxy_tlv.AUTHORITY) == b"v2.test"
    assert tlv(found.header, proxy_tlv.UNIQUE_ID) != b"17"
    assert tlv(found.header, 0xEA) is None


def test_an_ipv4_client_in_ipv6_clothes(door: Door) -> None:
    source, destination = socket.inet_aton("203.0.113.7"), socket.inet_aton("198.51.100.9")
    prefix = bytes(10) + b"\xff\xff"
    mapped = V2 + b"\x21\x21\0\x24" + prefix + source + prefix + destination + pack(">HH", 56324, 443)
    found, _ = door.told(mapped)
    assert (found.header.source, found.header.destination) == V4
    found, _ = door.told(b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.9 56324 443\r\n")
    assert (found.header.source, found.header.destination) == V4


@pytest.mark.parametrize(
    "header",
    [
        encode_local(),
        encode_v1(None, None),
        b"PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff:f:f:f:f:f:f:f 65535 65535\r\n",
        encode_v2(None, None),
        encode_v2(None, None, TLVS, checksum=True),
        encode_v2(b"/run/a", b"/run/b"),
        b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c" + bytes(12),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c" + bytes(12),
    ],
    ids=[
        "local",
        "unknown",
        "unknown with addresses",
        "unspec",
        "unspec with fields",
        "unix",
        "local v4",
        "udp",
    ],
)
def test_a_header_that_names_nobody(door: Door, header: bytes) -> None:
    """Then the client is whoever has connected, as the specification has it."""
    found, own = door.told(header)
    assert (found.header.source, found.header.destination) == own


# Every way that it can come


@pytest.mark.parametrize(
    "header", [encode_v1(*V4), encode_v2(*V4, TLVS[:2], checksum=True)], ids=["v1", "v2"]
)
def test_a_header_cut_in_two_anywhere(door: Door, header: bytes) -> None:
    for cut in range(1, len(header)):
        found, _ = door.told(header[:cut], header[cut:])
        assert (found.header.source, found.header.destination) == V4


@pytest.mark.parametrize(
    "header", [encode_v1(*V6), encode_v2(*V4, TLVS[:2], checksum=True)], ids=["v1", "v2"]
)
def test_a_header_that_comes_byte_by_byte(door: Door, header: bytes) -> None:
    found, _ = door.told(*[header[at : at + 1] for at in range(len(header))])
    assert found.header.source in (V4[0], V6[0])


def test_a_hello_that_comes_in_pieces_behind_it(door: Door) -> None:
    header = encode_v2(*V4)
    with connect(door.rig.port) as sock:
        client = SteppedClient("v2.test")
        hello = client.hello()
        sock.sendall(header + hello[:3])
        for at in range(3, len(hello), 100):
            door.wait_taken(sock)
            sock.sendall(hello[at : at + 100])
        sock.sendall(client.answer(sock))
        server = door.upstream.accept()
        with server.sock:
            assert receive_header(server).header.source == V4[0]


def test_the_longest_header(door: Door) -> None:
    fields = [(0xEA, b"x" * (MAX_V2 - 16 - 12 - 3))]
    header = encode_v2(*V4, fields)
    assert len(header) == MAX_V2
    assert door.told(header)[0].header.source == V4[0]
    assert door.told(header[:5000], header[5000:9000], header[9000:])[0].header.source == V4[0]
    with door.ends_as(Reason.MALFORMED_PROXY_HEADER), connect(door.rig.port) as sock:
        sock.sendall(encode_v2(*V4, [(0xEA, b"x" * len(fields[0][1]) + b"x")])[:2000])
        assert ended_by_reset(sock)


@pytest.mark.parametrize("size", [1, 8 << 20])
def test_passthrough_bytes_are_the_clients_own(door: Door, size: int) -> None:
    client = PlainPeer(connect(door.rig.port))
    client.sock.settimeout(None)
    hello = SteppedClient("pass.test").hello()
    with client.sock:
        sent = hello + random.Random(size).randbytes(size)
        sending = Background(lambda: client.send(encode_v1(*V6) + sent))
        server = door.upstream.accept()
        with server.sock:
            assert check_passed_through(client, server, sent, sending).source == V6[0]


# Who is not trusted, and what is not believed


def test_whoever_is_not_trusted_is_refused_unheard(door: Door) -> None:
    with door.ends_as(Reason.UNTRUSTED_PROXY, 3):
        for sent in (b"", encode_v1(*V4), encode_v2(*V4) + SteppedClient("v2.test").hello()):
            with socket.socket() as sock:
                sock.settimeout(10)
                sock.bind(("127.0.0.2", 0))
                try:
                    sock.connect(("127.0.0.1", door.rig.port))
                    sock.sendall(sent)
                except ConnectionError:
                    continue  # so quickly
                assert ended_by_reset(sock)


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 " + b"1" * 100,
        V2 + b"\x11\x11\0\x0c" + bytes(12),
        V2 + b"\x2f\x11\0\x0c" + bytes(12),
        V2 + b"\x21\x41\0\x0c" + bytes(12),
        V2 + b"\x21\x11\0\x0b" + bytes(11),
        V2 + b"\x21\x21\0\x0c" + bytes(12),
        V2 + b"\x21\x11\0\x0e" + bytes(14),
        V2 + b"\x21\x11\0\x10" + bytes(12) + b"\x05\0\x02a",
        V2[:-1] + b"\r\x21\x11\0\x0c" + bytes(12),
        encode_v2(*V4, TLVS, checksum=True)[:-1] + b"\0",
    ],
)
def test_a_header_that_is_none_or_that_lies(door: Door, header: bytes) -> None:
    with door.ends_as(Reason.MALFORMED_PROXY_HEADER, 2):
        with connect(door.rig.port) as sock:
            sock.sendall(header)
            assert ended_by_reset(sock)
        with connect(door.rig.port) as sock, suppress(ConnectionError):
            for at in range(len(header)):
                sock.sendall(header[at : at + 1])
            assert ended_by_reset(sock)


def test_the_log_names_the_client_and_the_proxy(door: Door) -> None:
    deadline = time.monotonic() + 10
    while True:
        with door.ends_as(Reason.UNKNOWN_SNI), connect(door.rig.port) as sock:
            sock.sendall(encode_v1(*V4) + SteppedClient("nobody.test").hello())
            own = sock.getsockname()
            while sock.recv(100):
                pass
        lines = [msgspec.json.decode(line) for line in door.process.log().splitlines()]
        found = [line for line in lines if line.get("proxy") == f"127.0.0.1 {own[1]}"]
        if found:  # else too many lines were logged in this second
            assert (found[0]["reason"], found[0]["peer"]) == ("unknown_sni", "203.0.113.7 56324")
            return
        assert time.monotonic() < deadline


# Slow ones, and those that go


@pytest.mark.parametrize(
    "sent", [b"", b"P", encode_v1(*V4)[:-1], encode_v2(*V4)[:13], encode_v2(*V4, TLVS)[:-1]]
)
def test_a_header_that_does_not_come(door: Door, sent: bytes) -> None:
    """Within the limit for the whole handshake, and without work meanwhile."""
    with door.ends_as(Reason.PROXY_HEADER_TIMEOUT), connect(door.rig.port) as sock:
        began = time.monotonic()
        sock.sendall(sent)
        door.wait_taken(sock)
        before = cpu_seconds(door.process.pid)
        assert ended_by_reset(sock)
        assert HANDSHAKE_MS / 1000 <= time.monotonic() - began < HANDSHAKE_MS / 1000 + 5.0
        assert cpu_seconds(door.process.pid) - before < 0.15


def test_a_header_that_drips_is_ended_by_the_same_limit(door: Door) -> None:
    with door.ends_as(Reason.PROXY_HEADER_TIMEOUT), connect(door.rig.port) as sock:
        began = time.monotonic()
        for octet in encode_v2(*V4, TLVS):
            if select.select([sock], [], [], 0.02)[0]:
                break
            sock.send(bytes([octet]))
        assert HANDSHAKE_MS / 1000 <= time.monotonic() - began < HANDSHAKE_MS / 1000 + 5.0


def test_a_header_that_came_late_does_not_prolong_the_handshake(door: Door) -> None:
    with door.ends_as(Reason.CLIENT_SILENT), connect(door.rig.port) as sock:
        began = time.monotonic()
        header = encode_v1(*V4)
        sock.sendall(header[:-1])
        assert not select.select([sock], [], [], HANDSHAKE_MS / 6000)[0]
        sock.sendall(header[-1:])
        assert ended_by_reset(sock)
        assert time.monotonic() - began < HANDSHAKE_MS / 1000 + 5.0


def test_one_that_closes_without_a_word(door: Door) -> None:
    with door.ends_as(Reason.CLIENT_LEFT, 3):
        for _ in range(3):
            connect(door.rig.port).close()


def test_one_that_closes_in_its_header(door: Door) -> None:
    with door.ends_as(Reason.MALFORMED_PROXY_HEADER, 6):
        for header in (encode_v1(*V4), encode_v2(*V4, TLVS)):
            for sent in (header[:3], header[:14], header[:-1]):
                with connect(door.rig.port) as sock:
                    sock.sendall(sent)
                    door.wait_taken(sock)
                    sock.shutdown(socket.SHUT_WR)
                    assert ended_by_reset(sock)


def test_one_that_resets_in_its_header(door: Door) -> None:
    with door.ends_as(Reason.CLIENT_RESET, 3):
        for _ in range(3):
            sock = connect(door.rig.port)
            sock.sendall(encode_v2(*V4)[:20])
            wait_until(lambda: door.rig.active == 1, "it is accepted")
            door.wait_taken(sock)
            reset(sock)
            wait_until(lambda: door.rig.active == 0, "it is over")


def test_urgent_data_in_a_header(door: Door) -> None:
    """Peeking never gets past such a byte, and the socket stays ready."""
    with door.ends_as(Reason.MALFORMED_PROXY_HEADER), connect(door.rig.port) as sock:
        header = encode_v2(*V4)
        sock.sendall(header[:5])
        sock.send(header[5:6], socket.MSG_OOB)
        sock.sendall(header[6:])
        assert ended_by_reset(sock)


def test_nothing_is_left_behind(door: Door) -> None:
    def abuse(times: int) -> None:
        for number in range(times):
            with connect(door.rig.port) as sock, suppress(ConnectionError):
                sock.sendall(os.urandom(20) if number % 2 else encode_v2(*V4, TLVS)[:100])
        wait_until(lambda: door.rig.active == 0, "all are over")

    abuse(100)
    open_before, memory = descriptors(door.process.pid), rss_kib(door.process.pid)
    abuse(1500)
    wait_until(lambda: descriptors(door.process.pid) <= open_before, "the descriptors are back")
    assert rss_kib(door.process.pid) < memory + 1024
    assert door.told(encode_v1(*V4))[0].header.source == V4[0]
    assert complaints(door.process) == []


def test_the_listener_serves_clients_with_certificates_behind_it(door: Door) -> None:
    """TLS begins at the first byte behind the header: Python's own client, on the same socket."""
    with connect(door.rig.port) as sock:
        sock.sendall(encode_v2(*V6))
        with client_context().wrap_socket(sock, server_hostname="v2.test") as client:
            server = door.upstream.accept()
            with server.sock:
                assert receive_header(server).header.source == V6[0]
                client.sendall(b"x" * 100_000)
                assert receive_exactly(server, 100_000) == b"x" * 100_000
