"""Clients and upstreams that do exactly what a test tells them to, one step at a time, on blocking sockets."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from OpenSSL import SSL

from symphony.tls.certificate_maker import MadeCertificate

LIMIT_S = 30
_RECEIVE_TIMEOUT = struct.pack("ll", LIMIT_S, 0)


def with_limit(sock: socket.socket) -> socket.socket:
    """Give a blocking socket a time limit that OpenSSL heeds too; Python's own makes the descriptor non-blocking."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _RECEIVE_TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _RECEIVE_TIMEOUT)
    return sock


class Peer(Protocol):
    """One end of a connection."""

    sock: socket.socket

    def send(self, data: bytes) -> None:
        """Send all of `data`."""

    def receive(self, size: int = 65536) -> bytes:
        """What has come, at least one byte; nothing at the end of the stream."""

    def end(self) -> None:
        """End this direction in order; the other goes on."""


class PlainPeer:
    """A plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = with_limit(sock)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, size: int = 65536) -> bytes:
        return self.sock.recv(size)

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


class _TlsEnd:
    """A TLS end that can half-close, which the ssl module's cannot."""

    def __init__(self, sock: socket.socket, tls: SSL.Connection) -> None:
        self.sock = with_limit(sock)
        self.tls = tls
        self.tls.do_handshake()

    def send(self, data: bytes) -> None:
        self.tls.sendall(data)

    def receive(self, size: int = 65536) -> bytes:
        try:
            return self.tls.recv(size)
        except SSL.ZeroReturnError:
            return b""

    def end(self) -> None:
        self.tls.shutdown()


class TlsPeer(_TlsEnd):
    """A TLS client."""

    def __init__(self, sock: socket.socket, name: str, *, version: int | None = None) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if version is not None:
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        tls = SSL.Connection(context, sock)
        tls.set_tlsext_host_name(name.encode())
        tls.set_connect_state()
        super().__init__(sock, tls)


class TlsServerPeer(_TlsEnd):
    """A TLS server, for a connection that is passed through."""

    def __init__(self, sock: socket.socket, certificate: MadeCertificate) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(load_pem_x509_certificate(certificate.chain_pem))
        context.use_privatekey(_load_key(certificate.key_pem))
        tls = SSL.Connection(context, sock)
        tls.set_accept_state()
        super().__init__(sock, tls)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), type(key)
    return key


def receive_exactly(peer: Peer, size: int) -> bytes:
    """`size` bytes, or fewer when the stream ends before."""
    parts = []
    while size:
        part = peer.receive(min(size, 65536))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(peer: Peer) -> bytes:
    """Everything up to the end of the stream."""
    parts = []
    while part := peer.receive():
        parts.append(part)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class UpstreamHost:
    """A listening socket, Unix or TCP, from which a test takes the connections that the proxy makes."""

    def __init__(self, kind: str = "uds", backlog: int = 128) -> None:
        self.directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.path = os.path.join(self.directory, "up")
        if kind == "uds":
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(self.path)
        else:
            self.listening = socket.socket()
            self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(backlog)
        with_limit(self.listening)

    @property
    def port(self) -> int:
        """The TCP port."""
        port: int = self.listening.getsockname()[1]
        return port

    def accept(self) -> PlainPeer:
        """The next connection."""
        sock, _ = self.listening.accept()
        return PlainPeer(sock)

    def close(self) -> None:
        """Stop listening and remove the socket file."""
        self.listening.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        with suppress(FileNotFoundError):
            os.rmdir(self.directory)


class Background:
    """A function in a thread; its result, or its error, is had by :meth:`result`."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._function()
        except BaseException as error:  # noqa: BLE001 - result() raises it again
            self._error = error

    @property
    def done(self) -> bool:
        """Whether it has come to an end, good or bad."""
        return not self._thread.is_alive()

    def result(self, limit_s: float = LIMIT_S * 2) -> Any:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), f"not finished within {limit_s} s"
        if self._error is not None:
            raise self._error
        return self._outcome
