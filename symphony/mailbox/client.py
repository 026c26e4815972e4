"""The sending side of a mailbox: one connection that repairs itself, with casts, requests and calls on it.

What has been asked for and is not answered yet is in :class:`symphony.mailbox.pending.PendingRequests`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from msgspec import Struct

from symphony.mailbox.address import peer_credentials
from symphony.mailbox.envelope import EnvelopeDecoder, EnvelopeError, Refused
from symphony.mailbox.framing import FrameDecoder, FrameError
from symphony.mailbox.outbox import Outbox
from symphony.mailbox.peers import may_serve
from symphony.mailbox.pending import Callback, PendingRequests

FIRST_BACK_OFF_S = 0.010
LONGEST_BACK_OFF_S = 0.5
OUTBOUND_LIMIT = 4 << 20
_CLOSE_WITHIN_S = 1.0

log = logging.getLogger(__name__)


class MailboxError(Exception):
    """A call that brought no reply."""


class MailboxDown(MailboxError):
    """Nobody serves the mailbox, or the connection broke before the reply."""


class MailboxTimeout(MailboxError):
    """No reply in time."""


class MailboxRefused(MailboxError):
    """The actor answered that it could not serve the request; `reason` is what it said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MailboxClient:
    """Sends to the mailbox at `path`, connecting again by itself (10 ms after a loss, doubling to 500 ms).

    `on_up()` is called when a connection stands, `on_down()` when it is lost, and `on_push(message)` for what comes
    without having been asked for; all from the event loop. An exception in a hook or callback is logged. A reply that
    nobody waits for any more is dropped.

    :param replies: the tagged union of replies and pushes.
    :param max_frame: the largest message taken, in bytes.
    :param name: what logs call it; the path when empty.
    """

    def __init__(self, path: str, replies: Any, *, max_frame: int = 64 << 20, name: str = "") -> None:
        self.path = path
        self.name = name or path
        self.max_frame = max_frame
        self.on_push: Callable[[Any], None] | None = None
        self.on_up: Callable[[], None] | None = None
        self.on_down: Callable[[], None] | None = None
        self.decoder = EnvelopeDecoder(replies)
        self._link: _Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[Any] | None = None
        self._last_id = 0
        self._pending = PendingRequests(self._give_nothing)
        self._complaint = ""

    @property
    def connected(self) -> bool:
        """Whether a message sent now has a connection to go by."""
        return self._link is not None

    def start(self) -> None:
        """Connect, and stay connected until :meth:`close`. Needs a running event loop."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep(), name=f"mailbox client {self.name}"
            )

    async def close(self) -> None:
        """Send what is still to be sent (for a second at most) and disconnect; what is pending gets None."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        if self._opening is not None:
            await asyncio.wait([self._opening])
        link, self._link = self._link, None
        self._pending.end_all()
        if link is not None:
            await link.close()

    def cast(self, message: Struct) -> bool:
        """Send `message`, which nobody answers. False when it was not sent; True does not mean that it arrived."""
        link = self._link
        return link is not None and link.outbox.post(0, 0.0, message)

    def request(self, message: Struct, callback: Callback, timeout_s: float) -> None:
        """Send `message` and give the reply to `callback`, which is called exactly once.

        It gets the reply (which may be :class:`Refused`), or None: no reply within `timeout_s` (told up to two
        ticks of 2 ms late), connection lost, or, before this returns, not connected or backlog full. An actor
        that comes to the request after `timeout_s` leaves it undone.
        """
        link = self._link
        if link is None:
            self._give(callback, None)
            return
        now = time.monotonic()
        deadline = now + timeout_s
        id = self._last_id = self._last_id + 1
        if not link.outbox.post(id, deadline, message):
            self._give(callback, None)
            return
        self._pending.add(link.loop, id, callback, now, deadline)

    async def call(self, message: Struct, timeout_s: float = 5.0) -> Any:
        """Send `message` and return its reply.

        :raises MailboxDown: not connected, or the connection was lost before the reply.
        :raises MailboxTimeout: no reply within `timeout_s`.
        :raises MailboxRefused: the actor refused.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        deadline = time.monotonic() + timeout_s
        self.request(message, settle, timeout_s)
        reply = await future
        if isinstance(reply, Refused):
            raise MailboxRefused(reply.reason)
        if reply is None:
            if time.monotonic() >= deadline:
                raise MailboxTimeout(f"{self.name}: no reply within {timeout_s:g} s")
            raise MailboxDown(f"{self.name}: not reachable")
        return reply

    async def connect(self) -> None:
        """Connect once; :meth:`start` does this by itself.

        :raises MailboxDown: nobody listens, or somebody who is another user.
        """
        sock = self._dial()
        loop = asyncio.get_running_loop()
        # Cancelled half-way, uvloop closes the transport without connection_lost(), and close() would wait for that
        # for ever. So this step, of one turn of the loop, is never cancelled, and close() waits for it.
        self._opening = loop.create_task(loop.create_unix_connection(lambda: _Link(self), sock=sock))
        try:
            await asyncio.shield(self._opening)
        except OSError as error:
            raise MailboxDown(f"{self.name}: {error.strerror or error}") from error

    def _dial(self) -> socket.socket:
        """Return a socket connected to a mailbox of our own user, or raise MailboxDown."""
        sock: socket.socket | None = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            # Not left to the event loop: a Unix socket connects at once or not at all, and asyncio takes the EAGAIN
            # of a full backlog for a connection that is under way.
            sock.connect(self.path)
            _, uid = peer_credentials(sock)
            if not may_serve(self.path, uid):
                raise MailboxDown(f"{self.name}: belongs to user {uid}, expected {os.geteuid()}")
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, OSError):
                raise MailboxDown(f"{self.name}: {error.strerror or error}") from error
            raise
        return sock

    async def _keep(self) -> None:
        """Stay connected."""
        back_off = FIRST_BACK_OFF_S
        while True:
            try:
                await self.connect()
            except MailboxDown as error:
                log.debug("%s", error)
            link = self._link
            if link is not None:
                since = time.monotonic()
                await asyncio.shield(link.lost)  # close() cancels this task, not the future it waits for
                # A server that cuts this client off at once must not be asked again at once.
                if link.heard or time.monotonic() - since > LONGEST_BACK_OFF_S:
                    back_off = FIRST_BACK_OFF_S
            await asyncio.sleep(back_off)
            back_off = min(back_off * 2, LONGEST_BACK_OFF_S)

    def _opened(self, link: _Link) -> None:
        self._link = link
        if self.on_up is not None:
            self._run(self.on_up)

    def _lost(self, link: _Link) -> None:
        if self._link is not link:
            return
        self._link = None
        self._pending.end_all()
        if self.on_down is not None:
            self._run(self.on_down)

    def _received(self, id: int, message: Any) -> None:
        if id:
            callback = self._pending.take(id, None)
            if callback is not None:
                self._give(callback, message)
        elif self.on_push is not None:
            self._give(self.on_push, message)

    def _complain(self, text: str) -> None:
        """Log what is wrong with the other side, once until it is something else."""
        if text != self._complaint:
            self._complaint = text
            log.error("%s: %s", self.name, text)

    def _give_nothing(self, callback: Callback) -> None:
        self._give(callback, None)

    def _give(self, callback: Callback, message: Any) -> None:
        try:
            callback(message)
        except Exception:
            log.exception("%s: callback failed on %s", self.name, type(message).__name__)

    def _run(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception:
            log.exception("%s: hook failed", self.name)


class _Link(asyncio.Protocol):
    """One connection of a client. `heard` is whether the other side has ever made sense."""

    def __init__(self, owner: MailboxClient) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost = self.loop.create_future()
        self.heard = False
        self.outbox: Outbox
        self._owner = owner
        self._frames = FrameDecoder(owner.max_frame)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        self._transport = transport
        self.outbox = Outbox(self.loop, transport, OUTBOUND_LIMIT)
        self._owner._opened(self)

    def data_received(self, data: bytes) -> None:
        owner = self._owner
        try:
            payloads = self._frames.feed(data)
            for payload in payloads:
                envelope = owner.decoder.decode(payload)
                self.heard = True
                owner._received(envelope.id, envelope.body)
        except (FrameError, EnvelopeError) as error:
            owner._complain(str(error))
            self._transport.abort()

    def pause_writing(self) -> None:
        self.outbox.full = True

    def resume_writing(self) -> None:
        self.outbox.full = False

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self._owner._lost(self)

    async def close(self) -> None:
        self.outbox.flush()
        self._transport.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.lost), _CLOSE_WITHIN_S)
        except TimeoutError:
            self._transport.abort()
            await self.lost


async def ask(path: str, message: Struct, replies: Any, timeout_s: float = 5.0) -> Any:
    """Connect to the mailbox at `path`, send `message`, return the reply and disconnect: for command line tools.

    Raises as :meth:`MailboxClient.call` does.
    """
    client = MailboxClient(path, replies)
    try:
        await client.connect()
        return await client.call(message, timeout_s)
    finally:
        await client.close()
