"""Reading PROXY headers off a connection, byte-exactly, and making them."""

from __future__ import annotations

import socket
from typing import NamedTuple

from symphony.relay.proxy_protocol import Header, Incomplete, parse
from tests.support.peers import Peer


class Received(NamedTuple):
    """A header as it was sent, and as it reads."""

    raw: bytes
    header: Header


def receive_header(server: Peer, limit: int = 1 << 17) -> Received:
    """Read one header of `server`'s stream, and not a byte more."""
    data = b""
    while isinstance(found := parse(data, limit), Incomplete):
        part = server.receive(found.needed - len(data))
        assert part, f"the stream ends after {data!r}"
        data += part
    assert len(data) == found.size, (data, found)
    return Received(data, found)


def addresses(sock: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """A client's source and destination, as a header must name them."""
    return sock.getsockname()[:2], sock.getpeername()[:2]
