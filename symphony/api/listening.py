"""Bind the listening sockets: for every listener, one SO_REUSEPORT socket per acceptor.

The supervisor's process binds them before it forks and keeps them open, so that an acceptor's death neither
frees the port nor resets the connections that wait in its backlog.

Linux gives an accepted socket the options of the socket it was accepted from, so keepalive and TCP_NODELAY
are set here once instead of on every connection.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from symphony.config.check import render_address
from symphony.config.problem import ConfigError, Problem
from symphony.config.snapshot import ListenerEntry
from symphony.relay.sockets import tune_tcp

# The kernel lowers it to net.core.somaxconn.
BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listener with its sockets. `address` is as bound, such as ``127.0.0.1:8443`` or ``[::1]:8443``."""

    id: str
    address: str
    sockets: tuple[socket.socket, ...]

    def refuse(self) -> None:
        """Stop listening, in every process that holds the sockets; what waits in their backlogs is reset.

        Closing would not do: the kernel listens on as long as any process has the socket open.
        """
        for sock in self.sockets:
            sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all sockets; what waits in their backlogs is reset."""
        for sock in self.sockets:
            sock.close()


def bind_listeners(
    file: str, listeners: Sequence[ListenerEntry], acceptors: int
) -> tuple[BoundListener, ...]:
    """Bind every listener `acceptors` times.

    Raises :class:`ConfigError` (with `file` as its file) that names every listener which could not be bound;
    then nothing stays bound.
    """
    bound: list[BoundListener] = []
    problems: list[Problem] = []
    for index, listener in enumerate(listeners):
        try:
            bound.append(_bind_listener(listener, acceptors))
        except socket.gaierror as error:
            text = f"{listener.host!r} does not resolve ({error.strerror}); expected an address or a name"
            problems.append(Problem(f"listeners[{index}].host", text))
        except OSError as error:
            problems.append(_explain(f"listeners[{index}]", listener, error))
    if problems:
        for listener_bound in bound:
            listener_bound.close()
        raise ConfigError(file, problems)
    return tuple(bound)


def _bind_listener(listener: ListenerEntry, acceptors: int) -> BoundListener:
    family, address = _resolve(listener.host, listener.port)
    if listener.port:
        # SO_REUSEPORT lets two instances of one user share a port without a word, each getting half of the
        # connections; a bind without it is refused whenever anybody listens there.
        _open(family, address, reuse_port=False).close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(acceptors):
            sock = _open(family, address, reuse_port=True)
            sockets.append(sock)
            # With port 0 the first socket gets a free port and the others join it there.
            address = sock.getsockname()
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return BoundListener(listener.id, render_address(str(address[0]), int(address[1])), tuple(sockets))


_Address = tuple[str, int] | tuple[str, int, int, int]


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, _Address]:
    """Take a name's IPv4 address where it has one: ``localhost`` then means what most clients try first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    chosen = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return chosen[0], chosen[4]  # type: ignore[return-value]  # typeshed also knows systems without IPv6


def _open(family: socket.AddressFamily, address: _Address, *, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Connections of an earlier instance in TIME_WAIT must not keep the port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" and "0.0.0.0" are two listeners, whatever net.ipv6.bindv6only says.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        tune_tcp(sock)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(place: str, listener: ListenerEntry, error: OSError) -> Problem:
    match error.errno:
        case errno.EADDRINUSE:
            text = f"port {listener.port} on {listener.host} is already taken; expected a free one"
            return Problem(f"{place}.port", text)
        case errno.EACCES:
            text = (
                f"port {listener.port} may not be bound; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            )
            return Problem(f"{place}.port", text)
        case errno.EADDRNOTAVAIL:
            return Problem(f"{place}.host", f"{listener.host!r} is not an address of this machine")
        case number:
            reason = os.strerror(number) if number is not None else str(error)
            return Problem(place, f"{render_address(listener.host, listener.port)} cannot be bound: {reason}")
