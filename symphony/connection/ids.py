"""Names for connections: in logs, in events and in what upstreams are told.

An id is short and never comes twice: a random part for each life of an acceptor, so that neither its siblings nor its
successors repeat one, and a count within that life.
"""

from __future__ import annotations

from secrets import token_hex

_LIFE_BYTES = 6


class ConnectionIds:
    """One per acceptor's life. Make it after the fork: two processes with one random part would repeat each other."""

    __slots__ = ("_made", "_prefix")

    def __init__(self) -> None:
        self._prefix = token_hex(_LIFE_BYTES)
        self._made = 0

    def next(self) -> str:
        """A new id, such as ``9f3a51c07be2-1f``: ASCII, at most 29 characters."""
        self._made = made = self._made + 1
        return f"{self._prefix}-{made:x}"
