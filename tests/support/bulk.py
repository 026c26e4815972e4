"""Many bytes through one connection to a reader that starts late and slowly, with the acceptor's memory watched."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from symphony.tls.certificate_maker import MadeCertificate, make_certificate
from tests.support.acceptor import resident_kib
from tests.support.peers import Background, Peer, TlsPeer, TlsServerPeer, UpstreamHost
from tests.support.symphony_process import SymphonyProcess

ACCEPTOR = "acceptor-0"
_CONFIG = """\
workers = 1

[[listeners]]
host = "127.0.0.1"
port = 0
default_cert = {{ cert_chain_file = "cert.pem", private_key_file = "key.pem" }}

[[routes]]
sni = "terminated.example.test"
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {port} }}]

[[routes]]
sni = "passthrough.example.test"
terminate_tls = false
upstreams = [{{ kind = "tcp", host = "127.0.0.1", port = {port} }}]
"""
# Of an odd length, so that what is lost or doubled in any of the usual sizes shifts everything behind it.
_BLOCK = 262_147
_STALLED_S = 0.4
_SAMPLE_S = 0.02
_SLOW_BYTES = 8 << 20
_SLOW_PAUSE_S = 0.002


@dataclass(frozen=True)
class Moved:
    """What came of it. `held_back` is how much the sender got rid of before the reader began; memory is private KiB."""

    sent: int
    sent_digest: str
    received: int
    received_digest: str
    held_back: int
    before_kib: int
    peak_kib: int
    seconds: float

    @property
    def is_whole(self) -> bool:
        """Whether everything has arrived bit for bit."""
        return (self.sent, self.sent_digest) == (self.received, self.received_digest)

    @property
    def grown_kib(self) -> int:
        """How much the acceptor's private memory has grown at most."""
        return self.peak_kib - self.before_kib


class BulkLine:
    """An instance with one acceptor, and the upstream behind both of its routes."""

    def __init__(self, symphony: SymphonyProcess, upstream: UpstreamHost, made: MadeCertificate) -> None:
        self.symphony = symphony
        self._upstream = upstream
        self._made = made

    def move(self, mode: str, *, upload: bool, size: int) -> Moved:
        """Send `size` bytes through a connection of `mode`, ``terminated`` or ``passthrough``."""
        pid = self.symphony.pid_of(ACCEPTOR)
        client, server = self._open(mode)
        try:
            return _move(client, server, size, pid) if upload else _move(server, client, size, pid)
        finally:
            client.sock.close()
            server.sock.close()

    def _open(self, mode: str) -> tuple[Peer, Peer]:
        def serve() -> Peer:
            plain = self._upstream.accept()
            return TlsServerPeer(plain.sock, self._made) if mode == "passthrough" else plain

        serving = Background(serve)
        sock = socket.create_connection(("127.0.0.1", self.symphony.port()), timeout=10)
        sock.settimeout(None)
        client = TlsPeer(sock, f"{mode}.example.test")
        server: Peer = serving.result()
        # One byte each way: everything that the connection needs is there before memory is looked at.
        client.send(b"?")
        assert server.receive() == b"?"
        server.send(b"!")
        assert client.receive() == b"!"
        return client, server


@contextmanager
def bulk_line() -> Iterator[BulkLine]:
    """Start everything; all of it is gone when the block is left."""
    made = make_certificate(["*.example.test"])
    upstream = UpstreamHost("tcp")
    files = {"cert.pem": made.chain_pem, "key.pem": made.key_pem}
    symphony = SymphonyProcess(_CONFIG.format(port=upstream.port), files=files)
    try:
        symphony.start()
        yield BulkLine(symphony, upstream, made)
    finally:
        symphony.clean_up()
        upstream.close()


class _Sender:
    def __init__(self, peer: Peer, size: int) -> None:
        self._peer = peer
        self._size = size
        self.sent = 0

    def run(self) -> str:
        digest = hashlib.sha256()
        block = os.urandom(_BLOCK)
        number = 0
        while self.sent < self._size:
            # Numbered, so that no two blocks are the same.
            part = (number.to_bytes(8, "big") + block)[: self._size - self.sent]
            number += 1
            digest.update(part)
            self._peer.send(part)
            self.sent += len(part)
        self._peer.end()
        return digest.hexdigest()


class _Receiver:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.received = 0

    def run(self) -> str:
        digest = hashlib.sha256()
        while part := self._peer.receive(65536):
            digest.update(part)
            self.received += len(part)
            if self.received < _SLOW_BYTES:
                time.sleep(_SLOW_PAUSE_S)
        return digest.hexdigest()


def _move(source: Peer, sink: Peer, size: int, pid: int) -> Moved:
    before = peak = resident_kib(pid)
    began = time.monotonic()
    sender = _Sender(source, size)
    sending = Background(sender.run)
    seen, seen_at = -1, began
    while time.monotonic() - seen_at < _STALLED_S:
        if sender.sent != seen:
            seen, seen_at = sender.sent, time.monotonic()
        peak = max(peak, resident_kib(pid))
        time.sleep(_SAMPLE_S)
    receiver = _Receiver(sink)
    receiving = Background(receiver.run)
    while not (sending.done and receiving.done):
        peak = max(peak, resident_kib(pid))
        time.sleep(_SAMPLE_S)
    sent_digest, received_digest = sending.result(), receiving.result()
    seconds = time.monotonic() - began
    return Moved(sender.sent, sent_digest, receiver.received, received_digest, seen, before, peak, seconds)
