"""A TLS or plain connection of a client that may end it in every way, orderly or not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct

from tools.chaos.records import Address

_RESET = struct.pack("ii", 1, 0)
READ_SIZE = 1 << 18


class Wire:
    """One connection, on the running event loop. TLS goes through memory, so that the socket stays in hand.

    What fails raises OSError (ssl.SSLError is one).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    async def connect(self, address: Address) -> None:
        """Connect, without TLS so far."""
        await self._loop.sock_connect(self.sock, address)

    @property
    def address(self) -> Address:
        """This end's address."""
        host, port = self.sock.getsockname()
        return host, port

    def hello(self, context: ssl.SSLContext, name: str | None) -> bytes:
        """Begin TLS, and return the ClientHello instead of sending it."""
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self._outgoing.read()

    async def shake(self, context: ssl.SSLContext, name: str | None) -> None:
        """Make the whole handshake."""
        await self.send_raw(self.hello(context, name))
        assert self._tls is not None, "begun by hello()"
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
        await self._flush()

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._loop.sock_sendall(self.sock, data)

    async def receive_raw(self) -> bytes:
        """Receive bytes as they are; none at the end of the stream."""
        return await self._loop.sock_recv(self.sock, READ_SIZE)

    async def send(self, data: bytes) -> None:
        """Send through TLS, where it stands."""
        if self._tls is None:
            await self.send_raw(data)
            return
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """At least one byte; none at the end of the stream."""
        if self._tls is None:
            return await self.receive_raw()
        while True:
            try:
                return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""

    async def receive_exactly(self, size: int) -> bytes:
        """So many bytes. Raises ConnectionError at an earlier end."""
        data = b""
        while len(data) < size:
            part = await self.receive()
            if not part:
                raise ConnectionResetError("closed instead of an answer")
            data += part
        return data

    async def end(self) -> None:
        """Tell the other side in order that nothing more comes, and go."""
        try:
            if self._tls is not None:
                try:
                    self._tls.unwrap()
                except ssl.SSLError:
                    pass  # it wants the other side's answer, which is not waited for
                await self._flush()
        except OSError:
            pass  # the other side was first
        self.close()

    def close(self) -> None:
        """Go without a word, but for the kernel's own."""
        self.sock.close()

    def reset(self) -> None:
        """Go with a reset."""
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # reset by the other side
        self.sock.close()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self.send_raw(data)

    async def _fill(self) -> None:
        data = await self.receive_raw()
        if not data:
            self._incoming.write_eof()
            raise ConnectionResetError("closed instead of an answer")
        self._incoming.write(data)
