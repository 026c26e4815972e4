"""The backend for connections that are only held: sends back what it gets, and keeps nothing for a connection.

Run as ``python -m tools.bench.echo PATH``. Messages are small, so one that cannot be sent back whole at once ends its
connection; the holder sees that and reports it.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from tools.bench.process import raise_descriptor_limit

_LARGEST = 16384


def serve(path: str) -> None:
    """Serve on a Unix socket until killed."""
    raise_descriptor_limit()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(path)
    listener.listen(4096)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setblocking(False)
                epoll.register(sock.detach(), select.EPOLLIN)
                continue
            try:
                data = os.read(fd, _LARGEST)
                alive = bool(data) and os.write(fd, data) == len(data)
            except OSError:
                alive = False
            if not alive:
                epoll.unregister(fd)
                os.close(fd)


if __name__ == "__main__":
    serve(sys.argv[1])
