"""Clients with a source address of their choice in 127.0.0.0/8."""

from __future__ import annotations

import socket

LIMIT_S = 10.0


def connect_from(source: str, port: int, limit_s: float = LIMIT_S) -> socket.socket:
    """A connection to a port of 127.0.0.1 that comes from `source`."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=limit_s, source_address=(source, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def is_turned_away(source: str, port: int) -> bool:
    """Whether a connection on which nothing is sent is reset, be it before ``connect`` has returned."""
    try:
        with connect_from(source, port) as sock:
            while sock.recv(65536):
                pass
    except ConnectionResetError:
        return True
    return False
