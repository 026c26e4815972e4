"""Reads the PROXY header that a load balancer in front puts before a client's bytes.

Only bytes of the header are taken from the socket: they are peeked at until the header is whole, and then just so many
are read. What follows, the ClientHello, stays for whoever comes next.

A header that arrives in pieces is waited for as the ClientHello is (:mod:`symphony.connection.connection`): by raising
SO_RCVLOWAT to what the parser needs next, so that a slow sender costs no CPU.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

from symphony.observe.reasons import Reason
from symphony.relay.host import RelayHost
from symphony.relay.proxy_protocol import Address, Header, Incomplete, ProxyHeaderError, parse
from symphony.relay.sockets import has_closed

_PEEK = 4096
_MAPPED = "::ffff:"


class Entered(NamedTuple):
    """Who a connection comes from, by the header in front of it; None twice where the header names nobody."""

    source: tuple[str, int] | None
    destination: tuple[str, int] | None


Done = Callable[[Entered], None]
Failed = Callable[[Reason, str], None]


class ProxyEntry:
    """Reads one header. Calls `done` or `failed` exactly once, unless the connection is ended before.

    The socket is watched for reading only until then.
    """

    __slots__ = ("_client", "_done", "_failed", "_host", "_wanted")

    def __init__(self, host: RelayHost, client: socket.SocketType, done: Done, failed: Failed) -> None:
        self._host = host
        self._client = client
        self._done = done
        self._failed = failed
        self._wanted = 0

    def start(self) -> None:
        """Read what has come with the connection; the outcome may be there before this returns."""
        if not self._read():
            self._host.add_reader(self._client.fileno(), self._readable)

    def abort(self, reason: Reason) -> None:
        """End the connection, since a handler of this object has failed."""
        self._failed(reason, "")

    def _readable(self) -> None:
        self._read()

    def _read(self) -> bool:
        """Look at what has arrived. False while the header is not whole."""
        client = self._client
        try:
            data = client.recv(max(self._wanted, _PEEK), socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            self._failed(Reason.CLIENT_RESET, "")
            return True
        if not data:
            self._failed(Reason.CLIENT_LEFT, "")
            return True
        try:
            found = parse(data)
        except ProxyHeaderError as error:
            self._failed(Reason.MALFORMED_PROXY_HEADER, str(error))
            return True
        if isinstance(found, Incomplete):
            return self._wait_for(found.needed, len(data))
        self._take(found)
        return True

    def _wait_for(self, needed: int, peeked: int) -> bool:
        client = self._client
        if peeked < self._wanted:  # readable with less than was asked for: no more will come
            if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._failed(Reason.CLIENT_RESET, "")
            else:
                # MSG_PEEK never sees beyond a byte of urgent data, and the socket would stay ready all the time.
                why = "ends in the middle" if has_closed(client) else "urgent data inside it"
                self._failed(Reason.MALFORMED_PROXY_HEADER, why)
            return True
        if needed != self._wanted:
            self._wanted = needed
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
        return False

    def _take(self, header: Header) -> None:
        client = self._client
        client.recv(header.size)  # the bytes that were just peeked at, so all of them
        if self._wanted:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self._host.remove_reader(client.fileno())
        self._done(Entered(_plain(header.source), _plain(header.destination)))


def _plain(address: Address | None) -> tuple[str, int] | None:
    """An IP address, IPv4 where it is one (``::ffff:192.0.2.1`` is); a Unix socket's path names no client."""
    if not isinstance(address, tuple):
        return None
    host, port = address
    return (host[len(_MAPPED) :] if host.startswith(_MAPPED) and "." in host else host), port
