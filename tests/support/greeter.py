"""An upstream in a process of its own that answers whatever comes first with one byte and keeps the connection."""

from __future__ import annotations

import selectors
import socket

from tests.support.forked import ForkedService


class Greeter(ForkedService):
    """Listens on a Unix socket until it is closed."""

    def __init__(self) -> None:
        super().__init__(_serve, 1024)


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
