"""An actor's mailbox: a Unix stream socket on which typed messages arrive and are answered.

Rules:

- Only processes of the instance's owner may send; those of its workers' user only what the mailbox takes from workers
  (:mod:`symphony.mailbox.peers`). Root is nobody special: a process with other credentials has no business here, and is
  cut off before it is read.
- A sender that breaks the protocol loses its connection, and nothing else happens.
- Nothing grows without bound. Of one sender, :data:`MAX_IN_FLIGHT` requests are worked on at a time, and then its
  socket is not read (the kernel makes it wait); a sender that does not read its replies is dropped.
- A request whose sender has stopped waiting is not worked on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias, cast

from msgspec import Struct

from symphony.mailbox.address import peer_credentials
from symphony.mailbox.envelope import EnvelopeDecoder, EnvelopeError, Refused
from symphony.mailbox.framing import FrameDecoder, FrameError
from symphony.mailbox.outbox import Outbox
from symphony.mailbox.peers import is_owner, is_worker
from symphony.mailbox.socket_file import SocketFile, bind_socket

MAX_IN_FLIGHT = 1024
_BACKLOG = 1024
_CLOSE_WITHIN_S = 1.0
_FOREIGN_LOG_INTERVAL_S = 1.0

log = logging.getLogger(__name__)


class Sender:
    """The other end of one connection to a mailbox: who it is, and the way to send it what it did not ask for."""

    __slots__ = ("_callbacks", "_connection", "pid", "uid")

    def __init__(self, connection: _Connection, pid: int, uid: int) -> None:
        self._connection = connection
        self._callbacks: list[Callable[[], None]] = []
        self.pid = pid
        self.uid = uid

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent to it any more."""
        return self._connection.closing

    def push(self, message: Struct) -> bool:
        """Send `message` outside of any request; False when the sender is gone or is dropped for not reading."""
        return self._connection.send(0, message)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the connection is gone; soon, when it is gone already."""
        if self._connection.lost:
            asyncio.get_running_loop().call_soon(callback)
        else:
            self._callbacks.append(callback)


Handler: TypeAlias = Callable[[Any, Sender], "Struct | Awaitable[Struct | None] | None"]
"""Takes a message and its sender; returns the reply, or an awaitable of it. None is for messages without a reply: a
sender that waits for one all the same is told :class:`Refused`. The reply to a cast goes nowhere."""


class MailboxServer:
    """Serves the mailbox at `path`.

    :param requests: the tagged union (or single tagged struct) of messages that are taken.
    :param max_frame: the largest message taken, in bytes.
    :param high_water: bytes of unread replies above which the next one drops the sender.
    :param from_workers: the kinds of messages that workers may send.
    """

    def __init__(
        self,
        path: str,
        requests: Any,
        handler: Handler,
        *,
        max_frame: int = 1 << 20,
        high_water: int = 4 << 20,
        from_workers: tuple[type[Struct], ...] = (),
    ) -> None:
        self.path = path
        self.max_frame = max_frame
        self.high_water = high_water
        self.decoder = EnvelopeDecoder(requests)
        self.handler = handler
        self.from_workers = from_workers
        self._sock: socket.socket | None = None
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Future[Struct | None]] = set()
        self.closing = False
        self._server: asyncio.AbstractServer | None = None
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._file: SocketFile | None = None
        self._foreign_logged = float("-inf")

    @property
    def depth(self) -> int:
        """How many requests have arrived and are not answered yet."""
        return len(self.tasks) + sum(len(connection.waiting) for connection in self.connections)

    async def start(self) -> None:
        """Bind and listen. A socket that an earlier process left at `path` is replaced.

        :raises OSError: it cannot be bound, or what stands at `path` is no socket.
        """
        loop = asyncio.get_running_loop()
        self.bind()
        sock, self._sock = self._sock, None
        assert sock is not None, "it was bound"
        try:
            sock.listen(_BACKLOG)
            self._server = await loop.create_unix_server(
                lambda: _Connection(self), sock=sock, backlog=_BACKLOG
            )
        except BaseException:
            sock.close()
            raise

    def bind(self) -> None:
        """Put the socket at `path`; until :meth:`start` nobody is let in. For who may not do so later.

        :raises OSError: it cannot be bound, or what stands at `path` is no socket.
        """
        if self._sock is None:
            self._sock = bind_socket(self.path, for_workers=bool(self.from_workers))
            self._file = SocketFile(self.path)

    async def close(self) -> None:
        """Stop listening, cancel handlers, send what is still to be sent (for a second at most), and disconnect."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            self._unlink()
        if self._server is None:
            return
        self.closing = True
        self._unlink()
        self._server.close()
        self._server = None
        for task in tuple(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=_CLOSE_WITHIN_S)
        for connection in tuple(self.connections):
            connection.close()
        try:
            await asyncio.wait_for(self._nobody.wait(), _CLOSE_WITHIN_S)
        except TimeoutError:
            for connection in tuple(self.connections):
                connection.abort()
            await self._nobody.wait()

    def opened(self, connection: _Connection) -> None:
        """Note that `connection` stands."""
        self.connections.add(connection)
        self._nobody.clear()

    def lost(self, connection: _Connection) -> None:
        """Note that `connection` is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._nobody.set()

    def refuse_foreign(self, pid: int, uid: int) -> None:
        """Log a sender of another user, so seldom that it cannot fill the log."""
        now = time.monotonic()
        if now - self._foreign_logged >= _FOREIGN_LOG_INTERVAL_S:
            self._foreign_logged = now
            log.warning("%s: process %d of user %d refused", self.path, pid, uid)

    def _unlink(self) -> None:
        if self._file is not None:
            self._file.unlink()


class _Connection(asyncio.Protocol):
    """One sender's connection."""

    def __init__(self, server: MailboxServer) -> None:
        self.waiting: deque[bytes] = deque()
        self.lost = False
        self._server = server
        self._decode = server.decoder.decode
        self._handler = server.handler
        self._frames = FrameDecoder(server.max_frame)
        self._in_flight = 0
        self._restricted = False
        self._reading = True
        self._transport: asyncio.Transport
        self._outbox: Outbox
        self._sender: Sender

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        self._transport = transport
        self._server.opened(self)
        self._outbox = Outbox(asyncio.get_running_loop(), transport, self._server.high_water)
        try:
            pid, uid = peer_credentials(transport.get_extra_info("socket"))
        except OSError as error:
            # uvloop needs one more descriptor to ask, and there may be none.
            self._sender = Sender(self, 0, -1)
            self._cut_off(f"its user is not known: {error.strerror}")
            return
        self._sender = Sender(self, pid, uid)
        if self._server.closing:
            # asyncio tells of a connection one turn after it accepted it: close() may have come between.
            transport.abort()
        elif is_worker(uid) and self._server.from_workers:
            self._restricted = not is_owner(uid)
        elif not is_owner(uid):
            self._server.refuse_foreign(pid, uid)
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            self.waiting += self._frames.feed(data)
        except FrameError as error:
            self._cut_off(str(error))
            return
        self._serve()

    def pause_writing(self) -> None:
        self._outbox.full = True

    def resume_writing(self) -> None:
        self._outbox.full = False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.waiting.clear()
        self._server.lost(self)
        for callback in self._sender._callbacks:
            try:
                callback()
            except Exception:
                log.exception("%s: on_close of process %d failed", self._server.path, self._sender.pid)
        self._sender._callbacks.clear()

    def send(self, id: int, message: Struct) -> bool:
        if self._transport.is_closing():
            return False
        if not self._outbox.post(id, 0.0, message):
            self._cut_off(f"it does not read: more than {self._server.high_water} bytes wait for it")
            return False
        return True

    def close(self) -> None:
        self._outbox.flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _serve(self) -> None:
        """Work on what has arrived, as far as the bound on requests in flight allows."""
        held = self._outbox.hold()
        waiting = self.waiting
        while waiting and self._in_flight < MAX_IN_FLIGHT:
            self._serve_one(waiting.popleft())
        if held:
            self._outbox.release()
        reading = self._in_flight < MAX_IN_FLIGHT
        if reading is not self._reading and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _serve_one(self, payload: bytes) -> None:
        try:
            envelope = self._decode(payload)
        except EnvelopeError as error:
            self._cut_off(str(error))
            return
        if self._restricted and not isinstance(envelope.body, self._server.from_workers):
            self._cut_off(f"a worker may not send {type(envelope.body).__name__} here")
            return
        if envelope.deadline and envelope.deadline < time.monotonic():
            return
        try:
            reply = self._handler(envelope.body, self._sender)
        except Exception:
            # Only the type: a request may carry key material.
            log.exception("%s: handling %s failed", self._server.path, type(envelope.body).__name__)
            reply = Refused("internal error")
        if reply is None or isinstance(reply, Struct):
            if envelope.id:
                self._answer(envelope.id, envelope.body, reply)
            return
        self._in_flight += 1
        task = asyncio.ensure_future(reply)
        self._server.tasks.add(task)
        task.add_done_callback(partial(self._done, envelope.id, envelope.body))

    def _done(self, id: int, request: Struct, task: asyncio.Future[Struct | None]) -> None:
        self._server.tasks.discard(task)
        self._in_flight -= 1
        reply: Struct | None
        if task.cancelled():
            reply = Refused("cancelled")
        elif (error := task.exception()) is not None:
            self._failed(request, error)
            reply = Refused("internal error")
        else:
            reply = task.result()
        if id:
            self._answer(id, request, reply)
        if self.waiting or not self._reading:
            self._serve()

    def _answer(self, id: int, request: Struct, reply: Struct | None) -> None:
        if reply is None:
            reply = Refused(f"{type(request).__name__} has no reply")
        try:
            self.send(id, reply)
        except (TypeError, ValueError, OverflowError, FrameError) as error:
            self._failed(request, error)
            self.send(id, Refused("internal error"))

    def _failed(self, request: Struct, error: BaseException) -> None:
        log.error("%s: handling %s failed", self._server.path, type(request).__name__, exc_info=error)

    def _cut_off(self, reason: str) -> None:
        self.waiting.clear()
        log.warning("%s: process %d cut off: %s", self._server.path, self._sender.pid, reason)
        self._transport.abort()
