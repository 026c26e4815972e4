"""An ACME challenge's way to an upstream of its route, and the answer's way back.

ADMITTING   the route has a limit: wait for the limiter's answer
CONNECTING  find an upstream, and send it a PROXY header if the route has one
RELAYING    the request goes there, what it answers is passed on; its silence has the listener's idle limit
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import Any, Protocol

from symphony.connection.connector import Connector
from symphony.connection.identity import request_fields
from symphony.connection.introduction import Introduction
from symphony.connection.state import ServingState
from symphony.http.front import Challenge
from symphony.http.upstream_answer import AnswerError, UpstreamAnswer
from symphony.observe.reasons import Reason
from symphony.routing.plan import PlannedRoute
from symphony.routing.upstream import UpstreamSlot

READ_SIZE = 65536

_STATUS = {
    Reason.UNKNOWN_HOST: HTTPStatus.NOT_FOUND,
    Reason.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.UPSTREAM_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.IDLE_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.UPSTREAM_BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.DESCRIPTOR_LIMIT: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Client(Protocol):
    """Who made the request. `peer` is its address, as ``accept`` gave it or a load balancer said."""

    peer: Any

    def proxy_header(self, kind: str) -> bytes:
        """What an upstream is to read first, of the `kind` that the route asks for."""

    def pass_on(self, data: bytes) -> bool:
        """Send a part of the answer; False when it waits to be sent, and ``resume`` will be called."""

    def challenge_answered(self) -> None:
        """The whole answer has been passed on."""

    def challenge_failed(self, status: HTTPStatus, reason: Reason, detail: str) -> None:
        """There is no answer (any more); `status` says so where nothing has been passed on."""

    def abort(self, reason: Reason) -> None:
        """End at once."""


class ChallengeRelay:
    """Tells its client once that it is over, and never after :meth:`close`."""

    __slots__ = (
        "_answer",
        "_bytes_down",
        "_bytes_up",
        "_challenge",
        "_client",
        "_connector",
        "_fd",
        "_idle_limit_s",
        "_over",
        "_slot",
        "_state",
        "_unsent",
        "_upstream",
        "route",
        "timer_tick",
    )

    def __init__(
        self,
        state: ServingState,
        client: Client,
        challenge: Challenge,
        route: PlannedRoute | None,
        idle_limit_s: float,
    ) -> None:
        """`route` is the one that the challenge is for, None where there is none."""
        self._state = state
        self._client = client
        self._challenge = challenge
        self._idle_limit_s = idle_limit_s
        self._connector: Connector | Introduction | None = None
        self._slot: UpstreamSlot | None = None
        self._upstream: socket.SocketType | None = None
        self._fd = -1
        self._answer: UpstreamAnswer | None = None
        self._unsent = b""
        self._bytes_up = self._bytes_down = 0
        self._over = False
        self.route = route
        self.timer_tick = 0

    def start(self) -> None:
        """Begin; everything may be over before this returns."""
        state, route = self._state, self.route
        if route is None:
            self._fail(Reason.UNKNOWN_HOST)
            return
        route.record.opened()
        if not route.balancer.slots and not route.balancer.reserve:
            # Only a suspended route may be so: it says of no request where that goes.
            self._fail(Reason.UNKNOWN_HOST, f"the route {route.name!r} has no upstream of its own")
        elif route.rate:
            state.limiter.admit(route.name, route.rate, route.burst, self._admitted)
        else:
            self._connect(route)

    def resume(self) -> None:
        """Go on reading: the client has taken what it was sent."""
        self._state.host.add_reader(self._fd, self._readable)
        self._watch_silence()

    def close(self) -> None:
        """Give up what is held."""
        if self._over:
            return
        self._over = True
        if self._connector is not None:
            self._connector.cancel()
            self._connector = None
        if self._upstream is not None:
            self._state.host.wheel.cancel(self)
            self._state.host.forget(self._fd)
            self._upstream.close()
            self._upstream = None
        if self._slot is not None:
            self._slot.record.closed(self._bytes_up, self._bytes_down)
            self._slot = None
        if self.route is not None:
            failed = self._answer is None or not self._answer.complete
            self.route.record.closed(self._bytes_up, self._bytes_down, failed)

    def abort(self, reason: Reason) -> None:
        """A handler of this object has failed."""
        self._client.abort(reason)

    def on_timer(self) -> None:
        """The upstream has said nothing for the idle limit."""
        self._fail(Reason.IDLE_TIMEOUT, "no answer within the idle limit")

    def _admitted(self, allowed: bool) -> None:
        if self._over or self.route is None:
            return  # aborted while the limiter was asked
        if allowed:
            self._connect(self.route)
        else:
            self._fail(Reason.RATE_LIMITED)

    def _connect(self, route: PlannedRoute) -> None:
        connected = self._connected if route.proxy_header is None else self._introduce
        self._connector = connector = Connector(
            self._state, route.balancer, connected, self._not_connected, self._client.peer[0]
        )
        connector.start()

    def _not_connected(self, reason: Reason, detail: str) -> None:
        self._connector = None
        self._fail(reason, detail)

    def _introduce(self, upstream: socket.SocketType, slot: UpstreamSlot) -> None:
        assert self.route is not None and self.route.proxy_header is not None, "the route asks for it"
        self._connector = introduction = Introduction(
            self._state, upstream, slot, self._connected, self._not_connected
        )
        introduction.send(self._client.proxy_header(self.route.proxy_header))

    def _connected(self, upstream: socket.SocketType, slot: UpstreamSlot) -> None:
        self._connector = None
        self._slot = slot
        self._upstream = upstream
        self._fd = upstream.fileno()
        self._answer = UpstreamAnswer(self._challenge.request)
        self._unsent = self._answer.request_bytes
        if self.route is not None and self.route.rewrites_http:
            # The front has left the client's own copies of these fields out.
            self._unsent = self._unsent[:-2] + request_fields(self._client.peer[0], "http") + b"\r\n"
        self._state.host.add_reader(self._fd, self._readable)
        self._watch_silence()
        self._send()

    def _watch_silence(self) -> None:
        if self._idle_limit_s:
            self._state.host.wheel.schedule(self, self._idle_limit_s)

    def _send(self) -> None:
        upstream, host = self._upstream, self._state.host
        assert upstream is not None, "a request goes to an upstream"
        try:
            sent = upstream.send(self._unsent)
            self._bytes_up += sent
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._unsent)  # it reads no more; it may have answered all the same
        self._unsent = self._unsent[sent:]
        if self._unsent:
            host.add_writer(self._fd, self._send)
        else:
            host.remove_writer(self._fd)

    def _readable(self) -> None:
        upstream, answer = self._upstream, self._answer
        assert upstream is not None and answer is not None, "an upstream is watched once it is connected"
        try:
            data = upstream.recv(READ_SIZE)
            self._bytes_down += len(data)
            passed = answer.receive(data)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(Reason.UPSTREAM_RESET, error.strerror or "")
            return
        except AnswerError as error:
            self._fail(Reason.UPSTREAM_BAD_ANSWER, str(error))
            return
        taken = self._client.pass_on(passed) if passed else True
        if self._over:
            return  # the client has gone
        host = self._state.host
        if answer.complete:
            self._client.challenge_answered()
        elif taken:
            self._watch_silence()
        else:
            host.remove_reader(self._fd)
            host.wheel.cancel(self)

    def _fail(self, reason: Reason, detail: str = "") -> None:
        if self._slot is not None:
            detail = f"{self._slot.upstream.label}: {detail}"
        self._client.challenge_failed(_STATUS.get(reason, HTTPStatus.BAD_GATEWAY), reason, detail)
