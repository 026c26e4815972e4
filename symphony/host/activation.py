"""Listening sockets that the service manager has opened and passes on (sd_listen_fds(3)).

They are descriptors from 3 on, `$LISTEN_FDS` of them, meant for the process `$LISTEN_PID`; `$LISTEN_FDNAMES` has
their names. The service manager keeps them open while the service restarts: clients then wait instead of being refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class UnusableSocket(Exception):
    """A descriptor that was passed is no socket for this program; the text is one line that says why."""


class LastingSocket(socket.socket):
    """A listening socket that belongs to the service manager, or a duplicate of it.

    Shutting it down would end it for the next life of the service, too. So this does nothing: what comes while nobody
    accepts waits for whoever does.
    """

    def shutdown(self, how: int) -> None:
        """Leave it as it is."""


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening TCP socket from the service manager. `name` is what its unit calls it."""

    name: str
    sock: LastingSocket

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found = self.sock.getsockname()
        return str(found[0]), int(found[1])


def take_passed_sockets(
    environment: MutableMapping[str, str] | None = None, first: int = FIRST
) -> tuple[PassedSocket, ...]:
    """Return what was passed to this process, and take it out of the environment, so that no other process does.

    Raises :class:`UnusableSocket`.
    """
    values = os.environ if environment is None else environment
    pid, count, names = (values.get(variable, "") for variable in _VARIABLES[:3])
    for variable in _VARIABLES:
        values.pop(variable, None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return ()
    called = names.split(":") if names else []
    return tuple(
        _take(first + index, called[index] if index < len(called) else f"descriptor {first + index}")
        for index in range(int(count))
    )


def _take(descriptor: int, name: str) -> PassedSocket:
    try:
        os.set_inheritable(descriptor, False)
        sock = LastingSocket(fileno=descriptor)
    except OSError as error:
        raise UnusableSocket(f"what the service manager passes as {name} is no socket: {error}") from None
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise UnusableSocket(
            f"the socket {name} from the service manager is not for TCP: expected ListenStream="
        )
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise UnusableSocket(
            f"the socket {name} from the service manager does not listen: expected Accept=no"
        )
    sock.setblocking(False)
    return PassedSocket(name, sock)
