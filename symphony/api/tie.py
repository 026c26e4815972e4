"""What ties an instance to the program that has started it as a part of itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


class Tie:
    """The socket that ties this tree to the program that started it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    @classmethod
    def to(cls, descriptor: int | None) -> Tie | None:
        """The tie on an inherited descriptor. Raises OSError when it is no socket."""
        return None if descriptor is None else cls(socket.socket(fileno=descriptor))

    def tell_ready(self) -> None:
        """Say that the tree serves."""
        try:
            self._sock.send(b"ready")
        except OSError:
            pass  # the program is gone, and its end comes next

    def on_end(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the program closes its end, or has died."""
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                if self._sock.recv(64):
                    return
            except BlockingIOError:
                return
            except OSError:
                pass
            loop.remove_reader(self._sock)
            stop()

        loop.add_reader(self._sock, readable)
