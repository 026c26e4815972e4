"""The lifeline: a socket pair between the supervisor and one child, and the child's end of it.

The child says that it is ready, that it is alive and how much waits in its mailbox, or why it cannot run. The
supervisor says when to stop and what became of the siblings. End of file tells the child that its supervisor is
gone. Frames are those of :mod:`symphony.mailbox.framing`; there is no version, since both ends are one program.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

import msgspec
from msgspec import Struct

from symphony.mailbox.framing import FrameDecoder, FrameError, encode_frame

BEAT_INTERVAL_S = 0.25
MAX_LIFELINE_FRAME = 64 * 1024
_LONGEST_REASON = 4096
_CLOSE_WITHIN_S = 1.0

log = logging.getLogger(__name__)


class ChildReady(Struct, frozen=True, array_like=True, tag=True):
    """The child serves; the supervisor may start the next one."""


class ChildBeat(Struct, frozen=True, array_like=True, tag=True):
    """The child's event loop turns. `depth` is how many requests wait in its mailbox."""

    depth: int


class ChildFailed(Struct, frozen=True, array_like=True, tag=True):
    """The child cannot run and is about to exit."""

    reason: str


class StopChild(Struct, frozen=True, array_like=True, tag=True):
    """End within `grace` seconds."""

    grace: float


class SiblingDown(Struct, frozen=True, array_like=True, tag=True):
    """A child of the same group is gone."""

    name: str
    reason: str


class SiblingUp(Struct, frozen=True, array_like=True, tag=True):
    """A child of the same group is ready."""

    name: str


ChildMessage = ChildReady | ChildBeat | ChildFailed
SupervisorMessage = StopChild | SiblingDown | SiblingUp

_encode = msgspec.msgpack.Encoder().encode
_decode_child = msgspec.msgpack.Decoder[ChildMessage](ChildMessage).decode
_decode_supervisor = msgspec.msgpack.Decoder[SupervisorMessage](SupervisorMessage).decode


def encode_lifeline(message: ChildMessage | SupervisorMessage) -> bytes:
    """Return `message` as one frame, ready to be written."""
    return encode_frame(_encode(message))


def decode_child(payload: bytes) -> ChildMessage:
    """Read a payload in the supervisor. :raises msgspec.DecodeError: it is none of the child's messages."""
    message: ChildMessage = _decode_child(payload)
    return message


def decode_supervisor(payload: bytes) -> SupervisorMessage:
    """Read a payload in the child. :raises msgspec.DecodeError: it is none of the supervisor's messages."""
    message: SupervisorMessage = _decode_supervisor(payload)
    return message


class Lifeline:
    """The child's end. Set the hooks, then :meth:`open`; owns `sock` from the beginning.

    `on_stop(grace)`, `on_orphaned()` and `on_sibling(name, up)` are called from the event loop; `depth` is asked
    at every beat. :meth:`ready` and :meth:`fail` also work before :meth:`open`, so that a child whose event loop
    never starts can say why.
    """

    def __init__(self, sock: socket.socket, *, interval_s: float = BEAT_INTERVAL_S) -> None:
        self.on_stop: Callable[[float], None] | None = None
        self.on_orphaned: Callable[[], None] | None = None
        self.on_sibling: Callable[[str, bool], None] | None = None
        self.depth: Callable[[], int] = lambda: 0
        self._sock = sock
        self._interval_s = interval_s
        self._wire: _Wire | None = None

    async def open(self) -> None:
        """Read and beat from now on, in the running event loop."""
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self._wire = await loop.create_unix_connection(
            lambda: _Wire(self, self._interval_s), sock=self._sock
        )

    def ready(self) -> None:
        """Tell the supervisor that this child serves."""
        self._send(ChildReady())

    def fail(self, reason: str) -> None:
        """Tell the supervisor why this child is about to exit. Of a very long reason only the beginning is sent."""
        self._send(ChildFailed(reason[:_LONGEST_REASON]))

    async def close(self) -> None:
        """Send what is still to be sent (for a second at most) and close. `on_orphaned` is not called any more."""
        if self._wire is None:
            self._sock.close()
        else:
            await self._wire.close()

    def _send(self, message: ChildMessage) -> None:
        if self._wire is not None:
            self._wire.send(message)
            return
        try:
            self._sock.sendall(encode_lifeline(message))
        except OSError as error:
            log.warning("lifeline: %s not told to the supervisor: %s", type(message).__name__, error)


class _Wire(asyncio.Protocol):
    """The open lifeline."""

    # A supervisor that is stopped reads nothing: beats are then left out, so that they cannot pile up.
    _BEAT_BACKLOG = 4096

    def __init__(self, owner: Lifeline, interval_s: float) -> None:
        self._owner = owner
        self._interval_s = interval_s
        self._frames = FrameDecoder(MAX_LIFELINE_FRAME)
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        self._transport = transport
        self._beat()

    def send(self, message: ChildMessage) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_lifeline(message))

    async def close(self) -> None:
        self._closing = True
        self._stop_beating()
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._lost), _CLOSE_WITHIN_S)
        except TimeoutError:
            self._transport.abort()
            await self._lost

    def data_received(self, data: bytes) -> None:
        try:
            messages = [decode_supervisor(payload) for payload in self._frames.feed(data)]
        except (FrameError, msgspec.DecodeError) as error:
            log.error("lifeline: the supervisor sent what cannot be read: %s", error)
            self._transport.abort()
            return
        for message in messages:
            try:
                self._dispatch(message)
            except Exception:
                log.exception("lifeline: hook failed on %r", message)

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_beating()
        if not self._lost.done():
            self._lost.set_result(None)
        if not self._closing and self._owner.on_orphaned is not None:
            self._owner.on_orphaned()

    def _dispatch(self, message: SupervisorMessage) -> None:
        owner = self._owner
        match message:
            case StopChild(grace):
                if owner.on_stop is not None:
                    owner.on_stop(grace)
            case SiblingDown(name):
                if owner.on_sibling is not None:
                    owner.on_sibling(name, False)
            case SiblingUp(name):
                if owner.on_sibling is not None:
                    owner.on_sibling(name, True)

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._beat)
        if self._transport.get_write_buffer_size() < self._BEAT_BACKLOG:
            self.send(ChildBeat(self._owner.depth()))

    def _stop_beating(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
