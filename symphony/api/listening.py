"""Bind the listening sockets: for every listener, one SO_REUSEPORT socket per acceptor.

The supervisor's process binds them before it forks and keeps them open, so that an acceptor's death neither
frees the port nor resets the connections that wait in its backlog.

A listener that stays when the configuration changes keeps its very sockets: whatever waits in the backlog of one that
is closed is reset, and so are the handshakes that the kernel has begun for it. So a listener never has fewer sockets
than it once had; with fewer acceptors, some serve several.

Linux gives an accepted socket the options of the socket it was accepted from, so keepalive and TCP_NODELAY
are set here once instead of on every connection.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from symphony.config.check import render_address
from symphony.config.problem import ConfigError, Problem
from symphony.config.snapshot import ListenerEntry
from symphony.host.activation import LastingSocket, PassedSocket
from symphony.relay.sockets import shut_reading, tune_tcp

# The kernel lowers it to net.core.somaxconn.
BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listener with its sockets. `address` is as bound, such as ``127.0.0.1:8443`` or ``[::1]:8443``."""

    id: str
    address: str
    sockets: tuple[socket.socket, ...]

    @property
    def port(self) -> int:
        """The port, as bound."""
        return int(self.address.rpartition(":")[2])

    @property
    def lasting(self) -> bool:
        """Whether the sockets are the service manager's, which keeps them open."""
        return isinstance(self.sockets[0], LastingSocket)

    def listen(self) -> None:
        """Take connections from now on. Does nothing to sockets that do. Raises OSError."""
        for sock in self.sockets:
            sock.listen(BACKLOG)

    def refuse(self) -> None:
        """Stop listening, in every process that holds the sockets; what waits in their backlogs is reset.

        Closing would not do: the kernel listens on as long as any process has the socket open.
        """
        for sock in self.sockets:
            shut_reading(sock)

    def close(self) -> None:
        """Close all sockets; what waits in their backlogs is reset."""
        for sock in self.sockets:
            sock.close()


def bind_listeners(
    file: str,
    listeners: Sequence[ListenerEntry],
    acceptors: int,
    present: Sequence[BoundListener] = (),
    passed: Sequence[PassedSocket] = (),
) -> tuple[BoundListener, ...]:
    """Bind every listener at least `acceptors` times, and listen.

    Listeners that are `present` already keep their sockets, and what is bound beside them does not listen yet: the
    connections that came there would be lost if whoever is to serve them did not start.

    Where a socket that the service manager has `passed` has a listener's address, every acceptor gets a duplicate of
    it instead: the kernel has one queue then, and wakes all of them for each connection.

    Raises :class:`ConfigError` (with `file` as its file) that names every listener which could not be bound;
    nothing that is not `present` then stays bound.
    """
    bound: list[BoundListener] = []
    problems: list[Problem] = []
    for index, listener in enumerate(listeners):
        try:
            bound.append(_bind_listener(listener, acceptors, present, bound, passed))
        except socket.gaierror as error:
            text = f"{listener.host!r} does not resolve ({error.strerror}); expected an address or a name"
            problems.append(Problem(f"listeners[{index}].host", text))
        except OSError as error:
            problems.append(_explain(f"listeners[{index}]", listener, error))
    if problems:
        close_sockets(bound, but=present)
        raise ConfigError(file, problems)
    return tuple(bound)


def close_sockets(listeners: Iterable[BoundListener], but: Iterable[BoundListener] = ()) -> None:
    """Close every socket of `listeners` that none of `but` has; what waits in their backlogs is reset."""
    kept = {sock for listener in but for sock in listener.sockets}
    for listener in listeners:
        for sock in listener.sockets:
            if sock not in kept:
                sock.close()


_Address = tuple[str, int] | tuple[str, int, int, int]


def _bind_listener(
    listener: ListenerEntry,
    acceptors: int,
    present: Sequence[BoundListener],
    others: Sequence[BoundListener],
    passed: Sequence[PassedSocket],
) -> BoundListener:
    kept = next((other for other in present if other.id == listener.id), None)
    if kept is None:
        family, address = _resolve(listener.host, listener.port)
        # The same address by another name, such as that of this machine.
        kept = next((other for other in present if other.address == _render(address)), None)
    if kept is not None:
        first = kept.sockets[0]
        family, address = socket.AddressFamily(first.family), first.getsockname()
    given: socket.socket | None = None
    if kept is None:
        given = next(
            (each.sock for each in passed if _render(each.sock.getsockname()) == _render(address)), None
        )
    elif isinstance(kept.sockets[0], LastingSocket):
        given = kept.sockets[0]
    if any(other.address == _render(address) for other in others):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if (
        given is None
        and kept is None
        and listener.port
        and all(other.port != listener.port for other in present)
    ):
        # SO_REUSEPORT lets two instances of one user share a port without a word, each getting half of the
        # connections; a bind without it is refused whenever anybody listens there. That may be this instance,
        # on all addresses where now one is wanted, or the other way round.
        _open(family, address, reuse_port=False).close()
    before = kept.sockets if kept is not None else ()
    sockets = list(before)
    free: socket.socket | None = None
    try:
        if not sockets and given is None and not listener.port:
            # Only a socket that was bound to a port by its number keeps it when it stops listening for a while.
            free = _open(family, address, reuse_port=True)
            address = free.getsockname()
        while len(sockets) < acceptors:
            sock = _open(family, address, reuse_port=True) if given is None else _duplicate(given)
            sockets.append(sock)
            address = sock.getsockname()
        bound = BoundListener(listener.id, _render(address), tuple(sockets))
        if kept is None:
            bound.listen()
    except OSError:
        for sock in sockets[len(before) :]:
            sock.close()
        raise
    finally:
        if free is not None:
            free.close()
    return bound


def _duplicate(given: socket.socket) -> socket.socket:
    """Raises OSError when there is no descriptor left."""
    sock = given.dup()
    tune_tcp(sock)
    return sock


def _render(address: _Address) -> str:
    return render_address(str(address[0]), int(address[1]))


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
