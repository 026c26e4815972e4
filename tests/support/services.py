"""Small HTTP services on Unix sockets, each a process of its own that says its name in every answer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from types import TracebackType

from symphony.config.model import UdsUpstream

_LIMIT_S = 20.0


class Service:
    """Answers every connection's first request with its name, and closes; usable as a context manager."""

    def __init__(self, name: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.path = os.path.join(self._directory, "up")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(128)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._serve(listening, name.encode())
            finally:
                os._exit(0)
        listening.close()

    @property
    def upstream(self) -> UdsUpstream:
        """As a route names it."""
        return UdsUpstream(path=self.path)

    @staticmethod
    def _serve(listening: socket.socket, name: bytes) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        while True:
            sock, _ = listening.accept()
            threading.Thread(target=_answer, args=(sock, name), daemon=True).start()

    def close(self) -> None:
        """End the process and remove the socket."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._directory)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
