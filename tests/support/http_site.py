"""An acceptor whose routes name the client in every HTTP request, with an upstream that a test plays itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
from OpenSSL import SSL

from symphony.config.model import TcpUpstream, UdsUpstream, Upstream
from symphony.observe.reasons import Reason
from symphony.relay.http_head import identity_fields
from tests.support.acceptor import (
    AcceptorRig,
    complaints,
    descriptors,
    route,
    running,
    snapshot,
    wait_until,
)
from tests.support.actor_process import ActorProcess, Stage
from tests.support.peers import Peer, PlainPeer, TlsPeer, UpstreamHost, receive_exactly
from tests.support.tls_client import connect

FIELDS = identity_fields("127.0.0.1")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = b"GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def named(head: bytes) -> bytes:
    """A request's head as the upstream is to get it."""
    assert head.endswith(b"\r\n\r\n")
    return head[:-2] + FIELDS + b"\r\n"


def expect(peer: Peer, data: bytes) -> None:
    """`data` comes next."""
    assert receive_exactly(peer, len(data)) == data


def ended(peer: Peer) -> bool:
    """Whether the stream ends in order; False for a reset. Asserts that nothing comes before."""
    try:
        assert peer.receive() == b""
    except (ConnectionError, SSL.Error):
        return False
    return True


class HttpSite:
    """One acceptor, one upstream."""

    def __init__(self, rig: AcceptorRig, process: ActorProcess, upstream: UpstreamHost) -> None:
        self.rig = rig
        self.process = process
        self.upstream = upstream

    @contextmanager
    def exchange(
        self, version: int = SSL.TLS1_3_VERSION, *, small: bool = False, polite: bool = True
    ) -> Iterator[tuple[TlsPeer, PlainPeer]]:
        """A client connected through to the upstream, which both end in order if they are `polite`.

        The socket of a `small` client takes little.
        """
        sock = connect(self.rig.port) if not small else self._small()
        sock.settimeout(None)
        client = TlsPeer(sock, "localhost", version=version)
        server = self.upstream.accept()
        try:
            yield client, server
            if not polite:
                return
            # In order: a client that closes with bytes unread, such as tickets, resets the connection instead.
            with suppress(OSError, SSL.Error):
                client.end()
                while server.receive():
                    pass
                server.sock.close()
                while client.receive():
                    pass
        finally:
            client.sock.close()
            server.sock.close()

    def _small(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", self.rig.port))
        return sock

    @contextmanager
    def refuses(self, reason: Reason, times: int = 1) -> Iterator[None]:
        """The block makes `times` connections end, all of them for `reason`, and leaves nothing behind."""
        wait_until(lambda: self.rig.active == 0, "all before are over")
        open_before = descriptors(self.process.pid)
        expected = dict(self.rig.failures)
        expected[reason.value] = expected.get(reason.value, 0) + times
        yield
        wait_until(lambda: self.rig.active == 0, "all are over")
        assert self.rig.failures == expected, (self.rig.failures, expected)
        wait_until(lambda: descriptors(self.process.pid) <= open_before, "the descriptors are back")
        assert complaints(self.process) == []

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Connections of the block end without a failure, and leave nothing behind."""
        wait_until(lambda: self.rig.active == 0, "all before are over")
        open_before, before = descriptors(self.process.pid), dict(self.rig.failures)
        yield
        wait_until(lambda: self.rig.active == 0, "all are over")
        assert self.rig.failures == before, (self.rig.failures, before)
        wait_until(lambda: descriptors(self.process.pid) <= open_before, "the descriptors are back")
        assert complaints(self.process) == []


@contextmanager
def http_site(kind: str = "uds", *, idle_timeout_ms: int = 20_000) -> Iterator[HttpSite]:
    """A running site; `kind` is the upstream's, ``uds`` or ``tcp``."""
    upstream = UpstreamHost(kind)
    target: Upstream = (
        UdsUpstream(path=upstream.path)
        if kind == "uds"
        else TcpUpstream(host="127.0.0.1", port=upstream.port)
    )
    entry = msgspec.structs.replace(route("localhost", target), source_address_header="x_forwarded_for")
    try:
        with (
            Stage() as stage,
            running(stage, snapshot(entry, idle_timeout_ms=idle_timeout_ms)) as (rig, process),
        ):
            yield HttpSite(rig, process, upstream)
    finally:
        upstream.close()
