"""One client connection on a plain HTTP listener, from accept to its end.

What is decided is decided by :mod:`symphony.http.front`; this moves the bytes. As with every connection, what happens
next is which handler is installed, and one entry in the timer wheel bounds it:

    ENTERING    behind a load balancer: read its PROXY header, which says who the client is
    READING     requests are taken and redirected. A request's head must be whole within the listener's handshake
                limit, from accept or from its first byte; between two requests the idle limit holds
    FORWARDING  an upstream answers a challenge (:mod:`symphony.connection.challenge`); the client is not read any more
    LINGERING   the last answer is sent, and so is the end. What the client still sends is thrown away for a while:
                closing at once would answer it with a reset, which may destroy the answer (RFC 9112 section 9.6)
    CLOSED

A client that does not take what it is sent is not read on, in any phase, and has the idle limit for each part.
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from time import monotonic
from typing import Any

from symphony.connection import identity
from symphony.connection.arrival import Arrival, Phase
from symphony.connection.challenge import ChallengeRelay
from symphony.connection.state import ListenerSeat, ServingState
from symphony.http.front import Answer, Challenge, Ended, RequestFront
from symphony.observe.reasons import Reason
from symphony.relay.direction import LINGER_S
from symphony.relay.sockets import reset_on_close, shut_writing
from symphony.tls.client_hello import ClientHello

READ_SIZE = 2048
"""So few that a client which pipelines keeps the others waiting for some milliseconds only: 75 requests fit in."""
LINGER_BYTES = 1 << 20
"""What a client may still send behind the last answer."""


class HttpConnection(Arrival):
    """Owns the accepted socket. Made by the accept loop, kept by the ledger."""

    __slots__ = (
        "_answered",
        "_bytes_up",
        "_closing",
        "_detail",
        "_ended",
        "_front",
        "_head_timed",
        "_lingered",
        "_passed",
        "_reason",
        "_relay",
        "_sent",
        "_unsent",
    )

    first_phase = Phase.READING
    name_key = "host"

    def __init__(self, state: ServingState, seat: ListenerSeat, client: socket.SocketType, peer: Any) -> None:
        """Take `client`, a non-blocking socket, and its address as ``accept`` gave it."""
        super().__init__(state, seat, client, peer)
        self._front = RequestFront(seat.redirect_port)
        self._relay: ChallengeRelay | None = None
        self._unsent = b""
        self._bytes_up = self._sent = self._lingered = 0
        self._head_timed = True  # the time limit that runs is that of a request's head
        self._answered = False  # at least one request was
        self._closing = False  # nothing is sent behind what is unsent
        self._passed = False  # part of an upstream's answer was sent
        self._ended = False  # the client has ended its direction
        self._reason: Reason | None = None  # why it failed first, counted by now
        self._detail = ""

    # Admission

    def _listen(self) -> None:
        if self.admission is None:
            self.let_in()
        else:
            self.admission.expect_nothing()

    def let_in(self, hello: ClientHello | None = None) -> None:
        """Go on: the guard has nothing against it."""
        self._state.host.add_reader(self._fd, self._readable)
        self._readable()  # the request often comes with the connection

    def wait_for_limiter(self) -> None:
        """Watch nothing until the guard has its answer; nothing is watched yet."""

    def wait_at_most(self, seconds: float) -> None:
        """There is nothing to wait for: no ClientHello comes."""

    # Requests

    def _readable(self) -> None:
        try:
            data = self._client.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._fail(Reason.CLIENT_RESET)
            return
        self._state.ledger.resting.discard(self)
        self._bytes_up += len(data)
        self._ended = not data
        self._front.receive(data)
        self._decide()

    def _decide(self) -> None:
        """Serve what has come, until the client has to take its answers first."""
        front = self._front
        while self._phase is Phase.READING and not self._unsent:
            front.last = self._state.ledger.stopping or self._seat.draining
            match front.next():
                case Answer() as answer:
                    self._give(answer)
                case Challenge() as challenge:
                    self._forward(challenge)
                case Ended():
                    self._close(None if self._bytes_up else Reason.CLIENT_LEFT)
                case None:
                    self._wait_for_more()
                    return

    def _wait_for_more(self) -> None:
        wheel, seat = self._state.host.wheel, self._seat
        if self._front.partial:
            if not self._head_timed:
                self._head_timed = True
                wheel.schedule(self, seat.handshake_limit_s)
        elif self._answered:
            self._state.ledger.resting.add(self)
            self._limit_idling()

    def _limit_idling(self) -> None:
        self._head_timed = False
        if self._seat.silence.limit_s:
            self._state.host.wheel.schedule(self, self._seat.silence.limit_s)
        else:
            self._state.host.wheel.cancel(self)

    def _give(self, answer: Answer) -> None:
        """Send an answer to the client."""
        if answer.reason is not None:
            self._tell(answer.reason, answer.detail)
        self._answered = True
        self._head_timed = False
        self._closing = answer.close
        self._send(answer.data)
        if self._closing and not self._unsent:
            self._linger()

    def _send(self, data: bytes) -> None:
        try:
            sent = self._client.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._fail(Reason.CLIENT_RESET)
            return
        self._sent += sent
        if sent < len(data):
            self._unsent = data[sent:]
            host = self._state.host
            host.add_writer(self._fd, self._flush)
            host.remove_reader(self._fd)
            self._limit_idling()

    def _flush(self) -> None:
        data, self._unsent = self._unsent, b""
        self._send(data)
        if self._unsent or self._phase is Phase.CLOSED:
            return
        host = self._state.host
        host.remove_writer(self._fd)
        if self._closing:
            self._linger()
        elif self._relay is not None:
            host.wheel.cancel(self)
            self._relay.resume()
        else:
            host.add_reader(self._fd, self._readable)
            self._decide()

    # Challenges

    def _forward(self, challenge: Challenge) -> None:
        state = self._state
        self._phase = Phase.FORWARDING
        self.server_name = challenge.name
        state.host.remove_reader(self._fd)
        state.host.wheel.cancel(self)
        self._route = self._seat.table.lookup(challenge.name)
        self._relay = ChallengeRelay(state, self, challenge, self._route, self._seat.silence.limit_s)
        self._relay.start()

    def proxy_header(self, kind: str) -> bytes:
        """What an upstream is to read first, of the `kind` that the route asks for."""
        destination = self._destination or self._client.getsockname()[:2]
        return identity.proxy_header(kind, self.peer[:2], destination, self.id, self.server_name, None)

    def pass_on(self, data: bytes) -> bool:
        """Send a part of an upstream's answer; False when it waits to be sent."""
        self._passed = True
        self._send(data)
        return not self._unsent

    def challenge_answered(self) -> None:
        """The whole answer has been passed on."""
        self._drop_relay()
        self._closing = True
        if not self._unsent:
            self._linger()

    def challenge_failed(self, status: HTTPStatus, reason: Reason, detail: str) -> None:
        """There is no answer, or not the whole of it: the client must not take what it has for all."""
        self._tell(reason, detail)
        self._drop_relay()
        if self._passed:
            self._fail(reason)
        else:
            self._give(self._front.refuse(status, reason, detail))

    def _drop_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    # Time limits

    def on_timer(self) -> None:
        """The time for what is waited for is up."""
        if self._phase is Phase.LINGERING:
            self._close()
        elif self._phase is Phase.ENTERING:
            self._fail(Reason.PROXY_HEADER_TIMEOUT)
        elif self._unsent:
            self._fail(Reason.IDLE_TIMEOUT)
        elif self._front.partial:
            timeout = HTTPStatus.REQUEST_TIMEOUT
            self._give(self._front.refuse(timeout, Reason.HTTP_TIMEOUT, "a request did not become whole"))
        elif self._answered:
            self._close()
        else:
            self._fail(Reason.CLIENT_SILENT)

    # The end

    def leave(self) -> None:
        """End between two requests: the acceptor stops."""
        self._close()

    def abort(self, reason: Reason) -> None:
        """End at once, whatever the phase; the client sees a failure."""
        self._fail(reason)

    def _linger(self) -> None:
        if self._phase is Phase.CLOSED:
            return
        if self._ended:
            self._close()
            return
        self._phase = Phase.LINGERING
        host = self._state.host
        shut_writing(self._client)
        host.wheel.schedule(self, LINGER_S)
        host.add_reader(self._fd, self._discard)
        self._discard()

    def _discard(self) -> None:
        try:
            size = len(self._client.recv(65536))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._bytes_up += size
        self._lingered += size
        if not size or self._lingered > LINGER_BYTES:
            self._close()

    def _fail(self, reason: Reason, detail: str = "") -> None:
        """Close with a reset."""
        if self._phase is not Phase.CLOSED:
            reset_on_close(self._client)
            self._close(reason, detail)

    def _close(self, reason: Reason | None = None, detail: str = "") -> None:
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.CLOSED
        if reason is not None:
            self._tell(reason, detail)
        state = self._state
        if self._entry is not None:
            more = {"detail": self._detail} if self._detail else {}
            moved = {"bytes_up": self._bytes_up, "bytes_down": self._sent}
            state.access_log.write(self, self._entry, monotonic(), self._reason, **moved, **more)
        state.host.wheel.cancel(self)
        state.host.forget(self._fd)
        self._drop_relay()
        self._client.close()
        state.ledger.resting.discard(self)
        if self.admission is not None:
            self.admission.end()
        state.ledger.moved(self._bytes_up, self._sent, self._seat.slot)
        state.ledger.closed(self, self._seat.slot)

    def _tell(self, reason: Reason, detail: str) -> None:
        """Count and log why this connection failed, the first time that it does."""
        if self._reason is not None:
            return
        self._reason, self._detail = reason, detail
        self._count_failure(reason, {"detail": detail} if detail else {})
