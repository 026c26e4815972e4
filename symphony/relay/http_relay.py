"""The relay of a terminated HTTP/1 connection on which every request names its client.

It is the relay of :mod:`symphony.relay.terminated`, with its states and rules, and a rewriter
(:class:`~symphony.relay.http_rewriter.HeadRewriter`) between the two sockets: what the client sends goes through it,
and what the upstream sends is shown to it. Once the protocol has changed (a WebSocket) the rewriter is dropped, and
this is the plain relay. What comes on top of that relay's rules:

1. What the rewriter gives out may lie in the shared buffer: it is written or copied before a handler returns.
2. While the rewriter keeps bytes back, the client's end waits behind them. A client is read then only until there are
   some, a record at a time, so that they stay few and a client that leaves is noticed.
3. The upstream's bytes are shown once, when they are read, whether the client takes them at once or not.
4. A request that is refused ends the connection, but not the answers to those before it: they are delivered, then the
   client is told by a 400 where that can only be taken for the answer to the request at fault, and otherwise reset.
   What the client sends meanwhile is read and discarded. An upstream that has a part of the request is reset, so that
   it does not take the part for the whole.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from symphony.observe.reasons import Reason
from symphony.relay.direction import Direction, Owner
from symphony.relay.host import RelayHost
from symphony.relay.http_framing import Buffer, HttpHeadError
from symphony.relay.http_rewriter import BAD_REQUEST, HeadRewriter, Refusal
from symphony.relay.lifetime import Silence
from symphony.relay.sockets import reset_on_close
from symphony.relay.terminated import READS_AT_ONCE, TerminatedRelay
from symphony.tls import library
from symphony.tls.library import ENDED, MAX_PLAINTEXT, WANT_READ, WANT_WRITE, ssl_read, ssl_write

_readv = os.readv
_write = os.write

_FLOWING = Direction.FLOWING
_BLOCKED = Direction.BLOCKED
_ENDING = Direction.ENDING
_DISCARDING = Direction.DISCARDING
_ENDED = Direction.ENDED

_REASONS = {
    "ambiguous_field": Reason.HTTP_AMBIGUOUS,
    "connect": Reason.HTTP_AMBIGUOUS,
    "content_length": Reason.HTTP_AMBIGUOUS,
    "length_conflict": Reason.HTTP_AMBIGUOUS,
    "trailer": Reason.HTTP_AMBIGUOUS,
    "transfer_encoding": Reason.HTTP_AMBIGUOUS,
    "early_data": Reason.HTTP_AHEAD,
    "pipelined": Reason.HTTP_AHEAD,
    "head_too_long": Reason.HTTP_HEAD_TOO_LONG,
    "version": Reason.HTTP_VERSION,
}
"""What a refusal is counted as, by its one word; all others are HTTP_MALFORMED."""


class HttpRelay(TerminatedRelay):
    """Moves bytes between a TLS session and an upstream socket, and sets fields on every request.

    `refused` is why a request was not passed on, None for a connection in order; it is what the connection ends for.
    """

    __slots__ = ("_rewriter", "_told", "refused")

    def __init__(
        self,
        host: RelayHost,
        owner: Owner,
        session: Any,
        client: socket.SocketType,
        upstream: socket.SocketType,
        silence: Silence,
        fields: bytes,
    ) -> None:
        """`fields` are the lines to set, from :func:`symphony.relay.http_head.identity_fields`."""
        super().__init__(host, owner, session, client, upstream, silence)
        self._rewriter: HeadRewriter | None = HeadRewriter(fields)
        self._told = False
        self.refused: HttpHeadError | None = None

    # Up: client to upstream

    def _pull_client(self) -> None:
        rewriter = self._rewriter
        if rewriter is None:
            super()._pull_client()
            return
        size, after = self._read_client(rewriter.waiting)
        if size:
            wrong: HttpHeadError | None = None
            try:
                pieces = rewriter.feed(self._host.buffer.view[:size])
            except HttpHeadError as error:
                wrong, pieces = error, error.passed
            if not self._pass_on(pieces, after):
                return
            if wrong is not None:
                self._refuse(wrong)
            elif rewriter.is_full:
                self._host.remove_reader(self._client_fd)
            elif rewriter.opaque:
                self._rewriter = None
        if after != WANT_READ and self._session is not None:
            self._client_stopped(after)

    def _read_client(self, little: bool) -> tuple[int, int]:
        """Read into the shared buffer, as the plain relay does: how much there is, and how reading stopped.

        `little` is for one record at most.
        """
        session = self._session
        buffer = self._host.buffer
        size: int = ssl_read(session, buffer.c, buffer.size)
        if size <= 0:
            return 0, library.outcome(session, size)
        if size == MAX_PLAINTEXT and not little:
            room = buffer.size - MAX_PLAINTEXT
            while size <= room:
                more: int = ssl_read(session, buffer.c + size, buffer.size - size)
                if more <= 0:
                    return size, library.outcome(session, more)
                size += more
                if more < MAX_PLAINTEXT:
                    break
        return size, WANT_READ

    def _pass_on(self, pieces: list[Buffer], after: int) -> bool:
        """Send to the upstream, behind what waits for it already. False when it takes no more, now and for ever.

        `after` is how reading from the client has stopped.
        """
        if not pieces:
            return True
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        waiting = self._up_bytes
        if waiting is not None:
            self._up_bytes = memoryview(b"".join((waiting, data)))
            return True
        try:
            sent = _write(self._upstream_fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._upstream_refuses(after, error)
            return False
        self.bytes_up += sent
        if sent < len(data):
            if self._up is _FLOWING:
                self._up = _BLOCKED
            self._up_bytes = memoryview(bytes(data[sent:]))
            host = self._host
            host.remove_reader(self._client_fd)
            host.add_writer(self._upstream_fd, self._flush_up)
        return True

    def _flush_up(self) -> None:
        super()._flush_up()
        rewriter = self._rewriter
        if self._up is not _FLOWING or rewriter is None:
            return
        if self.refused is not None or (rewriter.waiting and not self._may_decide()):
            self._discard()
        elif rewriter.is_full:
            self._host.remove_reader(self._client_fd)

    def _end_up(self) -> None:
        if self._rewriter is not None and self._rewriter.keeps and self._may_decide():
            self._up = _ENDING
        else:
            super()._end_up()

    def _may_decide(self) -> bool:
        """Whether an answer may still come, to decide what bytes are that are kept back for it."""
        return self._down is _FLOWING or self._down is _BLOCKED

    def _discard(self) -> None:
        """What else the client sends is for nobody."""
        self._up = _DISCARDING
        self._host.add_reader(self._client_fd, self._discard_client)
        self._finish_if_over()

    # Down: upstream to client

    def _pull_upstream(self) -> None:
        rewriter = self._rewriter
        if rewriter is None:
            super()._pull_upstream()
            return
        buffer = self._host.buffer
        session = self._session
        for _ in range(READS_AT_ONCE):
            try:
                size = _readv(self._upstream_fd, buffer.iov)
            except BlockingIOError:
                return
            except OSError:
                self._fail_down()
                return
            if not size:
                self._upstream_ended()
                return
            was_waiting = rewriter.waiting
            wrong: HttpHeadError | None = None
            released: list[Buffer] = []
            try:
                released = rewriter.answer(buffer.view[:size])
            except HttpHeadError as error:
                wrong, released = error, error.passed
            written: int = ssl_write(session, buffer.c, size)
            if written > 0:
                self.bytes_down += size
            else:
                self._client_refuses(library.outcome(session, written), size)
                if self._session is None:
                    return
            if released or wrong is not None or (was_waiting and not rewriter.waiting):
                self._released(rewriter, released, wrong)
            if self.refused is not None:
                self._tell_of_refusal()
            if size < buffer.size or self._down is not _FLOWING or self._rewriter is None:
                return

    def _released(self, rewriter: HeadRewriter, pieces: list[Buffer], wrong: HttpHeadError | None) -> None:
        """The upstream has decided on another protocol: send what was kept back for that, and read on."""
        if rewriter.opaque:
            self._rewriter = None
        up = self._up
        if up is not _FLOWING and up is not _BLOCKED and up is not _ENDING:
            return  # the upstream takes no more bytes
        if not self._pass_on(pieces, ENDED if up is _ENDING else WANT_READ):
            return
        if wrong is not None:
            self._refuse(wrong)
        elif self._up_bytes is None:
            if up is _ENDING:
                self._end_up()
            elif not rewriter.is_full:
                self._host.add_reader(self._client_fd, self._pull_client)

    def _flush_down(self) -> None:
        super()._flush_down()
        if self.refused is not None:
            self._tell_of_refusal()

    def _upstream_ended(self) -> None:
        super()._upstream_ended()
        rewriter = self._rewriter
        if rewriter is None or not rewriter.waiting or self._up_bytes is not None or self._session is None:
            return
        if self._up is _ENDING:
            self._end_up()
        elif self._up is _FLOWING:
            self._discard()

    # A request that is refused

    def _refuse(self, error: HttpHeadError) -> None:
        self.refused = error
        if self._up is _FLOWING:
            self._discard()
        elif self._up is _ENDING and self._up_bytes is None:
            self._up = _ENDED
        self._tell_of_refusal()

    def _tell_of_refusal(self) -> None:
        """Go on towards the end, as soon as all that the client is still to get has been sent (rule 4)."""
        rewriter = self._rewriter
        if self._down is not _FLOWING or rewriter is None:
            return
        if self._told:
            self._upstream_ended()
            return
        refusal = rewriter.refusal
        if refusal is Refusal.LATER:
            return
        host = self._host
        host.remove_reader(self._upstream_fd)
        host.remove_writer(self._upstream_fd)
        self._up_bytes = None
        if rewriter.in_request:
            reset_on_close(self._upstream)
        if refusal is Refusal.NEVER:
            self._fail_down()
            return
        if self._up is _BLOCKED:
            self._discard()
        elif self._up is _ENDING:
            self._up = _ENDED
        self._told = True
        written: int = ssl_write(self._session, BAD_REQUEST, len(BAD_REQUEST))
        if written > 0:
            self._upstream_ended()
            return
        outcome = library.outcome(self._session, written)
        if outcome != WANT_WRITE:
            self.abort(Reason.CLIENT_RESET)
            return
        self._down = _BLOCKED
        self._down_bytes = BAD_REQUEST
        host.add_writer(self._client_fd, self._flush_down)

    def _close(self, reason: Reason | None) -> None:
        super()._close(
            reason if self.refused is None else _REASONS.get(self.refused.reason, Reason.HTTP_MALFORMED)
        )
