"""The relay of a terminated connection: TLS on the client's socket, plain bytes on the upstream's.

Theory of operation
-------------------
There is no task, no future, no stream object. The relay is one object whose bound methods are the event loop's
handlers, and what a direction does next is which handler is installed:

    direction up (client to upstream)                 direction down (upstream to client)
    FLOWING     reader on client: _pull_client        FLOWING   reader on upstream: _pull_upstream
    BLOCKED     writer on upstream: _flush_up         BLOCKED   writer on client: _flush_down
    ENDING      the same; the end follows the bytes   ENDING    writer on client: _flush_close_notify
    DISCARDING  reader on client: _discard_client     FAILING   timer: reset once all is delivered
    RESET       the same; the upstream was reset      ENDED
    ENDED

Rules, each of which a data loss or a dead-lock taught:

1. A direction that is blocked is *unwatched* at its source, not watched for nothing: a descriptor in the poll set
   reports a hang-up whatever it was asked for, and closing then would cut off bytes that are still to be sent.
2. The directions know nothing of each other. Full-duplex protocols dead-lock when a full socket one way stops
   reading the other way.
3. Bytes never stay in the shared buffer when a handler returns. What could not be sent is copied; at most one
   buffer's worth per direction, because the source is not read while a copy waits. This is the flow control.
4. OpenSSL is read until it has nothing decrypted left, or the buffer is too full for another record: what it holds
   in user space causes no event. An end found while reading on is acted on after the bytes before it.
5. A TLS write that blocked is repeated with the same bytes (:mod:`symphony.tls.library`).
6. The end of one direction is passed on (shutdown, close_notify) only after its last byte, and the other direction
   goes on. The connection is over when both have ended.
7. A failure is passed on as a failure: the other side gets a reset and no close_notify, so that it can tell a cut
   answer from a whole one. But what came before the failure is delivered first: a reset makes the kernel drop what
   it has not sent yet, and an upstream that refuses an upload by answering and closing is read as a reset, too. The
   kernel tells of a reset once: when a write was told, the read behind it sees an orderly end that is none.
8. An upstream that closes early leaves its answer and an unread request behind. Closing the client's socket with
   unread bytes in it would send a reset, and that destroys the answer on the way: the rest is read and discarded.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from symphony.observe.reasons import Reason
from symphony.relay.direction import LINGER_S, Direction, Owner
from symphony.relay.host import RelayHost
from symphony.relay.lifetime import Lifetime, Silence
from symphony.relay.sockets import shut_writing, was_reset
from symphony.tls import library
from symphony.tls.library import (
    ENDED,
    MAX_PLAINTEXT,
    WANT_READ,
    WANT_WRITE,
    free,
    ssl_read,
    ssl_shutdown,
    ssl_write,
)

_readv = os.readv
_write = os.write

READS_AT_ONCE = 2
"""A read that fills the buffer is followed by another in the same event; more would make the other connections wait."""


_FLOWING = Direction.FLOWING
_BLOCKED = Direction.BLOCKED
_ENDING = Direction.ENDING
_DISCARDING = Direction.DISCARDING
_RESET = Direction.RESET
_FAILING = Direction.FAILING
_ENDED = Direction.ENDED


class TerminatedRelay(Lifetime):
    """Moves bytes between a TLS session and an upstream socket until both directions have ended.

    Takes over the session and both sockets, which are non-blocking and unwatched for writing.
    `bytes_up` and `bytes_down` count what was handed to the kernel.
    """

    __slots__ = (
        "_client_fd",
        "_down",
        "_down_bytes",
        "_session",
        "_up",
        "_up_bytes",
        "_upstream_fd",
        "bytes_down",
        "bytes_up",
    )

    def __init__(
        self,
        host: RelayHost,
        owner: Owner,
        session: Any,
        client: socket.SocketType,
        upstream: socket.SocketType,
        silence: Silence,
    ) -> None:
        super().__init__(host, owner, client, upstream, silence)
        self._session = session
        self._client_fd = client.fileno()
        self._upstream_fd = upstream.fileno()
        self._up = self._down = _FLOWING
        self._up_bytes: memoryview | None = None
        self._down_bytes: bytes | None = None
        self.bytes_up = 0
        self.bytes_down = 0

    def start(self) -> None:
        """Install the handlers. The client's descriptor may have a reader from the handshake: it is replaced."""
        host = self._host
        host.add_reader(self._client_fd, self._pull_client)
        host.add_reader(self._upstream_fd, self._pull_upstream)
        self._watch_idle()

    # Up: client to upstream

    def _pull_client(self) -> None:
        session = self._session
        buffer = self._host.buffer
        size: int = ssl_read(session, buffer.c, buffer.size)
        if size <= 0:
            self._client_stopped(library.outcome(session, size))
            return
        after = WANT_READ
        if size == MAX_PLAINTEXT:  # a full record: more is likely to be there, and one write can take it all
            room = buffer.size - MAX_PLAINTEXT
            while size <= room:
                more: int = ssl_read(session, buffer.c + size, buffer.size - size)
                if more <= 0:
                    after = library.outcome(session, more)
                    break
                size += more
                if more < MAX_PLAINTEXT:
                    break
        try:
            sent = _write(self._upstream_fd, buffer.view[:size])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._upstream_refuses(after, error)
            return
        self.bytes_up += sent
        if sent < size:
            self._up = _BLOCKED
            self._up_bytes = memoryview(bytes(buffer.view[sent:size]))
            host = self._host
            host.remove_reader(self._client_fd)
            host.add_writer(self._upstream_fd, self._flush_up)
        if after != WANT_READ:
            self._client_stopped(after)

    def _client_stopped(self, outcome: int) -> None:
        if outcome == WANT_READ:
            return
        if outcome == ENDED:
            self._client_ended()
        elif outcome == WANT_WRITE:
            # OpenSSL has an answer of its own to send (a key update, RFC 8446 section 4.6.3) before it reads on.
            host = self._host
            host.remove_reader(self._client_fd)
            host.add_writer(self._client_fd, self._read_again)
        else:
            self.abort(Reason.CLIENT_RESET if outcome == library.BROKEN else Reason.TLS_ERROR)

    def _read_again(self) -> None:
        host = self._host
        if self._down is _BLOCKED:
            host.add_writer(self._client_fd, self._flush_down)
        elif self._down is _ENDING:
            host.add_writer(self._client_fd, self._flush_close_notify)
        else:
            host.remove_writer(self._client_fd)
        if self._up is _FLOWING:
            host.add_reader(self._client_fd, self._pull_client)
        elif self._up is _DISCARDING or self._up is _RESET:
            host.add_reader(self._client_fd, self._discard_client)

    def _flush_up(self) -> None:
        waiting = self._up_bytes
        assert waiting is not None, "a blocked direction has bytes"
        try:
            sent = _write(self._upstream_fd, waiting)
        except BlockingIOError:
            return
        except OSError as error:
            self._upstream_refuses(WANT_READ if self._up is _BLOCKED else ENDED, error)
            return
        self.bytes_up += sent
        if sent < len(waiting):
            self._up_bytes = waiting[sent:]
            return
        self._up_bytes = None
        self._host.remove_writer(self._upstream_fd)
        if self._up is _ENDING:
            self._end_up()
        else:
            self._up = _FLOWING
            self._host.add_reader(self._client_fd, self._pull_client)

    def _client_ended(self) -> None:
        if self._down is _ENDED and self._up_bytes is None:
            self._close(None)
            return
        self._host.remove_reader(self._client_fd)
        self._half_close()
        if self._up is _BLOCKED:
            self._up = _ENDING
        elif self._up is _DISCARDING:
            self._up = _ENDED
            self._finish_if_over()
        elif self._up is not _RESET:
            self._end_up()

    def _end_up(self) -> None:
        self._up = _ENDED
        shut_writing(self._upstream)
        # OpenSSL ignores a reset that comes while it sends its session tickets. Nobody is left to hear the answer.
        if self._down is not _ENDED and was_reset(self._client):
            self._close(Reason.CLIENT_RESET)
        else:
            self._finish_if_over()

    def _upstream_refuses(self, after: int, error: OSError) -> None:
        """The upstream takes no more bytes; what it sent before may still be on its way (rules 7 and 8)."""
        host = self._host
        host.remove_writer(self._upstream_fd)
        self._up_bytes = None
        self._half_close()
        cut = not isinstance(error, BrokenPipeError)
        if after == ENDED:
            self._up = _RESET if cut else _ENDED
            host.remove_reader(self._client_fd)
        else:
            self._up = _RESET if cut else _DISCARDING
            host.add_reader(self._client_fd, self._discard_client)
        self._finish_if_over()

    def _discard_client(self) -> None:
        buffer = self._host.buffer
        size: int = ssl_read(self._session, buffer.c, buffer.size)
        if size <= 0:
            self._client_stopped(library.outcome(self._session, size))

    # Down: upstream to client

    def _pull_upstream(self) -> None:
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
            written: int = ssl_write(session, buffer.c, size)
            if written <= 0:
                self._client_refuses(library.outcome(session, written), size)
                return
            self.bytes_down += size
            if size < buffer.size:
                return

    def _upstream_ended(self) -> None:
        if self._up is _RESET:
            self._fail_down()
            return
        self._down = _ENDING
        if self._up is not _ENDED:
            self._host.remove_reader(self._upstream_fd)
            self._half_close()
            self._send_close_notify()
            return
        self._send_close_notify()
        if (
            self._session is not None
        ):  # else this was the end, and to unwatch what is closed next would be for nothing
            self._host.remove_reader(self._upstream_fd)

    def _client_refuses(self, outcome: int, size: int) -> None:
        """The client takes no more now, or never again; `size` bytes for it are in the shared buffer."""
        if outcome != WANT_WRITE:
            self.abort(Reason.CLIENT_RESET)
            return
        self._down = _BLOCKED
        host = self._host
        self._down_bytes = bytes(host.buffer.view[:size])
        host.remove_reader(self._upstream_fd)
        host.add_writer(self._client_fd, self._flush_down)

    def _flush_down(self) -> None:
        waiting = self._down_bytes
        assert waiting is not None, "a blocked direction has bytes"
        written: int = ssl_write(self._session, waiting, len(waiting))
        if written > 0:
            self.bytes_down += written
            self._down = _FLOWING
            self._down_bytes = None
            host = self._host
            host.remove_writer(self._client_fd)
            host.add_reader(self._upstream_fd, self._pull_upstream)
        elif library.outcome(self._session, written) != WANT_WRITE:
            self.abort(Reason.CLIENT_RESET)

    def _send_close_notify(self) -> None:
        returned: int = ssl_shutdown(self._session)
        if returned >= 0:
            self._end_down()
        elif library.outcome(self._session, returned) == WANT_WRITE:
            self._host.add_writer(self._client_fd, self._flush_close_notify)
        else:
            self.abort(Reason.CLIENT_RESET)

    def _flush_close_notify(self) -> None:
        self._host.remove_writer(self._client_fd)
        self._send_close_notify()

    def _end_down(self) -> None:
        self._down = _ENDED
        if self._up is not _ENDED:
            shut_writing(self._client)
        self._finish_if_over()

    def _fail_down(self) -> None:
        """The upstream was reset: reset the client too, when it has received what came before (rule 7)."""
        self._down = _FAILING
        host = self._host
        host.remove_reader(self._upstream_fd)
        host.remove_writer(self._upstream_fd)
        if self._up is not _ENDED:
            self._up = _RESET
            self._up_bytes = None
            host.add_reader(self._client_fd, self._discard_client)
        self._begin_failing(self._client, Reason.UPSTREAM_RESET)

    # The end

    def _finish_if_over(self) -> None:
        if self._down is _ENDED:
            if self._up is _ENDED:
                self._close(None)
            elif self._up is _DISCARDING:
                self._host.wheel.schedule(self, LINGER_S)

    def on_timer(self) -> None:
        """Close a connection that was silent for too long, or whose discarding takes too long."""
        if self._down is _FAILING:
            self._reset_when_delivered(self._client, Reason.UPSTREAM_RESET)
            return
        if self._up is _DISCARDING and self._down is _ENDED:
            self._close(None)
            return
        if self._is_idle(self.bytes_up + self.bytes_down):
            self._end_idle()

    def _end_idle(self) -> None:
        if self._down is _FLOWING:  # nothing is half sent: the client can be told in order
            returned: int = ssl_shutdown(self._session)
            if returned < 0:
                library.outcome(self._session, returned)
        self._close(self._silence.reason)

    def _close(self, reason: Reason | None) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        host = self._host
        host.forget(self._client_fd)
        host.forget(self._upstream_fd)
        if self.timer_tick:
            host.wheel.cancel(self)
        free(session)
        self._client.close()
        self._upstream.close()
        self._up = self._down = _ENDED
        self._up_bytes = self._down_bytes = None
        self._owner.relay_closed(self, reason)
