"""How what clients have sent, and how many there are, is shown to people."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without anything that a terminal would act upon: a client chooses its server name freely."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def render_peer(ip: str, port: int) -> str:
    """Write an address as in a URL: IPv6 in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def route_shown(name: str) -> str:
    """A route's name; the default route has none of its own, but for the listeners that it may be on alone."""
    return f"(default){name}" if not name or name.startswith("@") else name


def count(connections: int) -> str:
    """Say so many connections."""
    return f"{connections} connection{'' if connections == 1 else 's'}"
