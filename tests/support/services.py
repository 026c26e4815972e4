"""Small HTTP services on Unix sockets, each a process of its own that says its name in every answer."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from tests.support.forked import ForkedService

_LIMIT_S = 20.0


class Service(ForkedService):
    """Answers every connection's first request with its name, and closes; usable as a context manager."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda listening: _serve(listening, name.encode()), 128)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(listening: socket.socket, name: bytes) -> None:
    while True:
        sock, _ = listening.accept()
        threading.Thread(target=_answer, args=(sock, name), daemon=True).start()


def _answer(sock: socket.socket, name: bytes) -> None:
    sock.settimeout(_LIMIT_S)
    request = b""
    try:
        while b"\r\n\r\n" not in request:
            part = sock.recv(65536)
            if not part:
                break
            request += part
        else:
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(name), name)
            )
    except OSError:
        pass  # the client of this connection has gone; the next one is another matter
    finally:
        sock.close()
