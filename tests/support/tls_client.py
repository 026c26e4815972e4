"""A TLS client whose handshake a test takes step by step, byte by byte if it likes."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from typing import NamedTuple

from symphony.tls.certificate_maker import MadeCertificate

LIMIT_S = 10.0


def client_context(
    *,
    version: ssl.TLSVersion | None = None,
    alpn: tuple[str, ...] = (),
    certificate: MadeCertificate | None = None,
    trusted: bytes = b"",
) -> ssl.SSLContext:
    """A client's context; it checks the server's certificate only when told what is `trusted` (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted:
        context.load_verify_locations(cadata=trusted.decode())
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        with tempfile.TemporaryDirectory(prefix="sy", dir="/tmp") as directory:
            path = os.path.join(directory, "client.pem")
            with open(path, "wb") as file:
                file.write(certificate.chain_pem + certificate.key_pem)
            context.load_cert_chain(path)
    return context


def connect(port: int) -> socket.socket:
    """A connection to the acceptor, with a time limit."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class SteppedClient:
    """The TLS client of one connection, apart from any socket until it is given one."""

    def __init__(self, name: str | None, context: ssl.SSLContext | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self._incoming, self._outgoing, server_hostname=name
        )

    def hello(self) -> bytes:
        """The ClientHello, as one record."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    def answer(self, sock: socket.socket) -> bytes:
        """With the hello taken and sent: read the server's flight; return the client's next one, not sent yet."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                if flight := self._outgoing.read():
                    return flight
                self._feed(sock)
            else:
                return self._outgoing.read()

    def finish(self, sock: socket.socket) -> None:
        """Go through the handshake, wherever it stands."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush(sock)
                self._feed(sock)
            else:
                self._flush(sock)
                return

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Send `data`."""
        self.tls.write(data)
        self._flush(sock)

    def receive(self, sock: socket.socket) -> bytes:
        """What has come, at least one byte; nothing at the end of the stream. Raises what the server's alert says."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._feed(sock)
            except ssl.SSLZeroReturnError:
                return b""

    def _flush(self, sock: socket.socket) -> None:
        if data := self._outgoing.read():
            sock.sendall(data)

    def _feed(self, sock: socket.socket) -> None:
        data = sock.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def in_records(hello: bytes, size: int) -> bytes:
    """The same ClientHello, cut into records of `size` bytes of message."""
    header, message = hello[:3], hello[5:]
    pieces = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(header + len(piece).to_bytes(2, "big") + piece for piece in pieces)


class Answer(NamedTuple):
    """What came of one request by Python's own TLS client."""

    body: bytes
    version: str | None
    certificate: bytes | None
    alpn: str | None
    reused: bool
    session: ssl.SSLSession | None


def get(port: int, name: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Answer:
    """Make one HTTP request for ``/`` to `name`, with an earlier `session` (of the same context) if given."""
    with (
        connect(port) as sock,
        context.wrap_socket(sock, server_hostname=name, session=session) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        parts = []
        while part := tls.recv(65536):
            parts.append(part)
        return Answer(
            b"".join(parts).partition(b"\r\n\r\n")[2],
            tls.version(),
            tls.getpeercert(binary_form=True),
            tls.selected_alpn_protocol(),
            bool(tls.session_reused),
            tls.session,
        )
