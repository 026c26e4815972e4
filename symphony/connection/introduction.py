"""Sends what an upstream is to read before the first byte of a connection."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from symphony.connection.state import ServingState
from symphony.observe.reasons import Reason
from symphony.routing.upstream import UpstreamSlot

Introduced = Callable[[socket.SocketType, UpstreamSlot], None]
Failed = Callable[[Reason, str], None]


class Introduction:
    """One header on its way to an upstream that has just been connected.

    Calls `introduced` or `failed` exactly once, unless cancelled. Until then it owns the socket and its slot, which
    `introduced` takes over as it would from the connector. A new socket takes a header of ordinary size at once; one
    that does not fit is waited for, as long as connecting may take.
    """

    __slots__ = ("_failed", "_introduced", "_slot", "_state", "_unsent", "_upstream", "timer_tick")

    def __init__(
        self,
        state: ServingState,
        upstream: socket.SocketType,
        slot: UpstreamSlot,
        introduced: Introduced,
        failed: Failed,
    ) -> None:
        self._state = state
        self._upstream: socket.SocketType | None = upstream
        self._slot = slot
        self._introduced = introduced
        self._failed = failed
        self._unsent = memoryview(b"")
        self.timer_tick = 0

    def send(self, header: bytes) -> None:
        """Send `header`; the outcome may come before this returns."""
        self._unsent = memoryview(header)
        if self._send_some():
            return
        assert self._upstream is not None, "nothing has ended it yet"
        self._state.host.add_writer(self._upstream.fileno(), self._writable)
        self._state.host.wheel.schedule(self, self._slot.upstream.connect_timeout_ms / 1000)

    def _writable(self) -> None:
        self._send_some()

    def _send_some(self) -> bool:
        """Send what the socket takes. True when it is over, for good or bad."""
        upstream = self._upstream
        assert upstream is not None, "a header on its way has a socket"
        try:
            sent = upstream.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(Reason.UPSTREAM_RESET, os.strerror(error.errno or errno.EIO))
            return True
        if sent < len(self._unsent):
            self._unsent = self._unsent[sent:]
            return False
        self._state.host.remove_writer(upstream.fileno())
        self._let_go()
        self._introduced(upstream, self._slot)
        return True

    def on_timer(self) -> None:
        """The upstream does not read."""
        self._fail(
            Reason.UPSTREAM_TIMEOUT, f"{len(self._unsent)} bytes of the PROXY header not taken in time"
        )

    def abort(self, reason: Reason) -> None:
        """Give up, since a handler of this object has failed."""
        self._fail(reason, "")

    def cancel(self) -> None:
        """Give up: the client has gone."""
        upstream = self._upstream
        if upstream is not None:
            self._let_go()
            self._state.host.forget(upstream.fileno())
            upstream.close()
            self._slot.record.abandoned()

    def _fail(self, reason: Reason, detail: str) -> None:
        label = self._slot.upstream.label
        self.cancel()
        self._failed(reason, f"{label}: {detail}")

    def _let_go(self) -> None:
        self._upstream = None
        if self.timer_tick:
            self._state.host.wheel.cancel(self)
