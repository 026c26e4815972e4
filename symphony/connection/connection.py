"""One client connection, from accept to the relay.

A connection goes through its phases in this order; in each, what happens next is which handler is installed, and one
entry in the timer wheel bounds all that happens before the relay:

    ENTERING    behind a load balancer: read its PROXY header, which says who the client is
    PEEKING     look at the ClientHello with MSG_PEEK until it is whole; the bytes stay in the socket
    ADMITTING   the route has a limit: wait for the limiter's answer (50 ms at most), watching nothing
    HELD        the route is suspended: wait until somebody says where to go, watching for the client's hang-up only
    SHAKING     the TLS handshake, by OpenSSL on the descriptor; skipped for passthrough
    CONNECTING  find an upstream, and send it a PROXY header if the route has one; the client is not read meanwhile
    RELAYING    a relay owns both sockets and reports back when it is over
    CLOSED

The upstream is connected only after the handshake: a client that never finishes one, or whose certificate is not
accepted, costs the services behind nothing.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from symphony.connection import identity
from symphony.connection.arrival import Arrival, Phase
from symphony.connection.connector import Connector
from symphony.connection.held import Held, waiting_fingerprints
from symphony.connection.introduction import Introduction
from symphony.connection.peeking import PeekingConnection
from symphony.connection.state import ListenerSeat, ServingState
from symphony.observe.reasons import Reason
from symphony.observe.records import RouteRecord
from symphony.relay.http_relay import HttpRelay
from symphony.relay.passthrough import PassthroughRelay
from symphony.relay.sockets import close_after_alert, reset_on_close
from symphony.relay.terminated import TerminatedRelay
from symphony.routing.plan import PlannedRoute
from symphony.routing.suspension import Suspension
from symphony.routing.upstream import UpstreamSlot
from symphony.tls import client_hello, library
from symphony.tls.context import RouteContext
from symphony.tls.fingerprint import Fingerprints, told
from symphony.tls.library import WANT_READ, WANT_WRITE, do_handshake

_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
"""A fatal unrecognized_name alert (RFC 6066 section 3, RFC 8446 section 6.2)."""

_MISSING_EXTENSION = b"\x15\x03\x03\x00\x02\x02\x6d"
"""A fatal missing_extension alert (RFC 8446 section 9.2), for a listener that requires a server name."""

_CERTIFICATE_ERRORS = frozenset({"peer did not return a certificate", "certificate verify failed"})


class Connection(PeekingConnection):
    """Owns the accepted socket until the relay does. Made by the accept loop, kept by the ledger."""

    __slots__ = ("_account", "_connector", "_relay", "_session", "_slot")

    def __init__(self, state: ServingState, seat: ListenerSeat, client: socket.SocketType, peer: Any) -> None:
        """Take `client`, a non-blocking socket, and its address as ``accept`` gave it."""
        # Not super(), which takes 3,000 instructions of every connection.
        Arrival.__init__(self, state, seat, client, peer)
        self._account: RouteRecord | None = None
        self._session: Any = None
        self._connector: Connector | Introduction | None = None
        self._slot: UpstreamSlot | None = None
        self._relay: TerminatedRelay | PassthroughRelay | None = None

    # Route

    def turn_away(self, reason: Reason, detail: str = "") -> None:
        """End: the guard refuses."""
        if reason is Reason.NO_SNI:
            self._fail(reason, gently=True, alert=_MISSING_EXTENSION)
        else:
            self._fail(reason, detail)

    def _choose_route(self, hello: client_hello.ClientHello) -> None:
        name = hello.server_name
        state = self._state
        route = self._route = self._seat.table.lookup(name)
        if route is None:
            self._refuse(Reason.NO_SNI if name is None else Reason.UNKNOWN_SNI)
            return
        if route.forward_fingerprint and self.fingerprints is None:
            self.fingerprints = Fingerprints(hello)
        self._account = route.record
        route.record.opened()
        if route.rate:
            self._phase = Phase.ADMITTING
            state.host.remove_reader(self._fd)
            state.limiter.admit(route.name, route.rate, route.burst, self._admitted)
        else:
            self._enter_route(route)

    def _admitted(self, allowed: bool) -> None:
        route = self._route
        if self._phase is not Phase.ADMITTING or route is None:
            return  # aborted while the limiter was asked
        if allowed:
            self._enter_route(route)
        else:
            self._fail(Reason.RATE_LIMITED)

    def _enter_route(self, route: PlannedRoute) -> None:
        if route.suspension is not None:
            self._hold(route, route.suspension)
            return
        if not route.terminate_tls:
            self._connect(route)
            return
        index = self._seat.index
        context = route.contexts[index] if 0 <= index < len(route.contexts) else None
        if context is None:
            self._refuse(Reason.NO_CERTIFICATE)
            return
        self._begin_handshake(context)

    # Held

    def _hold(self, route: PlannedRoute, suspension: Suspension) -> None:
        state, seat = self._state, self._seat
        self._phase = Phase.HELD
        self.fingerprints = None  # and with it the ClientHello, of which there is a copy in the socket
        # The ClientHello stays unread, and the socket readable: only that the client leaves is an event.
        state.host.watch_hangup(self._fd, self._left_while_held)
        state.host.wheel.schedule(self, suspension.timeout_ms / 1000)
        state.held.add(Held(self, seat.id, seat.index, route, suspension, self._client))

    def _left_while_held(self) -> None:
        self._fail(Reason.LEFT_WHILE_HELD)

    def forward(self, route: PlannedRoute, context: RouteContext | None) -> None:
        """Go on after having been held: to a handshake with `context`, or (None) through to the route's upstreams."""
        host = self._state.host
        self._route = route
        if route.forward_fingerprint:
            self.fingerprints = waiting_fingerprints(self._client)
        if self._entry is not None:
            self._entry.held_until = host.loop.time()
        host.unwatch_hangup(self._fd)
        if context is None:
            self._connect(route)
        else:
            host.wheel.schedule(self, self._seat.handshake_limit_s)
            self._begin_handshake(context)

    # Handshake

    def _begin_handshake(self, context: RouteContext) -> None:
        self._session = library.new_server_session(
            self._state.base, context.pointer, context.verify, self._fd
        )
        self._phase = Phase.SHAKING
        self._state.host.add_reader(self._fd, self._shake)
        self._shake()

    def _shake(self) -> None:
        session = self._session
        returned: int = do_handshake(session)
        if returned == 1:
            now = monotonic()
            resumed = library.is_resumed(session)
            took_s = now - self._began
            self._state.ledger.shaken(library.cipher_suite(session), resumed, took_s, self._seat.slot)
            if self._account is not None:
                self._account.took(took_s)
            if self._entry is not None:
                self._entry.shaken(session, now)
            assert self._route is not None, "a handshake has a route"
            self._connect(self._route)
            return
        outcome = library.outcome(session, returned)
        if outcome == WANT_READ:
            return
        if outcome == WANT_WRITE:
            # Not watched for reading meanwhile: the handshake might then end with this writer still installed.
            self._state.host.remove_reader(self._fd)
            self._state.host.add_writer(self._fd, self._shake_on)
        elif outcome == library.FAILED:
            detail = library.last_error()
            refused = detail in _CERTIFICATE_ERRORS
            reason = Reason.CLIENT_CERTIFICATE_REFUSED if refused else Reason.HANDSHAKE_FAILED
            self._fail(reason, gently=True, detail=detail)
        elif outcome == library.BROKEN and library.last_error() == "ECONNRESET":
            self._fail(Reason.CLIENT_RESET)
        else:
            self._fail(Reason.HANDSHAKE_ABANDONED)

    def _shake_on(self) -> None:
        self._state.host.remove_writer(self._fd)
        self._state.host.add_reader(self._fd, self._shake)
        self._shake()

    # Upstream

    def _connect(self, route: PlannedRoute) -> None:
        state = self._state
        self._phase = Phase.CONNECTING
        state.host.wheel.cancel(self)
        connected = self._connected if route.proxy_header is None else self._introduce
        balancer = route.balancer
        if route.http2_balancer is not None and self._session is not None and library.is_http2(self._session):
            balancer = route.http2_balancer
        self._connector = connector = Connector(state, balancer, connected, self._not_connected, self.peer[0])
        connector.start()
        if self._phase is Phase.CONNECTING:
            state.host.remove_reader(self._fd)

    def _not_connected(self, reason: Reason, detail: str) -> None:
        self._connector = None
        self._fail(reason, detail=detail)

    def _introduce(self, upstream: socket.SocketType, slot: UpstreamSlot) -> None:
        """Tell the upstream who the client is, in front of everything else."""
        route = self._route
        assert route is not None and route.proxy_header is not None, "the route asks for it"
        header = identity.proxy_header(
            route.proxy_header,
            self.peer[:2],
            self._destination or self._client.getsockname()[:2],
            self.id,
            self.server_name,
            self._session,
            told(self.fingerprints, route.forward_fingerprint),
        )
        self._connector = introduction = Introduction(
            self._state, upstream, slot, self._connected, self._not_connected
        )
        introduction.send(header)

    def _connected(self, upstream: socket.SocketType, slot: UpstreamSlot) -> None:
        state, seat, route = self._state, self._seat, self._route
        assert route is not None, "a connection to an upstream has a route"
        self._connector = None
        self._slot = slot
        self._phase = Phase.RELAYING
        if self._entry is not None:
            self._entry.connected_at = monotonic()
        session, self._session = self._session, None
        if session is None:
            self._relay = relay = PassthroughRelay(state.host, self, self._client, upstream, seat.silence)
            relay.start()
        elif route.rewrites_http:
            prints = told(self.fingerprints, route.forward_fingerprint)
            fields = identity.request_fields(self.peer[0], "https", prints)
            self._relay = rewriting = HttpRelay(
                state.host, self, session, self._client, upstream, seat.silence, fields
            )
            rewriting.start()
        else:
            self._relay = terminated = TerminatedRelay(
                state.host, self, session, self._client, upstream, seat.silence
            )
            terminated.start()
        self.fingerprints = None  # and with it the ClientHello

    # The end

    def relay_closed(self, relay: TerminatedRelay | PassthroughRelay, reason: Reason | None) -> None:
        """The relay is over, and has closed both sockets."""
        self._relay = None
        self._phase = Phase.CLOSED
        state = self._state
        state.ledger.moved(relay.bytes_up, relay.bytes_down, self._seat.slot)
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.record.closed(relay.bytes_up, relay.bytes_down)
        if self._account is not None:
            self._account.closed(relay.bytes_up, relay.bytes_down, reason is not None)
        entry = self._entry
        if reason is not None or entry is not None:
            more: dict[str, object] = {"upstream": slot.upstream.label if slot is not None else ""}
            if reason is Reason.TLS_ERROR:
                more["detail"] = library.last_error()
            elif isinstance(relay, HttpRelay) and relay.refused is not None:
                more["detail"] = str(relay.refused)
            if entry is not None:
                more["bytes_up"], more["bytes_down"] = relay.bytes_up, relay.bytes_down
                state.access_log.write(self, entry, monotonic(), reason, **more)
            if reason is not None:
                state.ledger.failed(reason, self, self._seat.slot, told=entry is not None, **more)
        if self.admission is not None:
            self.admission.end()
        state.ledger.closed(self, self._seat.slot)

    def on_timer(self) -> None:
        """The time for everything before the relay is up."""
        if self._phase is Phase.ENTERING:
            self._fail(Reason.PROXY_HEADER_TIMEOUT)
        elif self._phase is Phase.HELD:
            self._fail(Reason.SUSPEND_TIMEOUT)
        elif self._phase is not Phase.PEEKING:
            self._fail(Reason.HANDSHAKE_TIMEOUT)
        elif self._peeked:
            self._fail(self._unfinished(Reason.CLIENT_HELLO_TIMEOUT))
        else:
            self._fail(self._unfinished(Reason.CLIENT_SILENT))

    def abort(self, reason: Reason) -> None:
        """End at once, whatever the phase; both sides see a failure."""
        if self._relay is not None:
            self._relay.abort(reason)
        else:
            self._fail(reason)

    def _refuse(self, reason: Reason) -> None:
        """Answer a ClientHello that leads nowhere with an alert, so that the client can say what is wrong."""
        self._fail(reason, gently=True, alert=_UNRECOGNIZED_NAME)

    def _fail(self, reason: Reason, detail: str = "", *, gently: bool = False, alert: bytes = b"") -> None:
        """Close before there is a relay: with a reset, or gently so that an alert arrives."""
        if self._phase is Phase.CLOSED:
            return
        state, client = self._state, self._client
        if self._phase is Phase.HELD:
            state.held.ended(self.id, reason)
        self._phase = Phase.CLOSED
        state.host.wheel.cancel(self)
        state.host.forget(self._fd)
        if self._connector is not None:
            self._connector.cancel()
            self._connector = None
        session, self._session = self._session, None
        if session is not None:
            library.free(session)
        if gently:
            close_after_alert(client, alert)
        else:
            reset_on_close(client)
            client.close()
        if self.admission is not None:
            self.admission.end()
        if self._account is not None:
            self._account.closed(0, 0, True)
        more: dict[str, object] = {"detail": detail} if detail else {}
        if self._entry is not None:
            state.access_log.write(self, self._entry, monotonic(), reason, **more)
        self._count_failure(reason, more)
        state.ledger.closed(self, self._seat.slot)
