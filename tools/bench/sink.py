"""The backend for uploads, and for everything when nginx is not there: an HTTP/1.1 server on a Unix socket.

Uploads are compared with what the client must have sent before they are answered; nginx cannot do that.
Run as ``python -m tools.bench.sink PATH``.
"""

from __future__ import annotations

import select
import socket
import sys

from tools.bench.content import DOWN, MEBIBYTE, SMALL, UP, VERIFIED

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
_BROKEN = b"HTTP/1.1 500 Corrupted\r\nContent-Length: 0\r\n\r\n"
_ANSWERS = {b"GET /small": _HEAD % len(SMALL) + SMALL, b"GET /down": _HEAD % len(DOWN) + DOWN}
_BOTH = _HEAD % (len(DOWN) + len(VERIFIED)) + DOWN
_UP_ANSWER = _HEAD % len(VERIFIED) + VERIFIED


class _Connection:
    """One connection: reads a request, then answers it; `both` answers while it reads."""

    def __init__(self, sock: socket.socket, epoll: select.epoll) -> None:
        self.sock = sock
        self._epoll = epoll
        self._head = b""
        self._body: bytearray | None = None
        self._got = 0
        self._kind = b""
        self._out: list[memoryview] = []
        self._mask = select.EPOLLIN

    def on_event(self, mask: int) -> bool:
        """Go on; False when the connection is over."""
        try:
            if mask & ~select.EPOLLOUT and not self._read():
                return False
            self._write()
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _read(self) -> bool:
        if self._body is not None:
            count = self.sock.recv_into(memoryview(self._body)[self._got :])
            if not count:
                return False
            self._got += count
            self._check_body()
            return True
        data = self.sock.recv(65536)
        if not data:
            return False
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return len(head) < 65536
        self._head = b""
        self._kind = b" ".join(head.split(b" ", 2)[:2])
        if self._kind in _ANSWERS:
            self._out.append(memoryview(_ANSWERS[self._kind]))
            self._head = rest
            return True
        if self._kind not in (b"POST /up", b"POST /both"):
            return False
        if self._kind == b"POST /both":
            self._out.append(memoryview(_BOTH))
        self._body = bytearray(MEBIBYTE)
        self._body[: len(rest)] = rest
        self._got = len(rest)
        self._check_body()
        return True

    def _check_body(self) -> None:
        if self._got < MEBIBYTE or self._body is None:
            return
        right = self._body == UP
        self._body = None
        if self._kind == b"POST /up":
            self._out.append(memoryview(_UP_ANSWER if right else _BROKEN))
        else:
            self._out.append(memoryview(VERIFIED if right else b"BROKEN!!"))

    def _write(self) -> None:
        while self._out:
            try:
                count = self.sock.send(self._out[0])
            except BlockingIOError:
                break
            if count == len(self._out[0]):
                self._out.pop(0)
            else:
                self._out[0] = self._out[0][count:]
        mask = select.EPOLLIN | (select.EPOLLOUT if self._out else 0)
        if mask != self._mask:
            self._mask = mask
            self._epoll.modify(self.sock.fileno(), mask)


def serve(path: str) -> None:
    """Serve on a Unix socket until killed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(path)
    listener.listen(4096)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, _Connection] = {}
    while True:
        for fd, mask in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                connections[sock.fileno()] = _Connection(sock, epoll)
                epoll.register(sock.fileno(), select.EPOLLIN)
            elif not connections[fd].on_event(mask):
                epoll.unregister(fd)
                connections.pop(fd).sock.close()


if __name__ == "__main__":
    serve(sys.argv[1])
