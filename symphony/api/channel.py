"""A connection between two supervisors: packets, of which each is a message, with descriptors attached to some."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Sequence

import msgspec

from symphony.messages.succession import SuccessionMessage, decode_succession, encode_succession

MOST_DESCRIPTORS = 64
"""In one packet. The kernel takes up to 253 (unix(7), SCM_MAX_FD)."""

_LONGEST_PACKET = 1 << 17


class ChannelBroken(Exception):
    """The other side is gone, or says what cannot be understood; the text says which."""


class Channel:
    """One end; owns `sock`, a socket of SOCK_SEQPACKET. Needs a running event loop, but for :meth:`close`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._sending = asyncio.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """An end for this process, and the other one's socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    async def send(self, message: SuccessionMessage, descriptors: Sequence[int] = ()) -> None:
        """Send `message`, with at most MOST_DESCRIPTORS attached. Raises :class:`ChannelBroken`."""
        packet = encode_succession(message)
        async with self._sending:
            while True:
                try:
                    socket.send_fds(self._sock, [packet], descriptors, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await self._until(writable=True)
                except OSError as error:
                    raise ChannelBroken(f"the other process is gone: {error.strerror}") from error
                else:
                    return

    async def receive(self) -> tuple[SuccessionMessage, list[int]]:
        """Return the next message and what is attached to it. Raises :class:`ChannelBroken`."""
        while True:
            try:
                # Not by socket.recv_fds(), which does not ask for descriptors that are closed by an exec.
                packet, ancillary, flags, _ = self._sock.recvmsg(
                    _LONGEST_PACKET, socket.CMSG_SPACE(4 * MOST_DESCRIPTORS), socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                await self._until(writable=False)
            except OSError as error:
                raise ChannelBroken(f"the other process is gone: {error.strerror}") from error
        descriptors = _attached(ancillary)
        try:
            if not packet:
                raise ChannelBroken("the other process is gone")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ChannelBroken("a message was cut off, or this process has no descriptors left")
            return decode_succession(packet), descriptors
        except (ChannelBroken, msgspec.DecodeError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, ChannelBroken):
                raise
            raise ChannelBroken(f"the other process is not understood: {error}") from error

    def close(self) -> None:
        """Close this end; the other one notices."""
        self._sock.close()

    async def _until(self, *, writable: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        watch, unwatch = (
            (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
        )
        watch(self._sock, wake)
        try:
            await ready
        finally:
            unwatch(self._sock)


def _attached(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return descriptors.tolist()
