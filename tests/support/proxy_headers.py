"""Reading PROXY headers off a connection, byte-exactly, and making them."""

from __future__ import annotations

import hashlib
import random
import socket
from typing import NamedTuple

from symphony.relay.proxy_protocol import Header, Incomplete, parse
from tests.support.peers import Background, Peer, receive_all, receive_exactly


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


def check_passed_through(client: Peer, server: Peer, sent: bytes, sending: Background) -> Header:
    """See a passthrough connection to its end: the upstream reads one header, and then what is being `sent`, no more.

    As many bytes go back to the client, which then ends its direction. Return the header.
    """
    down = random.Random(len(sent)).randbytes(len(sent))
    header = receive_header(server).header
    assert hashlib.sha256(receive_exactly(server, len(sent))).digest() == hashlib.sha256(sent).digest()
    sending.result()
    answering = Background(lambda: server.send(down))
    assert hashlib.sha256(receive_exactly(client, len(down))).digest() == hashlib.sha256(down).digest()
    answering.result()
    client.end()
    assert receive_all(server) == b""
    return header


def tlv(header: Header, kind: int) -> bytes | None:
    """Return the first value of that type, or None."""
    return next((value for found, value in header.tlvs if found == kind), None)


def addresses(sock: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    """A client's source and destination, as a header must name them."""
    return sock.getsockname()[:2], sock.getpeername()[:2]
