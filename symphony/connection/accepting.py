"""The accept loop of one listening socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Any

from structlog import get_logger

from symphony.connection.connection import Connection
from symphony.connection.plain_http import HttpConnection
from symphony.connection.state import ConnectionKind, ListenerSeat, ServingState
from symphony.observe.reasons import Reason

PAUSE_S = 0.1
"""How long accepting rests when the process or the machine has no descriptor or memory left."""

COMPLAIN_EVERY_S = 10.0

CONNECTION_KINDS: Mapping[str, ConnectionKind] = {"tls": Connection, "http": HttpConnection}
"""By the mode of a listener."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_STREAM = int(socket.SOCK_STREAM)
_TCP = int(socket.IPPROTO_TCP)

log = get_logger("accept")


class AcceptLoop:
    """Accepts from `listening` for `seat`, one connection per turn of the event loop.

    While the process has no room for more, accepting rests: connections wait in the kernel's queue, rather than being
    accepted and then reset for want of a descriptor to an upstream. It also rests when the kernel gives no descriptor
    all the same: the listening socket stays ready, and would be tried again and again for nothing.
    """

    __slots__ = ("_complain_at", "_family", "_listening", "_state", "seat", "timer_tick")

    def __init__(self, state: ServingState, seat: ListenerSeat, listening: socket.socket) -> None:
        self._state = state
        self.seat = seat
        self._listening = listening
        self._family = int(listening.family)
        self._complain_at = 0.0
        self.timer_tick = 0

    def start(self) -> None:
        """Watch the socket."""
        self._state.host.add_reader(self._listening.fileno(), self._accept_one)

    def stop(self, *, take_waiting: bool = False) -> None:
        """Unwatch the socket. `take_waiting` first accepts what is in the queue, for the last time."""
        host = self._state.host
        host.remove_reader(self._listening.fileno())
        if take_waiting:
            while self._accept():
                pass
        # Last, since the accepting above may have sent the loop to rest, to start again later.
        host.wheel.cancel(self)

    def on_timer(self) -> None:
        """The rest is over."""
        if len(self._state.ledger.open) < self._state.room:
            self.start()
        else:
            self._state.host.wheel.schedule(self, PAUSE_S)

    def _accept_one(self) -> None:
        self._accept()

    def _accept(self) -> bool:
        """Take one connection. False when there was none, or no means to take it."""
        # socket.accept() would wrap the same in a Python object and convert two enumerations: 3 us of each connection.
        accept: Any = self._listening._accept  # type: ignore[attr-defined]
        try:
            descriptor, peer = accept()
        except BlockingIOError:
            return False  # a sibling that shares this socket was quicker
        except ConnectionError:
            return True  # the client gave up while it was waiting
        except OSError as error:
            if (
                error.errno == errno.EINVAL
            ):  # somebody who holds the socket too has shut it down: it is over for good
                self._state.host.remove_reader(self._listening.fileno())
            else:
                self._rest(error)
            return False
        client = socket.SocketType(self._family, _STREAM, _TCP, descriptor)
        client.setblocking(False)
        seat = self.seat
        state = self._state
        seat.connection(state, seat, client, peer).start()
        if len(state.ledger.open) >= state.room:
            self._rest(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return False
        return True

    def _rest(self, error: OSError) -> None:
        host = self._state.host
        host.remove_reader(self._listening.fileno())
        host.wheel.schedule(self, PAUSE_S)
        now = host.loop.time()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY_S
            exhausted = error.errno in _EXHAUSTED
            log.error(
                "accept_paused",
                listener=self.seat.id,
                error=error.strerror,
                advice="raise the descriptor limit (ulimit -n)" if exhausted else "",
                reason=Reason.DESCRIPTOR_LIMIT.value if exhausted else Reason.INTERNAL_ERROR.value,
            )
