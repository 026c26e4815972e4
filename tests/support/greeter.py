"""An upstream in a process of its own that answers whatever comes first with one byte and keeps the connection."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import tempfile

from symphony.config.model import UdsUpstream


class Greeter:
    """Listens on a Unix socket until it is closed."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.path = os.path.join(self._directory, "up")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(1024)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                _serve(listening)
            finally:
                os._exit(0)
        listening.close()

    @property
    def upstream(self) -> UdsUpstream:
        """As a route names it."""
        return UdsUpstream(path=self.path)

    def close(self) -> None:
        """End the process and remove the socket."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._directory)


def _serve(listening: socket.socket) -> None:
    listening.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is listening:
                    client, _ = listening.accept()
                    client.setblocking(False)
                    selector.register(client, selectors.EVENT_READ)
                    continue
                try:
                    gone = not sock.recv(65536)
                    if not gone:
                        sock.send(b"!")
                except OSError:
                    gone = True
                if gone:
                    selector.unregister(sock)
                    sock.close()
