"""The service manager's end of the notification socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from types import TracebackType

LIMIT_S = 20.0


class NotifySocket:
    """A datagram socket at `address` that remembers nothing but what was not read yet."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="sy", dir="/tmp")
        self.address = os.path.join(self._directory, "notify")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.address)
        self.sock.settimeout(LIMIT_S)

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()
        shutil.rmtree(self._directory)

    def receive(self) -> dict[str, str]:
        """The next notification; waits for it."""
        return _fields(self.sock.recv(65536))

    def waiting(self) -> list[dict[str, str]]:
        """All that has come and was not read."""
        found = []
        self.sock.setblocking(False)
        try:
            while True:
                found.append(_fields(self.sock.recv(65536)))
        except BlockingIOError:
            return found
        finally:
            self.sock.settimeout(LIMIT_S)

    async def expect(self, key: str) -> dict[str, str]:
        """The next notification with `key`; what comes before it is dropped."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            for found in self.waiting():
                if key in found:
                    return found
            assert time.monotonic() < deadline, f"no {key}"
            await asyncio.sleep(0.005)

    def wait_for(self, key: str, limit_s: float = LIMIT_S) -> dict[str, str]:
        """As :meth:`expect`, without an event loop."""
        deadline = time.monotonic() + limit_s
        while True:
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                found = self.receive()
            except TimeoutError:
                raise AssertionError(f"no {key} within {limit_s:g} s") from None
            finally:
                self.sock.settimeout(LIMIT_S)
            if key in found:
                return found


def _fields(datagram: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in datagram.decode().splitlines())
