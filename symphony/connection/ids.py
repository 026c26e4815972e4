"""Names for connections: in logs, in events and in what upstreams are told.

An id is short and never comes twice: which acceptor has the connection, so that it can be asked; a random part for each
life of an acceptor, so that its successors do not repeat one; and a count within that life.
"""

from __future__ import annotations

import re
from secrets import token_hex

ACCEPTOR_PREFIX = "acceptor-"
"""What the names of all acceptors begin with; ids leave it out."""

_LIFE_BYTES = 6
_ID = re.compile(rf"([0-9A-Za-z.-]+)-[0-9a-f]{{{2 * _LIFE_BYTES}}}-[0-9a-f]{{1,16}}")


class ConnectionIds:
    """One per acceptor's life. Make it after the fork: two processes with one random part would repeat each other."""

    __slots__ = ("_made", "_prefix")

    def __init__(self, acceptor: str) -> None:
        """`acceptor` is the acceptor's name, such as ``acceptor-0``."""
        self._prefix = f"{acceptor.removeprefix(ACCEPTOR_PREFIX)}-{token_hex(_LIFE_BYTES)}"
        self._made = 0

    def next(self) -> str:
        """A new id, such as ``0-9f3a51c07be2-1f``: ASCII, at most 30 characters and the acceptor's number."""
        self._made = made = self._made + 1
        return f"{self._prefix}-{made:x}"


def acceptor_of(connection_id: str) -> str | None:
    """The name of the acceptor that has the connection, or None when `connection_id` is no id at all."""
    found = _ID.fullmatch(connection_id)
    return f"{ACCEPTOR_PREFIX}{found[1]}" if found else None
