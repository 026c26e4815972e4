"""A process that holds idle connections: ``python -m tools.bench.holder``, orders and answers as lines of JSON.

A connection is opened from one of the given source addresses, sends a message and must
get the same back; then it stays, and any event on it is an error. Most connections forget their TLS state then: the
proxy cannot know, and a client that remembered it would need as much memory as the proxy. One in `keep_every` keeps
it and can be asked again, which shows that the connections behind the numbers still work.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import sys
import time
from typing import Any

import msgspec
from msgspec import Struct, field

from tools.bench import tls
from tools.bench.kernel import RESET_AT_CLOSE
from tools.bench.process import raise_descriptor_limit

HELD_NAME = "held.bench.test"
AT_ONCE = 64
PORTS_PER_ADDRESS = 12_000
"""Linux gives connections every other port first; when these (14,116) are used up, it searches ever longer."""
MAX_ERRORS = 5
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
_PROBE = b"is anybody there?"
_BUFFER = 16384
_IP_BIND_ADDRESS_NO_PORT = 24  # the port is chosen at connect, for the pair of addresses (ip(7))


class HolderJob(Struct, kw_only=True, frozen=True):
    """What to hold: connections from `sources`, `PORTS_PER_ADDRESS` each, to `port` of the loopback address."""

    port: int
    sources: list[str]
    passthrough: bool = False
    version: str = "1.3"
    keep_every: int = 100


class Order(Struct, kw_only=True, frozen=True):
    """`hold`: open until `count` connections are held. `check`: ask those again that can be asked."""

    kind: str
    count: int = 0
    limit_s: float = 60.0


class Answer(Struct, kw_only=True):
    """How many are held, how many were asked in a check, and what went wrong."""

    held: int
    checked: int = 0
    errors: list[str] = field(default_factory=list)


def client_hello(name: str) -> bytes:
    """Return a ClientHello for a server name, as OpenSSL makes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise RuntimeError("a handshake without a server")


_CONNECTING, _OPENING, _IDLE, _CHECKING = range(4)


class _Connection:
    """One connection: `expected` is what still has to come back, `kept` says whether it can be asked again."""

    __slots__ = ("expected", "kept", "sock", "ssl", "state")

    def __init__(self, sock: socket.socket, connection: Any) -> None:
        self.sock = sock
        self.ssl = connection
        self.state = _CONNECTING
        self.kept = False
        self.expected = b""


class Holder:
    """The loop."""

    def __init__(self, job: HolderJob) -> None:
        """Prepare; nothing is opened yet."""
        self._job = job
        self._epoll = select.epoll()
        self._context = tls.ClientContext(job.version)
        self._buf = tls.buffer(_BUFFER)
        self._hello = client_hello(HELD_NAME)
        self._connections: dict[int, _Connection] = {}
        self._opened = self._held = self._answered = 0
        self.errors: list[str] = []

    def hold(self, count: int, limit_s: float) -> Answer:
        """Open connections until `count` are held, an error occurs or the time is up."""
        deadline = time.monotonic() + limit_s
        while self._held < count and not self.errors and time.monotonic() < deadline:
            while self._opened < count and self._opened - self._held < AT_ONCE and not self.errors:
                self._open()
            self._turn(0.5)
        return Answer(held=self._held, errors=self.errors)

    def check(self, limit_s: float) -> Answer:
        """Send a message on every connection that was kept for it and wait for the answers; notice all that closed."""
        deadline = time.monotonic() + limit_s
        kept = [connection for connection in self._connections.values() if connection.kept]
        self._answered = 0
        for connection in kept:
            connection.state = _CHECKING
            self._ask(connection, _PROBE)
        while not self.errors and self._answered < len(kept):
            self._turn(0.5)
            if time.monotonic() > deadline:
                self.errors.append(f"{self._answered} of {len(kept)} connections have answered again")
        self._turn(0.0)
        return Answer(held=self._held, checked=self._answered, errors=self.errors)

    def close(self) -> None:
        """Let all connections go."""
        for connection in self._connections.values():
            self._forget_tls(connection)
            connection.sock.close()
        self._connections.clear()
        self._epoll.close()

    def _turn(self, timeout_s: float) -> None:
        for fd, mask in self._epoll.poll(timeout_s):
            connection = self._connections.get(fd)
            if connection is None:
                continue
            try:
                self._on_event(connection, mask)
            except OSError as error:
                self._fail(connection, f"{type(error).__name__}: {error}")

    def _fail(self, connection: _Connection, reason: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(reason)
        if self._connections.pop(connection.sock.fileno(), None) is None:
            return
        self._epoll.unregister(connection.sock.fileno())
        self._forget_tls(connection)
        connection.sock.close()

    def _forget_tls(self, connection: _Connection) -> None:
        if connection.ssl is not None:
            tls.free_connection(connection.ssl)
            connection.ssl = None

    def _open(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._job.sources[self._opened // PORTS_PER_ADDRESS], 0))
        code = sock.connect_ex(("127.0.0.1", self._job.port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self.errors.append(f"connect: {errno.errorcode.get(code, code)} after {self._held:,} connections")
            return
        connection = _Connection(sock, None)
        if not self._job.passthrough:
            connection.ssl = tls.new_connection(self._context.raw)
            tls.set_descriptor(connection.ssl, sock.fileno())
            tls.set_client(connection.ssl)
            tls.set_server_name(connection.ssl, HELD_NAME.encode())
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), _OUT)
        self._opened += 1

    def _on_event(self, connection: _Connection, mask: int) -> None:
        if connection.state == _CONNECTING:
            self._connect(connection)
        elif connection.state == _IDLE:
            self._fail(connection, "closed while it was idle" if mask & ~_IN else "something came unasked")
        else:
            self._read(connection)

    def _connect(self, connection: _Connection) -> None:
        """Go on with connecting and the handshake; then send the first message."""
        fd = connection.sock.fileno()
        if connection.ssl is None:
            if code := connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
        else:
            done = tls.handshake(connection.ssl)
            if done != 1:
                error = tls.get_error(connection.ssl, done)
                if error in (tls.WANT_READ, tls.WANT_WRITE):
                    self._epoll.modify(fd, _OUT if error == tls.WANT_WRITE else _IN)
                else:
                    self._fail(
                        connection, f"handshake: {tls.failure(error)} after {self._held:,} connections"
                    )
                return
        self._epoll.modify(fd, _IN | _GONE)
        connection.state = _OPENING
        self._ask(connection, self._hello if connection.ssl is None else _PROBE)

    def _ask(self, connection: _Connection, message: bytes) -> None:
        connection.expected = message
        try:
            if connection.ssl is None:
                sent = connection.sock.send(message)
            else:
                sent = tls.write(connection.ssl, tls.view(message), len(message))
        except OSError as error:
            self._fail(connection, f"{type(error).__name__} when it was asked")
            return
        if sent != len(message):
            self._fail(connection, "a message could not be sent whole at once")

    def _read(self, connection: _Connection) -> None:
        if connection.ssl is None:
            data = connection.sock.recv(_BUFFER)
            if not data:
                self._fail(connection, "closed before the answer")
                return
        else:
            got = tls.read(connection.ssl, self._buf, _BUFFER)
            if got <= 0:
                error = tls.get_error(connection.ssl, got)
                if error != tls.WANT_READ:
                    self._fail(connection, f"closed before the answer: {tls.failure(error)}")
                return
            data = bytes(tls.bytes_of(self._buf, 0, got))
        if not connection.expected.startswith(data):
            self._fail(connection, "the answer is not what was sent")
            return
        connection.expected = connection.expected[len(data) :]
        if not connection.expected:
            self._answer_came(connection)

    def _answer_came(self, connection: _Connection) -> None:
        if connection.state == _CHECKING:
            self._answered += 1
        else:
            connection.kept = self._held % self._job.keep_every == 0
            if not connection.kept:
                self._forget_tls(connection)
            self._held += 1
        connection.state = _IDLE


def main() -> int:
    """Read a job, then orders; answer each with a line. Holds until its input ends."""
    raise_descriptor_limit()
    lines = sys.stdin.buffer
    holder = Holder(msgspec.json.decode(lines.readline(), type=HolderJob))
    for line in lines:
        order = msgspec.json.decode(line, type=Order)
        answer = (
            holder.hold(order.count, order.limit_s) if order.kind == "hold" else holder.check(order.limit_s)
        )
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
