"""The services behind the proxy, in a process of their own: ``python -m tools.chaos.backend DIRECTORY``.

One protocol on all sockets. What comes is sent back, but for these words at the beginning of a message: ``bulk SIZE``
is answered by so many bytes of the pattern, ``close`` and ``reset`` end the connection, and an HTTP request is answered
by the last part of its path.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import cast

import uvloop

PATTERN = random.Random(0).randbytes(1 << 20)  # noqa: S311
_AT_ONCE = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class _Service(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._left = 0
        self._at = 0
        self._writing = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"bulk "):
            self._left += int(data[5:])
            self._pour()
        elif data.startswith(b"GET "):
            token = data.split(b" ", 2)[1].rpartition(b"/")[2]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(token) + token)
        elif data.startswith(b"close"):
            self._transport.close()
        elif data.startswith(b"reset"):
            sock = self._transport.get_extra_info("socket")
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
        else:
            self._transport.write(data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self._pour()

    def _pour(self) -> None:
        while self._left and self._writing and not self._transport.is_closing():
            part = PATTERN[self._at : self._at + min(_AT_ONCE, self._left)]
            self._at = (self._at + len(part)) % len(PATTERN)
            self._left -= len(part)
            self._transport.write(part)


async def _serve(directory: Path) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    plain = await loop.create_server(_Service, "127.0.0.1", 0, backlog=4096)
    tls = await loop.create_server(_Service, "127.0.0.1", 0, ssl=context, backlog=4096)
    path = str(directory / "service.sock")
    unix = await loop.create_unix_server(_Service, path, backlog=4096)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    told = {
        "plain": plain.sockets[0].getsockname()[1],
        "tls": tls.sockets[0].getsockname()[1],
        "path": path,
        "pid": os.getpid(),
    }
    print(json.dumps(told), flush=True)
    await stopped.wait()
    for server in (plain, tls, unix):
        server.close()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1])))
