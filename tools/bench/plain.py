"""What :mod:`tools.bench.tls` is for TLS, for connections without it: the same calls on the bare descriptor.

So one client (:mod:`tools.bench.client`) measures an application with its proxy and without.
"""

from __future__ import annotations

import os
from typing import Any

from OpenSSL import SSL

from tools.bench.tls import SYSCALL, WANT_READ, WANT_WRITE, ZERO_RETURN

_ffi: Any = SSL._ffi  # type: ignore[attr-defined]


class _Connection:
    """A descriptor and why the last call failed."""

    __slots__ = ("error", "fd")

    def __init__(self) -> None:
        self.fd = -1
        self.error = 0


class ClientContext:
    """Nothing to agree on; `.raw` is what `new_connection` takes."""

    raw = None


def new_connection(_raw: None) -> _Connection:
    """Return a connection that has no descriptor yet."""
    return _Connection()


def set_descriptor(connection: _Connection, fd: int) -> None:
    """Give it its socket."""
    connection.fd = fd


def set_client(_connection: _Connection) -> None:
    """Do nothing: both ends are alike."""


def set_server_name(_connection: _Connection, _name: bytes) -> None:
    """Do nothing: nobody is told a name."""


def handshake(_connection: _Connection) -> int:
    """Return 1, done. A connection that was refused shows with the first write."""
    return 1


def _failed(connection: _Connection, wanted: int, error: OSError) -> int:
    connection.error = wanted if isinstance(error, BlockingIOError) else SYSCALL
    return -1


def read(connection: _Connection, address: Any, size: int) -> int:
    """Read at most `size` bytes to a C address; return how many, or 0 or -1 when `get_error` has to say why."""
    try:
        got = os.readv(connection.fd, (_ffi.buffer(address, size),))
    except OSError as error:
        return _failed(connection, WANT_READ, error)
    if not got:
        connection.error = ZERO_RETURN
    return got


def write(connection: _Connection, address: Any, size: int) -> int:
    """Write at most `size` bytes from a C address; as `read` in all else."""
    try:
        return os.write(connection.fd, _ffi.buffer(address, size))
    except OSError as error:
        return _failed(connection, WANT_WRITE, error)


def get_error(connection: _Connection, _result: int) -> int:
    """Return why the last call did not do anything."""
    return connection.error


def failure(error: int) -> str:
    """Return that in a word."""
    return "end of file" if error == ZERO_RETURN else "the connection was reset or refused"


def negotiated(_connection: _Connection) -> str:
    """Return what stands for the parameters of TLS."""
    return "plain"


def session_reused(_connection: _Connection) -> int:
    """Return 0: there are no sessions."""
    return 0


def shutdown(_connection: _Connection) -> None:
    """Do nothing: closing says it."""


def clear_errors() -> None:
    """Do nothing: errors belong to their connection."""


def free_connection(connection: _Connection) -> None:
    """Forget the descriptor, which its owner closes."""
    connection.fd = -1
