"""Length-prefixed frames: a 4-byte big-endian length, then that many bytes of payload. No sockets here."""

from __future__ import annotations

from struct import Struct

LENGTH = Struct(">I")
HEADER_BYTES = LENGTH.size
LARGEST_FRAME = 0xFFFF_FFFF


class FrameError(Exception):
    """The peer does not speak this framing, or means to send more than it may."""


def encode_frame(payload: bytes) -> bytes:
    """Return `payload` with its length in front.

    :raises FrameError: `payload` is empty, or longer than the length field can say.
    """
    if not 0 < len(payload) <= LARGEST_FRAME:
        raise FrameError(f"a frame holds 1 to {LARGEST_FRAME} bytes, not {len(payload)}")
    return LENGTH.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a byte stream into payloads, whatever pieces it arrives in.

    It keeps at most one unfinished frame, and no more of it than has arrived: a length alone reserves nothing.
    """

    __slots__ = ("_buffer", "_error", "_max_frame", "_wanted")

    def __init__(self, max_frame: int) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._wanted = HEADER_BYTES
        self._error: str | None = None

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame that are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes, in order.

        :raises FrameError: a length is zero or above `max_frame`. Payloads completed by the same `data` are lost,
            and every later call raises again: after a wrong length nothing in the stream can be told apart.
        """
        if self._error is not None:
            raise FrameError(self._error)
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._wanted:
                return []
            data = bytes(buffer)
            buffer.clear()
        payloads: list[bytes] = []
        position = 0
        size = len(data)
        while size - position >= HEADER_BYTES:
            (length,) = LENGTH.unpack_from(data, position)
            if not 0 < length <= self._max_frame:
                self._error = f"frame of {length} bytes, allowed are 1 to {self._max_frame}"
                raise FrameError(self._error)
            end = position + HEADER_BYTES + length
            if end > size:
                self._wanted = HEADER_BYTES + length
                break
            payloads.append(data[position + HEADER_BYTES : end])
            position = end
        else:
            self._wanted = HEADER_BYTES
        if position < size:
            buffer += data[position:] if position else data
        return payloads
