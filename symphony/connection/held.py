"""The connections that suspended routes hold, each until somebody says where it goes.

A held connection costs an entry here, a place in the timer wheel and a watch for its client's hang-up; nothing of it is
looked at again. Its ClientHello stays in the socket: it is read there again for whoever asks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from symphony.messages.events import Released, Suspended
from symphony.messages.held import HeldPage
from symphony.observe.events import EventHub
from symphony.observe.reasons import Reason
from symphony.routing.plan import PlannedRoute
from symphony.routing.suspension import Suspension
from symphony.tls import client_hello
from symphony.tls.context import RouteContext
from symphony.tls.fingerprint import Fingerprints, told

PAGE = 50
"""Connections in one page of a list: their fingerprints take milliseconds, in which nothing else is served."""

FORWARDED = "forwarded"

_HOW = {
    Reason.REJECTED: "rejected",
    Reason.SUSPEND_TIMEOUT: "expired",
    Reason.LEFT_WHILE_HELD: "left",
}
_ABORTED = "aborted"


class Holdable(Protocol):
    """A connection, as far as it matters here."""

    peer: Any
    server_name: bytes | None

    @property
    def id(self) -> str: ...

    def forward(self, route: PlannedRoute, context: RouteContext | None) -> None:
        """Go on: to a handshake with `context`, or (None) through to the route's upstreams."""

    def abort(self, reason: Reason) -> None:
        """End at once, with a reset."""


class Held:
    """One held connection.

    `listener` is its listener's id, `column` the listener's place among those of `route`, which is the suspended route
    as it was when the connection came; `since` is when that was.
    """

    __slots__ = ("column", "connection", "listener", "number", "route", "since", "sock", "suspension")

    def __init__(
        self,
        connection: Holdable,
        listener: str,
        column: int,
        route: PlannedRoute,
        suspension: Suspension,
        sock: socket.SocketType,
    ) -> None:
        self.connection = connection
        self.listener = listener
        self.column = column
        self.route = route
        self.suspension = suspension
        self.sock = sock
        self.number = 0
        self.since = 0.0

    def describe(self, now: float) -> Suspended:
        """What is told of it."""
        connection = self.connection
        name = connection.server_name
        prints = told(waiting_fingerprints(self.sock))
        return Suspended(
            id=connection.id,
            listener=self.listener,
            route=self.route.name,
            sni="" if name is None else name.decode("ascii", "backslashreplace"),
            peer_ip=connection.peer[0],
            peer_port=connection.peer[1],
            ja3=prints[0],
            ja4=prints[1],
            timeout_ms=self.suspension.timeout_ms,
            held_ms=round((now - self.since) * 1000),
        )


class HoldTable:
    """One per acceptor. Says :class:`Suspended` and :class:`Released` of all that goes in and out."""

    __slots__ = ("_clock", "_closed", "_events", "_held", "_last")

    def __init__(self, clock: Callable[[], float], events: EventHub) -> None:
        self._clock = clock
        self._events = events
        self._held: dict[str, Held] = {}
        self._last = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    def find(self, connection_id: str) -> Held | None:
        """The held connection `connection_id`, if it is still held."""
        return self._held.get(connection_id)

    def add(self, held: Held) -> None:
        """Hold one more; or abort it, when the acceptor is about to stop."""
        if self._closed:
            held.connection.abort(Reason.STOPPED_WHILE_HELD)
            return
        self._last = held.number = self._last + 1
        held.since = self._clock()
        self._held[held.connection.id] = held
        if self._events.wanted:
            self._events.publish(held.describe(held.since))

    def forward(self, held: Held, route: PlannedRoute, context: RouteContext | None) -> None:
        """Let a held connection go on, as :meth:`Holdable.forward` says."""
        self._release(held.connection.id, FORWARDED)
        held.connection.forward(route, context)

    def ended(self, connection_id: str, reason: Reason) -> None:
        """A connection that was held is over."""
        self._release(connection_id, _HOW.get(reason, _ABORTED))

    def page(self, after: int) -> HeldPage:
        """Up to :data:`PAGE` held connections that came after number `after`."""
        now = self._clock()
        later = (held for held in self._held.values() if held.number > after)
        found = list(islice(later, PAGE + 1))
        shown = found[:PAGE]
        return HeldPage(
            tuple(held.describe(now) for held in shown), shown[-1].number if len(found) > PAGE else 0
        )

    def close(self) -> None:
        """End all that is held, and whatever comes from now on."""
        self._closed = True
        for held in tuple(self._held.values()):
            held.connection.abort(Reason.STOPPED_WHILE_HELD)

    def _release(self, connection_id: str, how: str) -> None:
        if self._held.pop(connection_id, None) is not None and self._events.wanted:
            self._events.publish(Released(connection_id, how))


def waiting_fingerprints(sock: socket.SocketType) -> Fingerprints | None:
    """Those of the ClientHello that waits in the socket of a held connection; None when it is not there any more."""
    wanted = 4096
    try:
        while True:
            hello = client_hello.parse(sock.recv(wanted, socket.MSG_PEEK))
            if isinstance(hello, client_hello.ClientHello):
                return Fingerprints(hello)
            if hello.needed <= wanted:
                return None
            wanted = hello.needed
    except (OSError, client_hello.ClientHelloError):
        return None  # the client has just gone
