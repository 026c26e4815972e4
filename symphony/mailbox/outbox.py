"""What one end of a mailbox connection has to send: frames gathered for one write, and a bound on the backlog."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from symphony.mailbox.envelope import PROTOCOL_VERSION, Envelope
from symphony.mailbox.framing import LARGEST_FRAME, LENGTH, FrameError

# Gathering more than this before writing saves nothing more.
_WRITE_AT = 64 * 1024

_encode = msgspec.msgpack.Encoder().encode
_pack = LENGTH.pack


class Outbox:
    """Gathers the frames of one turn of the event loop and writes them at once.

    The bound is checked before a message is taken, not after: the backlog may exceed `limit` by one message, so
    that a single message larger than `limit` can be sent at all.

    The protocol passes its ``pause_writing`` and ``resume_writing`` on to :attr:`full`.
    """

    __slots__ = ("_gathered", "_held", "_loop", "_transport", "full")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, limit: int) -> None:
        self._loop = loop
        self._transport = transport
        self._gathered = bytearray()
        self._held = False
        self.full = False
        # Equal marks: "full" then means that the backlog is above the limit now, and nothing else.
        transport.set_write_buffer_limits(high=limit, low=limit)

    def post(self, id: int, deadline: float, message: Struct) -> bool:
        """Send `message`; False when the backlog is above its limit already.

        :raises TypeError, ValueError, OverflowError: `message` has a value that msgpack cannot say.
        :raises FrameError: `message` is 4 GiB or more.
        """
        if self.full:
            return False
        payload = _encode(Envelope(PROTOCOL_VERSION, id, deadline, message))
        size = len(payload)
        if size > LARGEST_FRAME:
            raise FrameError(f"a message of {size} bytes does not fit in a frame")
        gathered = self._gathered
        gathered += _pack(size)
        gathered += payload
        if len(gathered) >= _WRITE_AT:
            self.flush()
        elif not self._held:
            self._held = True
            self._loop.call_soon(self.release)
        return True

    def hold(self) -> bool:
        """Keep gathering until :meth:`release`; False when something else will release it anyway."""
        if self._held:
            return False
        self._held = True
        return True

    def release(self) -> None:
        """Write what was gathered; the next message starts a new turn."""
        self._held = False
        self.flush()

    def flush(self) -> None:
        """Write what was gathered now."""
        if self._gathered and not self._transport.is_closing():
            gathered, self._gathered = self._gathered, bytearray()
            self._transport.write(gathered)
