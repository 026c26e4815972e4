"""Who a plain HTTP request is for: its Host field, or the authority of its target (RFC 9110 section 7.2)."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from symphony.config.server_name import normalise_client_name

_PORT = re.compile(rb"(?::([0-9]{0,5}))?")
_HIGHEST_PORT = 65535


class Authority(NamedTuple):
    """A host in normal form, as URLs have it: a name, an IPv4 address or an IPv6 address in brackets.

    `name` is what routes are looked up by, None for an address: those have no server name in TLS either. `port` is
    None where none was written.
    """

    host: str
    name: bytes | None
    port: int | None

    def render(self) -> bytes:
        """Write it as a Host field."""
        return (self.host if self.port is None else f"{self.host}:{self.port}").encode("ascii")


def parse_authority(text: bytes) -> Authority | None:
    """Read ``host[:port]``; None for anything else, user information and IPv6 zones included.

    Nothing that this returns can end a header line or a URL's host: names consist of letters, digits, ``-``, ``_`` and
    dots, addresses are rendered anew.
    """
    if text.startswith(b"["):
        address, closed, rest = text[1:].partition(b"]")
        host = _ipv6(address) if closed else None
        name = None
    else:
        written, colon, port_text = text.partition(b":")
        rest = colon + port_text
        host = normalise_client_name(written)
        name = None if host is None or _is_ipv4(host) else host.encode("ascii")
    port = _PORT.fullmatch(rest)
    if host is None or port is None:
        return None
    number = int(port[1]) if port[1] else None
    if number is not None and not 0 < number <= _HIGHEST_PORT:
        return None
    return Authority(host, name, number)


def _ipv6(text: bytes) -> str | None:
    if b"%" in text:
        return None  # a zone means something on one machine only (RFC 6874)
    try:
        return f"[{ipaddress.IPv6Address(text.decode('ascii'))}]"
    except ValueError:
        return None


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
