"""A TLS connection up to its ClientHello, which is looked at with MSG_PEEK and stays in the socket.

Waiting for the rest of a fragmented ClientHello. Peeked bytes stay in the socket, so with level-triggered readiness the
socket would be ready all the time while the rest is missing, and one slow client would keep a CPU busy. SO_RCVLOWAT is
raised to the number of bytes that the parser needs next: the kernel then reports the socket as readable when that much
is there, or when the client has closed.
"""

from __future__ import annotations

import socket

from symphony.connection.arrival import Arrival, Phase
from symphony.observe.reasons import Reason
from symphony.relay.sockets import has_closed
from symphony.tls import client_hello

FIRST_PEEK = 4096
"""Enough for the ClientHello of any client in use, with a post-quantum key share."""

_PARSE_REASONS = {
    client_hello.NotTls: Reason.NOT_TLS,
    client_hello.MalformedClientHello: Reason.MALFORMED_CLIENT_HELLO,
    client_hello.OversizedClientHello: Reason.OVERSIZED_CLIENT_HELLO,
}


class PeekingConnection(Arrival):
    """Goes on with :meth:`_choose_route` once the ClientHello is whole and the guard has nothing against it."""

    __slots__ = ("_peeked", "_wanted")

    first_phase = Phase.PEEKING
    name_key = "sni"

    def _choose_route(self, hello: client_hello.ClientHello) -> None:
        """Go on: this is what the client says."""
        raise NotImplementedError

    def let_in(self, hello: client_hello.ClientHello | None) -> None:
        """Go on: the guard has nothing against it."""
        assert hello is not None, "a TLS connection is let in by its ClientHello"
        self._choose_route(hello)

    def wait_for_limiter(self) -> None:
        """Watch nothing until the guard has its answer."""
        self._phase = Phase.ADMITTING
        self._state.host.remove_reader(self._fd)

    def wait_at_most(self, seconds: float) -> None:
        """Give the ClientHello `seconds` to become whole."""
        self._state.host.wheel.schedule(self, seconds)

    def _listen(self) -> None:
        self._peeked = self._wanted = 0
        # The ClientHello often comes with the connection: looking first saves a turn of the event loop.
        if not self._peek():
            self._state.host.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        self._peek()

    def _peek(self) -> bool:
        """Look at what has arrived. False while there is nothing to decide on yet."""
        try:
            data = self._client.recv(max(self._wanted, FIRST_PEEK), socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            self._fail(Reason.CLIENT_RESET)
            return True
        if not data:
            self._fail(Reason.CLIENT_LEFT)
            return True
        self._peeked = len(data)
        try:
            hello = client_hello.parse(data)
        except client_hello.ClientHelloError as error:
            self._fail(_PARSE_REASONS[type(error)], detail=str(error))
            return True
        if isinstance(hello, client_hello.Incomplete):
            return self._wait_for(hello.needed)
        if self._wanted:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        self.server_name = hello.server_name
        if self.admission is None:
            self._choose_route(hello)
        else:
            self.admission.read(hello)
        return True

    def _wait_for(self, needed: int) -> bool:
        if self._wanted and self._peeked < self._wanted:
            self._fail_short()
            return True
        if needed != self._wanted:
            self._wanted = needed
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
        return False

    def _fail_short(self) -> None:
        """The socket was reported as readable, with less to be peeked at than was asked for: no more will come."""
        client = self._client
        if not has_closed(client):
            # MSG_PEEK never sees beyond a byte of urgent data, and the socket would stay ready all the time.
            self._fail(Reason.MALFORMED_CLIENT_HELLO, detail="urgent data inside the ClientHello")
        elif client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._fail(Reason.CLIENT_RESET)
        else:
            self._fail(self._unfinished(Reason.TRUNCATED_CLIENT_HELLO))

    def _unfinished(self, reason: Reason) -> Reason:
        """Why a connection without a whole ClientHello ends."""
        return reason if self.admission is None else self.admission.unfinished(reason)
