"""One client connection: connect, handshake, requests, answers compared byte for byte.

Events come from one epoll loop (:mod:`tools.bench.load`). The connection tells its owner about three things only:
an operation has completed, the connection has failed, or (see `closed`) it has been closed on purpose.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tools.bench import tls
from tools.bench.content import SERVER_NAME

IN, OUT = select.EPOLLIN, select.EPOLLOUT
_HEAD_LIMIT = 2048
_NAME = SERVER_NAME.encode()
_STARTING = (0, errno.EINPROGRESS)


class Exchange:
    """The bytes of an operation, prepared once for all connections: the request and the body that must come back."""

    def __init__(self, request: bytes, body: bytes) -> None:
        """Take the request as it goes on the wire, and the body that must be answered."""
        self.request = request
        self.address = tls.view(request)
        self.length = len(request)
        self.body = body


class Client:
    """A connection through a proxy or to a server without one, with TLS or without.

    `done(client)` and `failed(client, reason)` are called by it.
    """

    __slots__ = (
        "_epoll",
        "_exchange",
        "_got",
        "_handler",
        "_layer",
        "_mask",
        "_need",
        "_sent",
        "_sock",
        "_ssl",
        "buf",
        "done",
        "failed",
        "fd",
        "opened",
        "port",
        "tag",
    )

    def __init__(
        self,
        epoll: select.epoll,
        layer: ModuleType,
        port: int,
        exchange: Exchange,
        buf: Any,
        done: Callable[[Client], None],
        failed: Callable[[Client, str], None],
    ) -> None:
        """`layer` is :mod:`tools.bench.tls` or :mod:`tools.bench.plain`.

        `buf` is where answers are read; connections with one answer at a time in flight need one each.
        """
        self._epoll = epoll
        self._exchange = exchange
        self.buf = buf
        self.port = port
        self.done = done
        self.failed = failed
        self.opened: Callable[[Client], None] | None = None
        self.tag: Any = None
        self.fd = -1
        self._sock: socket.socket | None = None
        self._ssl: Any = None
        self._layer = layer
        self._handler: Callable[[], None] = self._on_handshake
        self._mask = 0
        self._sent = self._got = self._need = 0

    def open(self, context: Any, session: Any = None) -> None:
        """Connect and begin the handshake; `opened(self)` is called after it when set, else the request is sent."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(("127.0.0.1", self.port))
        if code not in _STARTING:
            sock.close()
            self.failed(self, f"connect: {errno.errorcode.get(code, code)}")
            return
        self._sock = sock
        self.fd = sock.fileno()
        layer = self._layer
        ssl = self._ssl = layer.new_connection(context.raw)
        layer.set_descriptor(ssl, self.fd)
        layer.set_client(ssl)
        layer.set_server_name(ssl, _NAME)
        if session is not None:
            layer.set_session(ssl, session)
        self._handler = self._on_handshake
        self._mask = OUT
        self._epoll.register(self.fd, OUT)

    @property
    def ssl(self) -> Any:
        """The OpenSSL connection, for its session and parameters."""
        return self._ssl

    def on_event(self) -> None:
        """The socket is ready for what was asked."""
        self._handler()

    def request(self) -> None:
        """Send the request; `done` is called when its whole answer has come and was right."""
        self._got = self._sent = self._need = 0
        self._handler = self._on_exchange
        self._send()

    def close(self) -> None:
        """Send close_notify, close, forget. Safe to call twice."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._epoll.unregister(self.fd)
        self._layer.shutdown(self._ssl)
        self._layer.clear_errors()
        self._layer.free_connection(self._ssl)
        self._ssl = None
        sock.close()

    def _fail(self, reason: str) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            self._epoll.unregister(self.fd)
            self._layer.free_connection(self._ssl)
            self._ssl = None
            sock.close()
        self.failed(self, reason)

    def _wait(self, mask: int) -> None:
        if mask != self._mask:
            self._mask = mask
            self._epoll.modify(self.fd, mask)

    def _on_handshake(self) -> None:
        ret = self._layer.handshake(self._ssl)
        if ret == 1:
            self._wait(IN)
            self._handler = self._on_idle
            if self.opened is not None:
                self.opened(self)
            else:
                self.request()
            return
        error = self._layer.get_error(self._ssl, ret)
        if error == tls.WANT_READ:
            self._wait(IN)
        elif error == tls.WANT_WRITE:
            self._wait(OUT)
        else:
            self._fail(f"handshake: {self._layer.failure(error)}")

    def _on_idle(self) -> None:
        """Nothing was asked, so only TLS's own messages (tickets) may come."""
        ret = self._layer.read(self._ssl, self.buf, 1)
        error = self._layer.get_error(self._ssl, ret) if ret <= 0 else 0
        if error == tls.WANT_READ:
            return
        self._fail(
            "data without a request" if ret > 0 else f"closed while idle: {self._layer.failure(error)}"
        )

    def _send(self) -> None:
        exchange = self._exchange
        sent, length = self._sent, exchange.length
        while sent < length:
            ret = self._layer.write(self._ssl, exchange.address + sent, length - sent)
            if ret > 0:
                sent += ret
                continue
            self._sent = sent
            error = self._layer.get_error(self._ssl, ret)
            if error == tls.WANT_WRITE:
                self._wait(IN | OUT)
            elif error != tls.WANT_READ:
                self._fail(f"write: {self._layer.failure(error)}")
            return
        self._sent = sent
        if self._mask != IN:
            self._wait(IN)

    def _on_exchange(self) -> None:
        ssl, buf = self._ssl, self.buf
        got = self._got
        while True:
            ret = self._layer.read(ssl, buf + got, len(self._exchange.body) + _HEAD_LIMIT - got)
            if ret > 0:
                got += ret
                if self._need == 0:
                    self._need = self._head(got)
                    if self._need < 0:
                        return
                if self._need and got >= self._need:
                    self._finish(got)
                    return
                continue
            self._got = got
            error = self._layer.get_error(ssl, ret)
            if error == tls.WANT_READ:
                break
            self._fail(f"closed after {got} bytes of an answer: {self._layer.failure(error)}")
            return
        if self._sent < self._exchange.length:
            self._send()

    def _head(self, got: int) -> int:
        """Return the length of head and body once the head is there, 0 before, -1 when the answer is wrong."""
        head = bytes(tls.bytes_of(self.buf, 0, min(got, _HEAD_LIMIT)))
        end = head.find(b"\r\n\r\n")
        if end < 0:
            return 0
        if not head.startswith(b"HTTP/1.1 200 "):
            self._fail(f"answer {head[:60]!r}")
            return -1
        return end + 4 + len(self._exchange.body)

    def _finish(self, got: int) -> None:
        body = self._exchange.body
        if got != self._need or tls.bytes_of(self.buf, got - len(body), got) != body:
            self._fail("the answer is not what the backend has sent")
            return
        if self._sent < self._exchange.length:
            self._fail("answered before the request was sent")
            return
        self._handler = self._on_idle
        self.done(self)
